"""What is known of one partition in this process: its ends, and a window of its records.

Pure: no socket, no clock. The window is one unbroken run of records; it grows at its end by what this process appended
itself and by what was fetched, and is let go at its beginning when it grows too large. Offsets of a partition have no
gaps, so an append whose first offset is the window's end continues it, and any other leaves a gap that must be fetched.
"""

import asyncio
from bisect import bisect_left
from collections.abc import Callable, Sequence
from operator import attrgetter

from discovery.errors import HitherError
from services.ports.log import Record

_MOST_WINDOW_BYTES = 1024 * 1024
_MOST_WINDOW_RECORDS = 4_096
_RECORD_COST_BYTES = 100
"""Memory of a record beside its value."""
_offset = attrgetter("offset")


class Tail:
    """One partition. All its records of [window_from, next_offset) are in the window.

    `following`: its end is being fetched for somebody. `confirmed`: and a broker has answered that this is all, a moment ago.
    `touched_s`: when it was last asked for. `failing_since_s`: since when no broker could be asked.
    """

    __slots__ = (
        "_bytes",
        "_records",
        "_waiters",
        "confirmed",
        "end_offset",
        "failing_since_s",
        "first_offset",
        "following",
        "next_offset",
        "partition",
        "topic",
        "touched_s",
        "window_from",
    )

    def __init__(self, topic: str, partition: int) -> None:
        self.topic = topic
        self.partition = partition
        self.first_offset = 0
        self.end_offset = 0
        self.window_from = 0
        self.next_offset = 0
        self.following = False
        self.confirmed = False
        self.touched_s = 0.0
        self.failing_since_s: float | None = None
        self._records: list[Record] = []
        self._bytes = 0
        self._waiters: dict[asyncio.Future[None], int] = {}

    @property
    def size_bytes(self) -> int:
        """What the window takes of memory, about."""
        return self._bytes

    @property
    def awaited(self) -> bool:
        """Whether somebody waits for its records."""
        return bool(self._waiters)

    def has_from(self, offset: int) -> bool:
        """Whether a durable record at or after the offset is known."""
        return max(offset, self.first_offset) < self.end_offset

    def read(self, offset: int, limit: int) -> Sequence[Record] | None:
        """What the window has from the offset on; nothing, if the end is followed and there is no more; None: ask the broker."""
        offset = max(offset, self.first_offset)
        if offset < self.window_from:
            return None
        if offset >= self.next_offset:
            return [] if self.confirmed and self.next_offset >= self.end_offset else None
        start = bisect_left(self._records, offset, key=_offset)
        return self._records[start : start + limit]

    def appended(self, base_offset: int, values: Sequence[bytes]) -> None:
        """Takes what this process appended, once it is durable."""
        if self.following and base_offset == self.next_offset:
            self.extend([Record(base_offset + n, value) for n, value in enumerate(values)], base_offset + len(values))
        else:
            self.learn_ends(self.first_offset, base_offset + len(values))

    def extend(self, records: Sequence[Record], end_offset: int) -> None:
        """The records that continue the window, and the end of the partition as of then."""
        if records:
            self._records += records
            self._bytes += sum(len(record.value) for record in records) + _RECORD_COST_BYTES * len(records)
            self.next_offset = records[-1].offset + 1
            self._shrink()
        self.learn_ends(self.first_offset, max(end_offset, self.next_offset))

    def replace(self, records: Sequence[Record]) -> None:
        """Another run of records, for a reader that is not at the end. Its later part is left out if it is too large."""
        self.move_to(records[0].offset if records else self.next_offset)
        kept = 0
        for record in records:
            self._bytes += len(record.value) + _RECORD_COST_BYTES
            if self._bytes > _MOST_WINDOW_BYTES:
                break
            kept += 1
        self._records = list(records[:kept])
        self._bytes = sum(len(record.value) + _RECORD_COST_BYTES for record in self._records)
        if self._records:
            self.next_offset = self._records[-1].offset + 1

    def move_to(self, offset: int) -> None:
        """Empties the window and has it begin at the offset."""
        self._records = []
        self._bytes = 0
        self.window_from = self.next_offset = offset
        self.confirmed = False

    def forget(self) -> None:
        """Empties the window and keeps its place."""
        self._records = []
        self._bytes = 0
        self.window_from = self.next_offset

    def follow_from(self, offset: int) -> None:
        """Has the window stand at the partition's end; at the offset, if no end is known."""
        if not self.following and (self.next_offset < self.end_offset or self.end_offset == 0):
            self.move_to(self.end_offset or offset)
        self.following = True

    def confirm(self) -> None:
        """A broker has answered: what it has is in the window, or the end says that there is more."""
        self.confirmed = self.following
        self.failing_since_s = None

    def learn_ends(self, first_offset: int, end_offset: int) -> None:
        """The broker's word on the oldest kept offset and the end; wakes who waits for what is there now."""
        self.first_offset = max(self.first_offset, first_offset)
        if end_offset <= self.end_offset:
            return
        self.end_offset = end_offset
        for future, offset in list(self._waiters.items()):
            if self.has_from(offset) and not future.done():
                future.set_result(None)

    def cut(self, end_offset: int) -> None:
        """The broker has nothing at or after this: should more have been known here, it was lost with its replicas."""
        if self.end_offset > end_offset:
            self.end_offset = end_offset
            self.move_to(end_offset)

    async def wait(self, offset: int) -> None:
        """Returns when a durable record at or after the offset is known. Raises what `fail` is called with."""
        while not self.has_from(offset):
            future = asyncio.get_running_loop().create_future()
            self._waiters[future] = offset
            try:
                await future
            finally:
                del self._waiters[future]

    def fail(self, make_error: Callable[[], HitherError]) -> None:
        """Ends all waits, each with an error of its own."""
        for future in list(self._waiters):
            if not future.done():
                future.set_exception(make_error())

    def _shrink(self) -> None:
        if self._bytes <= _MOST_WINDOW_BYTES and len(self._records) <= _MOST_WINDOW_RECORDS:
            return
        # Half of it at once: the rest of a list moves down when its beginning goes.
        drop = 0
        while self._bytes > _MOST_WINDOW_BYTES // 2 or len(self._records) - drop > _MOST_WINDOW_RECORDS // 2:
            self._bytes -= len(self._records[drop].value) + _RECORD_COST_BYTES
            drop += 1
            if drop == len(self._records):
                break
        del self._records[:drop]
        self.window_from = self._records[0].offset if self._records else self.next_offset
