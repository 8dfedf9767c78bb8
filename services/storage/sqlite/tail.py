"""The tail of a partition in memory: what was just committed, and who waits for more.

A projection that keeps up reads what it needs from here and never touches the disk. Nothing enters before it is durable.
"""

import asyncio
from collections.abc import Sequence
from copy import copy

from discovery.errors import HitherError
from services.ports.log import Record

_MOST_RECORDS = 2_048
_MOST_BYTES = 1024 * 1024


class Tail:
    """The newest durable records of one partition, at most 2,048 and 1 MiB of them, and how far the partition goes.

    `next_offset` is one more than the last durable offset; records before `first_offset` have been trimmed.
    """

    __slots__ = ("_bytes", "_skip", "_values", "_waiting", "first_offset", "next_offset", "partition_id")

    def __init__(self, partition_id: int = 0, first_offset: int = 0, next_offset: int = 0) -> None:
        self.partition_id = partition_id
        self.first_offset = first_offset
        self.next_offset = next_offset
        self._values: list[bytes] = []
        self._skip = 0  # values at the front that have been let go of and not yet cut off
        self._bytes = 0
        self._waiting: dict[asyncio.Future[None], int] = {}

    def extend(self, values: Sequence[bytes]) -> None:
        """These follow, and are durable: who waits for them goes on."""
        self._values.extend(values)
        self._bytes += sum(map(len, values))
        self.next_offset += len(values)
        while len(self._values) - self._skip > _MOST_RECORDS or self._bytes > _MOST_BYTES:
            self._bytes -= len(self._values[self._skip])
            self._values[self._skip] = b""
            self._skip += 1
        if self._skip > _MOST_RECORDS or self._skip == len(self._values):
            del self._values[: self._skip]
            self._skip = 0
        for waiting, offset in self._waiting.items():
            if self.has_from(offset) and not waiting.done():
                waiting.set_result(None)

    def has_from(self, offset: int) -> bool:
        """Whether there is a durable record at the offset or after it."""
        return max(offset, self.first_offset) < self.next_offset

    def holds(self, offset: int) -> bool:
        """Whether all durable records from the offset on are in memory."""
        return offset >= self.next_offset - (len(self._values) - self._skip)

    def read(self, offset: int, limit: int) -> list[Record]:
        """Records from the offset on, which must be held."""
        start = len(self._values) - (self.next_offset - offset)
        return [Record(offset + n, value) for n, value in enumerate(self._values[start : start + limit])]

    async def wait(self, offset: int) -> None:
        """Returns when there is a record at the offset or after it. Raises what `end` is given."""
        if self.has_from(offset):
            return
        waiting: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[waiting] = offset
        try:
            await waiting
        finally:
            del self._waiting[waiting]

    def end(self, error: HitherError) -> None:
        """Nothing will follow: who waits gets the error."""
        for waiting in self._waiting:
            if not waiting.done():
                waiting.set_exception(copy(error))
