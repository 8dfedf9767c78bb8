"""The image has what a running Hither needs, pinned by hash, and nothing that only builds or tests it."""

import re
import tomllib
from importlib.metadata import requires

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from deploy.runtime_requirements import runtime_part
from tests.support.deployment import DEPLOY

ROOT = DEPLOY.parent
LOCK = (ROOT / "requirements.lock").read_text()
ENTRY = re.compile(
    r"^([A-Za-z0-9._-]+)(?:\[.*\])?==\S+ \\\n(?:    --hash=sha256:[0-9a-f]{64}(?: \\)?\n)+(?: +#.*\n)*", re.MULTILINE
)


def named(lines: list[str]) -> set[str]:
    return {canonicalize_name(Requirement(line).name) for line in lines}


def test_the_image_gets_all_that_hither_needs_and_none_of_what_develops_it() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    part = runtime_part(LOCK)
    installed = set(ENTRY.findall(part))
    assert "".join(found[0] for found in ENTRY.finditer(part)) == part
    assert named(project["dependencies"]) <= installed
    assert named(requires("grpcio-status") or []) <= installed
    assert installed.isdisjoint(named(project["optional-dependencies"]["dev"]))


def test_a_lock_that_lacks_something_is_refused() -> None:
    with pytest.raises(KeyError, match="grpcio"):
        runtime_part(re.sub(r"^grpcio==", "other==", LOCK, flags=re.MULTILINE))


def test_what_the_wheel_is_built_from_is_let_into_the_build() -> None:
    let_in = set(re.findall(r"^!(.+)$", (DEPLOY / "Dockerfile.dockerignore").read_text(), re.MULTILINE))
    build = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]
    packages = {package.rpartition("/hither_client")[0] or package for package in build["targets"]["wheel"]["packages"]}
    made = {package for package in packages if package.startswith("gen/")}
    assert packages - made | {"proto", build["hooks"]["custom"]["path"], "deploy/runtime_requirements.py"} <= let_in
    assert all((ROOT / path).exists() for path in let_in)
