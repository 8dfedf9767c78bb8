"""Deadlines for many short calls at little cost.

A timer for each call costs more than the rest of a local call together. Here calls whose deadlines fall into the same 10 ms
share one timer, so that under load a deadline costs a dictionary look-up; it strikes at most 10 ms late.
"""

import asyncio
import time
from typing import Final

_SLOTS_PER_S: Final = 100


class Deadline:
    """Cancels a task when its time comes, unless it was stopped before."""

    __slots__ = ("_cancelling", "_slot", "_struck", "_task")

    def __init__(self, task: "asyncio.Task[object]", slot: "set[Deadline]") -> None:
        self._struck = False
        self._task = task
        self._cancelling = task.cancelling()
        self._slot = slot
        slot.add(self)

    def expire(self) -> None:
        """The time has come."""
        self._struck = True
        self._task.cancel()

    def stop(self) -> bool:
        """Ends it; called by the task itself. True: the task was cancelled by this deadline and by nobody else. False ever
        after.
        """
        self._slot.discard(self)
        if not self._struck:
            return False
        self._struck = False
        return self._task.uncancel() <= self._cancelling


class Deadlines:
    """The deadlines of one event loop."""

    def __init__(self) -> None:
        self._slots: dict[int, set[Deadline]] = {}

    def start(self, deadline_s: float) -> Deadline:
        """A deadline for the running task, on time.monotonic()'s scale."""
        task = asyncio.current_task()
        assert task is not None
        number = int(deadline_s * _SLOTS_PER_S) + 1
        slot = self._slots.get(number)
        if slot is None:
            slot = self._slots[number] = set()
            delay_s = number / _SLOTS_PER_S - time.monotonic()
            asyncio.get_running_loop().call_later(delay_s, self._strike, number)
        return Deadline(task, slot)

    def _strike(self, number: int) -> None:
        for deadline in self._slots.pop(number):
            deadline.expire()
