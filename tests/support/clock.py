"""Clocks that tests own."""

from discovery.clock import SystemClock


class ManualClock:
    """Stands still until told; wall and monotonic time move together."""

    def __init__(self, now_ms: int = 1_790_000_000_000) -> None:
        self._start_ms = now_ms
        self._elapsed_s = 0.0

    def now_ms(self) -> int:
        """See discovery.clock.Clock."""
        return self._start_ms + round(self._elapsed_s * 1000)

    def monotonic_s(self) -> float:
        """See discovery.clock.Clock."""
        return self._elapsed_s

    def advance(self, seconds: float) -> None:
        """Moves time forward."""
        self._elapsed_s += seconds

    def wake_after(self, seconds: float) -> None:
        """Moves the wall clock alone forward, as a machine that sleeps does."""
        self._start_ms += round(seconds * 1000)


class ShiftedClock:
    """The machine's clocks, as far ahead as it was told: for servers that live through days in a moment."""

    def __init__(self) -> None:
        self._machine = SystemClock()
        self._ahead_s = 0.0

    def now_ms(self) -> int:
        """See discovery.clock.Clock."""
        return self._machine.now_ms() + round(self._ahead_s * 1000)

    def monotonic_s(self) -> float:
        """See discovery.clock.Clock."""
        return self._machine.monotonic_s() + self._ahead_s

    def advance(self, seconds: float) -> None:
        """Moves time forward."""
        self._ahead_s += seconds
