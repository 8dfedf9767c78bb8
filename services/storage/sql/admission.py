"""Who may begin a transaction: so many at a time, and nobody once the store is closed."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from discovery.errors import ResourceExhausted, Unavailable


class Admission:
    """Belongs to a store; `most` counts transactions that run or wait to."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._under_way = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._closed = False

    @contextmanager
    def one(self) -> Iterator[None]:
        """Lets one in for the time of the block. Raises ResourceExhausted, or Unavailable after `close`."""
        if self._closed:
            raise Unavailable("The store is closed.")
        if self._under_way >= self._most:
            raise ResourceExhausted("Too many transactions are waiting.", retry_after_s=1.0)
        self._under_way += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._under_way -= 1
            if self._under_way == 0:
                self._idle.set()

    async def close(self) -> None:
        """Lets nobody in any more and returns when all are out. May be called twice."""
        self._closed = True
        await self._idle.wait()
