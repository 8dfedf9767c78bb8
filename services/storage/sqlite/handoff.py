"""Lets a database's threads have their turn at the interpreter while the event loop is busy.

A loop that releases the interpreter's lock often and shortly, as one does that handles many sockets, starves threads: each
release wakes the waiting thread, the loop has taken the lock again before that thread runs, and its wait begins anew.
A commit then takes up to some hundreds of milliseconds. Measured with 16 appenders beside a saturated uvloop: p99 50 to
150 ms without this, 5 to 9 ms with it; a shorter switch interval of the interpreter alone does not help.
"""

import time
from collections.abc import Callable
from typing import Protocol

_LATE_S = 0.002
_PAUSE_S = 0.00002


class Timer(Protocol):
    """What asyncio.TimerHandle can do, as far as it is needed here."""

    def cancel(self) -> None:
        """Makes sure that it does not fire any more."""


class Timers(Protocol):
    """What asyncio.AbstractEventLoop can do, as far as it is needed here."""

    def call_later(self, delay: float, callback: Callable[[], None], /) -> Timer:
        """Calls back after so many seconds."""


class Handoff:
    """Pauses the loop for some 0.1 ms, every 2 ms at most, for as long as something of the thread's is overdue.

    A thread that answers within 2 ms, as it does beside a loop with time to spare, costs a timer and no pause.
    """

    def __init__(self, loop: Timers) -> None:
        self._loop = loop
        self._expected = 0
        self._timer: Timer | None = None

    def expect(self) -> None:
        """The thread has something to do and will answer."""
        self._expected += 1
        if self._timer is None:
            self._arm()

    def answered(self, count: int) -> None:
        """The thread has answered so many times; the clock starts anew for what is left."""
        self._expected -= count
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._expected:
            self._arm()

    def _arm(self) -> None:
        self._timer = self._loop.call_later(_LATE_S, self._pause)

    def _pause(self) -> None:
        time.sleep(_PAUSE_S)
        self._arm()
