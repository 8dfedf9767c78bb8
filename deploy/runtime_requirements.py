"""Prints the part of requirements.lock that a running Hither needs, hashes and all: what tests and builds need stays out of the
image. Run where the whole lock and Hither are installed, in the root of the project.
"""

import re
import sys
from collections.abc import Iterator, Mapping
from importlib.metadata import distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

_ENTRY = re.compile(r"^(?P<name>[A-Za-z0-9._-]+)(?:\[[^]]*\])?==.*(?:\n(?: |\t).*)*", re.MULTILINE)


def runtime_part(lock: str, project: str = "hither") -> str:
    """The entries of `lock` for what the project needs, directly or not, without its extras. Raises KeyError for one that the
    lock does not have.
    """
    entries: Mapping[str, str] = {canonicalize_name(found["name"]): found[0] for found in _ENTRY.finditer(lock)}
    return "".join(f"{entries[name].rstrip()}\n" for name in sorted(_needed(project)))


def _needed(project: str) -> set[str]:
    seen: set[tuple[str, str]] = set()
    left = [(project, "")]
    while left:
        name, extra = left.pop()
        if (name, extra) in seen:
            continue
        seen.add((name, extra))
        left += _needed_by(name, extra)
    return {name for name, _ in seen} - {project}


def _needed_by(name: str, extra: str) -> Iterator[tuple[str, str]]:
    for line in distribution(name).requires or ():
        wanted = Requirement(line)
        if wanted.marker is None or wanted.marker.evaluate({"extra": extra}):
            needed = canonicalize_name(wanted.name)
            yield needed, ""
            yield from ((needed, each) for each in wanted.extras)


if __name__ == "__main__":
    sys.stdout.write(runtime_part(Path("requirements.lock").read_text()))
