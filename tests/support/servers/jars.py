"""Jars of servers that run on Java: resolved once by Maven from a pinned pom, into a cache of the user's outside the repository."""

import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from tests.support.servers.process import ServerMissing

_COPY = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies"
_RESOLVE_S = 600.0


def resolve_jars(name: str, pom: Path) -> Path:
    """The folder of the jars that the pom names; the first call of a machine has Maven fetch them. Raises ServerMissing."""
    found("java")
    digest = hashlib.sha256(pom.read_bytes()).hexdigest()[:12]
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "hither" / f"{name}-{digest}"
    if cache.is_dir():
        return cache
    cache.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(dir=cache.parent, prefix=f"{cache.name}-"))
    try:
        _run_maven(name, pom, unfinished)
        # Whole or not there: two runs may resolve at once, and either may be interrupted.
        unfinished.rename(cache)
    except OSError:
        if not cache.is_dir():
            raise
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return cache


def found(program: str) -> str:
    """Where the program is. Raises ServerMissing."""
    path = shutil.which(program)
    if path is None:
        raise ServerMissing(f"{program} is not installed")
    return path


def _run_maven(name: str, pom: Path, folder: Path) -> None:
    command = [found("mvn"), "--quiet", "--batch-mode", "--file", str(pom), _COPY]
    options = [f"-DoutputDirectory={folder}", "-DincludeScope=runtime"]
    try:
        done = subprocess.run([*command, *options], capture_output=True, text=True, timeout=_RESOLVE_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise ServerMissing(f"{name}: Maven did not end within {_RESOLVE_S} s.") from error
    if done.returncode != 0:
        raise ServerMissing(f"{name}: Maven could not get its jars: {done.stdout[-2000:]}{done.stderr[-2000:]}")
