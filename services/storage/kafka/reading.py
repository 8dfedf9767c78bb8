"""Reads: from a partition's window where they can be, from its leader otherwise; and waits, which have the end followed.

A wait has a Follower keep the window at the partition's end until nobody has asked for a while. What this process appends
goes into the window when it is acknowledged, so its own readers need not fetch it.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Collection, Coroutine, Sequence
from typing import Any, NoReturn

from aiokafka.protocol.offset import OffsetRequest

from discovery.errors import HitherError, Unavailable
from services.ports.log import Record
from services.storage.kafka.cluster import Cluster, Refused, Traffic
from services.storage.kafka.fetching import OFFSET_OUT_OF_RANGE, Session, fetch_request, read_records
from services.storage.kafka.following import Follower
from services.storage.kafka.tail import Tail

_FETCH_BYTES = 1024 * 1024
_MOST_READ_BYTES = 8 * 1024 * 1024
_MOST_WINDOWS_BYTES = 128 * 1024 * 1024
_COUNT_WINDOWS_EVERY = 64
_MOST_ATTEMPTS = 3
_EARLIEST, _LATEST = -2, -1


class Reading:
    """All reads and waits of a log. Topics are Kafka's names."""

    def __init__(
        self,
        cluster: Cluster,
        start: Callable[[Coroutine[None, None, NoReturn], str], None],
        own_producers: Collection[int],
    ) -> None:
        self._cluster = cluster
        self._start = start
        self._own_producers = own_producers
        # The least recently used window first.
        self._tails: OrderedDict[tuple[str, int], Tail] = OrderedDict()
        self._followers: dict[tuple[str, int | None], Follower] = {}
        self._growths = 0
        # A partition is in it once at most: nobody follows it before it is taken out.
        self._astray: asyncio.Queue[Tail] = asyncio.Queue()
        start(self._find_astray(), "find ends")

    async def read(self, topic: str, partition: int, offset: int, limit: int) -> Sequence[Record]:
        """See Log.read."""
        if limit <= 0:
            return []
        tail = self._tail(topic, partition)
        found = tail.read(offset, limit)
        if found is not None:
            return found
        records = await self._fetch(tail, max(offset, 0))
        if tail.following and tail.window_from <= offset <= tail.next_offset:
            # The window may have grown meanwhile.
            tail.extend([record for record in records if record.offset >= tail.next_offset], tail.end_offset)
        elif records and not tail.awaited:
            # A reader on its way to the end: what it will ask for next is kept, instead of an end that nobody awaits.
            tail.following = False
            tail.replace(records)
            self._bound_windows()
        return records[:limit]

    async def wait(self, topic: str, partition: int, offset: int) -> None:
        """See Log.wait. Raises Unavailable when no broker could be asked for the cluster's deadline."""
        tail = self._tail(topic, partition)
        if tail.has_from(offset):
            return
        if not tail.following:
            tail.follow_from(max(offset, 0))
            self._follow(tail)
        await tail.wait(offset)

    def appended(self, topic: str, partition: int, base_offset: int, values: Sequence[bytes]) -> None:
        """Takes what this process appended, once it is durable."""
        tail = self._tails.get((topic, partition))
        if tail is not None:
            tail.appended(base_offset, values)
            self._bound_windows()

    async def learn_ends(self, tail: Tail) -> tuple[int, int]:
        """Asks for the oldest kept offset and the end."""
        first, end = [await self._offset(tail, which) for which in (_EARLIEST, _LATEST)]
        tail.learn_ends(first, end)
        return first, end

    async def end(self, topic: str, partition: int) -> int:
        """The offset that the next append will get, or a later one."""
        return await self._offset(self._tail(topic, partition), _LATEST)

    def fail(self, make_error: Callable[[], HitherError]) -> None:
        """Ends all waits."""
        for tail in self._tails.values():
            tail.fail(make_error)

    def _follow(self, tail: Tail) -> None:
        key = tail.topic, self._cluster.leader(tail.topic, tail.partition)
        follower = self._followers.get(key)
        if follower is None:
            follower = self._followers[key] = Follower(
                *key,
                self._cluster,
                self._own_producers,
                lost=self._lost,
                out_of_range=self._astray.put_nowait,
                grown=self._bound_windows,
            )
            self._start(follower.run(), f"follow {key}")
        follower.follow(tail)

    def _lost(self, tail: Tail) -> None:
        """Has it followed at another broker; when there has been none for too long, those who wait are told."""
        now_s = asyncio.get_running_loop().time()
        if tail.failing_since_s is None:
            tail.failing_since_s = now_s
        if now_s - tail.failing_since_s > self._cluster.deadline_s:
            tail.following = False
            tail.failing_since_s = None
            tail.fail(lambda: Unavailable("Kafka cannot be reached.", reason="ENGINE_DOWN"))
        else:
            self._follow(tail)

    async def _find_astray(self) -> NoReturn:
        """Finds the ends of partitions that were followed from where they have nothing."""
        while True:
            tail = await self._astray.get()
            try:
                first, end = await self.learn_ends(tail)
            except (Unavailable, Refused):
                self._lost(tail)
                continue
            tail.cut(end)
            tail.move_to(first if tail.next_offset < first else end)
            self._follow(tail)

    def _tail(self, topic: str, partition: int) -> Tail:
        key = topic, partition
        tail = self._tails.get(key)
        if tail is None:
            tail = self._tails[key] = Tail(topic, partition)
        tail.touched_s = asyncio.get_running_loop().time()
        self._tails.move_to_end(key)
        return tail

    async def _fetch(self, tail: Tail, offset: int) -> list[Record]:
        """Records from the offset on, or from the oldest that is kept."""
        for _ in range(_MOST_ATTEMPTS):
            try:
                return await self._fetch_at(tail, offset)
            except Refused as error:
                if error.code != OFFSET_OUT_OF_RANGE:
                    raise
            first, end = await self.learn_ends(tail)
            if offset >= end or first >= end:
                tail.cut(end)
                return []
            offset = max(offset, first)
        raise Unavailable("The partition is trimmed faster than it is read.", reason="ENGINE_DOWN")

    async def _fetch_at(self, tail: Tail, offset: int) -> list[Record]:
        def read(response: Any) -> tuple[int, list[Record]]:
            ((_, ((_, code, end_offset, _, first_offset, _, _, data),)),) = response.topics
            if code:
                return code, []
            records, _ = read_records(data, offset, ())
            tail.learn_ends(first_offset, max(end_offset, records[-1].offset + 1 if records else 0))
            return code, records

        request = fetch_request(
            Session(), {tail.topic: [(tail.partition, offset)]}, {}, 0, _FETCH_BYTES, _MOST_READ_BYTES
        )
        return await self._cluster.ask_leader(tail.topic, tail.partition, request, Traffic.READ, read)

    async def _offset(self, tail: Tail, which: int) -> int:
        def read(response: Any) -> tuple[int, int]:
            ((_, ((_, code, _, offset),)),) = response.topics
            return code, offset

        request = OffsetRequest(-1, 0, [(tail.topic, [(tail.partition, which)])])
        return await self._cluster.ask_leader(tail.topic, tail.partition, request, Traffic.READ, read)

    def _bound_windows(self) -> None:
        """Lets go of the windows that were not used for longest. Counts now and then only."""
        self._growths += 1
        if self._growths % _COUNT_WINDOWS_EVERY:
            return
        size = sum(tail.size_bytes for tail in self._tails.values())
        for tail in self._tails.values():
            if size <= _MOST_WINDOWS_BYTES:
                return
            size -= tail.size_bytes
            tail.forget()
