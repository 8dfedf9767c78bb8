"""What one message, connection or update costs where. Measured figures come from `costs.json`; the rest is assumed, and says so."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FILE = Path(__file__).parent / "costs.json"


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


ASSUMED = (
    Cost("update", "location", 100.0, source="assumed: the budget of an update with 400 friends; nobody has measured the service yet"),
    Cost("update", "edge", 40.0, source="assumed: the budget of a frame that is decoded and routed"),
)  # fmt: skip
"""What could not be measured yet."""


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


def load_costs(file: Path = FILE) -> Costs:
    """The measured costs and the assumed ones."""
    content: dict[str, Any] = json.loads(file.read_text())
    measured = [Cost(**cost) for cost in content["costs"]]
    return Costs([*measured, *ASSUMED], f"{content['date']} at {content['commit']} on {content['machine']}")
