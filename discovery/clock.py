"""Time, as a value that tests own."""

import time
from typing import Protocol


class Clock(Protocol):
    """Tells the time; never waits."""

    def now_ms(self) -> int:
        """Wall clock: milliseconds since 1970-01-01T00:00:00Z. May jump."""

    def monotonic_s(self) -> float:
        """Seconds since some moment in the past. Never goes back; comparable within one process only."""


class SystemClock:
    """The machine's clocks."""

    def now_ms(self) -> int:
        """See Clock."""
        return time.time_ns() // 1_000_000

    def monotonic_s(self) -> float:
        """See Clock."""
        return time.monotonic()
