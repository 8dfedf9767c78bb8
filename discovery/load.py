"""How busy a process is, as it tells the registry."""

import time
from collections.abc import Callable
from typing import Final

EVERY_S: Final = 15.0
"""Time between two looks, in seconds."""
STEP: Final = 0.1
"""A change of at least this much is told; each telling is news for every process of the cluster."""


class Load:
    """Shares of capacity, 0 to 1. A process's capacity is one core, since it has one event loop."""

    def __init__(
        self, cpu_s: Callable[[], float] = time.process_time, now_s: Callable[[], float] = time.monotonic
    ) -> None:
        self._cpu_s = cpu_s
        self._now_s = now_s
        self._cpu_before_s = cpu_s()
        self._before_s = now_s()
        self.told = 0.0
        """What was told last."""

    def look(self, calls: float) -> float | None:
        """The load since the last look: the share of a core, or of the calls that may be served at once (`calls`), whichever
        is greater. None if it is too near to what was told last to be news.
        """
        cpu_s, now_s = self._cpu_s(), self._now_s()
        busy = (cpu_s - self._cpu_before_s) / max(now_s - self._before_s, 1e-9)
        self._cpu_before_s, self._before_s = cpu_s, now_s
        load = min(1.0, max(busy, calls))
        if abs(load - self.told) < STEP:
            return None
        self.told = load
        return load
