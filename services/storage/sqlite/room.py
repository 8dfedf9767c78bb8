"""Room: how much may be under way at once, and how long one waits to be let in."""

import asyncio
from collections import deque
from copy import copy

from discovery.errors import HitherError, Unavailable


class Room:
    """Lets in what fits, first come first served. Belongs to one event loop.

    `capacity` is in the caller's unit (bytes, calls); what is heavier than all of it comes in alone. Who finds no
    room waits `patience_s` seconds at most, then gets Unavailable (ENGINE_DOWN: nothing was done); of those who wait
    there are `most_waiting` at most.
    """

    def __init__(self, capacity: int, patience_s: float = 5.0, most_waiting: int = 10_000) -> None:
        self._capacity = capacity
        self._patience_s = patience_s
        self._most_waiting = most_waiting
        self._taken = 0
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    def try_enter(self, weight: int) -> bool:
        """Enters if there is room and nobody waits; tells whether it did."""
        if self._waiting or not self._fits(weight):
            return False
        self._taken += weight
        return True

    async def enter(self, weight: int) -> None:
        """Enters when there is room. Who entered must leave with the same weight."""
        if self.try_enter(weight):
            return
        if len(self._waiting) >= self._most_waiting:
            raise _no_room()
        admitted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((weight, admitted))
        try:
            await asyncio.wait((admitted,), timeout=self._patience_s)
        except asyncio.CancelledError:
            self._give_up(weight, admitted)
            raise
        if not admitted.done():
            self._give_up(weight, admitted)
            raise _no_room()
        admitted.result()

    def leave(self, weight: int) -> None:
        """Makes room and lets in who fits now."""
        self._taken -= weight
        self._admit()

    def refuse_waiting(self, error: HitherError) -> None:
        """Sends away who waits, with the error."""
        for _, admitted in self._waiting:
            if not admitted.done():
                admitted.set_exception(copy(error))
        self._waiting.clear()

    def _fits(self, weight: int) -> bool:
        return self._taken == 0 or self._taken + weight <= self._capacity

    def _admit(self) -> None:
        while self._waiting:
            weight, admitted = self._waiting[0]
            if admitted.done():  # gave up
                self._waiting.popleft()
                continue
            if not self._fits(weight):
                return
            self._waiting.popleft()
            self._taken += weight
            admitted.set_result(None)

    def _give_up(self, weight: int, admitted: asyncio.Future[None]) -> None:
        if not admitted.done():
            admitted.cancel()
            self._admit()
        elif not admitted.cancelled() and admitted.exception() is None:
            self.leave(weight)


def _no_room() -> Unavailable:
    return Unavailable("The database does not keep up.", reason="ENGINE_DOWN", retry_after_s=1.0)
