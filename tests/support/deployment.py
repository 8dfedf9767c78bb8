"""What the files of deploy/ say about processes of Hither: their environments and commands, as Hither itself takes them."""

import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click
import yaml

from services.cli import main
from services.config import Config, load_config
from tests.support.servers.process import ServerMissing

DEPLOY = Path(__file__).parents[2] / "deploy"
EMBEDDED = "embedded"
_VARIABLE = re.compile(r"\$\{\w+:-([^}]*)\}")


def configured(environment: Mapping[str, str]) -> Config:
    """The configuration that a process has in this environment. Raises ConfigError for a variable that none knows."""
    return load_config(None, environment, {})


def parsed(arguments: Sequence[str]) -> click.Context:
    """A command as the command line takes it. Raises UsageError for one that it refuses."""
    command = main.commands[arguments[0]]
    return command.make_context(arguments[0], list(arguments[1:]))


def dialled(config: Config) -> set[str]:
    """HOST:PORT of the registry and of the engines that the configuration names."""
    urls = [config.mesh.registry, *asdict(config.engines).values()]
    return {
        address
        for url in urls
        if "://" in url  # not "embedded", and not in the place of another engine
        for address in urlsplit(url).netloc.rpartition("@")[2].split(",")
    }  # fmt: skip


def rendered(folder: str) -> list[dict[str, Any]]:
    """The manifests of deploy/kubernetes/FOLDER as `kubectl apply -k` sends them. Raises ServerMissing with neither kubectl nor
    kustomize.
    """
    kubectl, kustomize = shutil.which("kubectl"), shutil.which("kustomize")
    if not kubectl and not kustomize:
        raise ServerMissing("neither kubectl nor kustomize is installed")
    shown = subprocess.run(
        [*([kubectl, "kustomize"] if kubectl else [str(kustomize), "build"]), str(DEPLOY / "kubernetes" / folder)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert shown.returncode == 0, shown.stderr
    return list(yaml.safe_load_all(shown.stdout))


def composed(text: str) -> dict[str, Any]:
    """A compose file with its aliases resolved and its variables at their defaults."""
    content: dict[str, Any] = yaml.safe_load(_VARIABLE.sub(r"\1", text))
    return content


def compose_services() -> dict[str, dict[str, Any]]:
    """The services of deploy/compose.yaml, by name."""
    found: dict[str, dict[str, Any]] = composed((DEPLOY / "compose.yaml").read_text())["services"]
    return found


def serving() -> dict[str, dict[str, Any]]:
    """Those that run a service of Hither, or an edge."""
    return {
        name: service
        for name, service in compose_services().items()
        if service["image"].startswith("hither:") and service["command"][0] in ("serve", "edge")
    }
