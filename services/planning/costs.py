"""What one message, connection or update costs where, as `costs.json` and `location_costs.json` say; what is assumed there says so."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FILE = Path(__file__).parent / "costs.json"
"""Written by `python -m bench.costs`."""
LOCATION_FILE = Path(__file__).parent / "location_costs.json"
"""Written by `python -m bench.city`."""


@dataclass(frozen=True, slots=True)
class Cost:
    """One of `what` at `where`: microseconds of CPU, bytes on disk (one copy), bytes of memory. Zero: none that was found."""

    what: str
    where: str
    cpu_us: float = 0.0
    disk_bytes: float = 0.0
    memory_bytes: float = 0.0
    source: str = ""
    """Which benchmark measured it, or "assumed: " and why."""

    @property
    def assumed(self) -> bool:
        """Whether nobody has measured it."""
        return self.source.startswith("assumed")


class Costs:
    """All costs. What is not among them costs nothing."""

    def __init__(self, costs: Iterable[Cost], measured: str = "") -> None:
        self._costs = {(cost.what, cost.where): cost for cost in costs}
        self.measured = measured
        """When and where the measured ones were found."""

    def of(self, what: str, where: str) -> Cost:
        """The cost of one."""
        return self._costs.get((what, where), Cost(what, where))

    def all(self) -> list[Cost]:
        """In the order of the table."""
        return list(self._costs.values())


def load_costs(file: Path = FILE, location_file: Path = LOCATION_FILE) -> Costs:
    """All costs."""
    content: dict[str, Any] = json.loads(file.read_text())
    location: dict[str, Any] = json.loads(location_file.read_text())
    found = [Cost(**cost) for cost in [*content["costs"], *location["costs"]]]
    return Costs(found, f"{content['date']} at {content['commit']} on {content['machine']}")
