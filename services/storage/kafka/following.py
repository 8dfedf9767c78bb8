"""Follows the ends of the partitions of one topic that one broker leads: one long poll at a time, in a fetch session.

A poll is answered as soon as there is a record. When all that came was written by this very process (and stands in the
windows already, or soon will), the next poll waits a little: it would only fetch what is known.
"""

import asyncio
from collections.abc import Callable, Collection, Mapping
from typing import Any, NoReturn

from services.storage.kafka.cluster import BACKOFF_S, FAILURES, Cluster
from services.storage.kafka.fetching import OFFSET_OUT_OF_RANGE, Session, fetch_request, read_records
from services.storage.kafka.tail import Tail

_POLL_MS = 100
"""Also how long a partition that begins to be followed may have to wait for the poll that is under way."""
_PARTITION_BYTES = 256 * 1024
_ANSWER_BYTES = 8 * 1024 * 1024
_SHORTEST_PAUSE_S, _LONGEST_PAUSE_S = 0.005, 0.05
_IDLE_S = 10.0


class Follower:
    """Keeps the windows of followed tails at the ends of their partitions.

    `lost` takes a tail whose partition this broker does not lead any more, or that cannot be asked; `out_of_range` one whose
    next offset the broker does not have. Without a broker (None) it looks for one.
    """

    def __init__(
        self,
        topic: str,
        node: int | None,
        cluster: Cluster,
        own_producers: Collection[int],
        *,
        lost: Callable[[Tail], None],
        out_of_range: Callable[[Tail], None],
        grown: Callable[[], None],
    ) -> None:
        self._topic = topic
        self._node = node
        self._cluster = cluster
        self._own_producers = own_producers
        self._lost = lost
        self._out_of_range = out_of_range
        self._grown = grown
        self._traffic = f"follow {topic}"
        self._tails: dict[int, Tail] = {}
        self._known: dict[int, int] = {}  # the offsets that the broker's session has
        self._session = Session()
        self._session.begin()
        self._news = asyncio.Event()
        self._pause_s = 0.0

    def follow(self, tail: Tail) -> None:
        """Follows it until nobody has read or awaited it for a while."""
        self._tails[tail.partition] = tail
        self._news.set()

    async def run(self) -> NoReturn:
        """Until cancelled."""
        while True:
            self._drop_idle()
            if not self._tails:
                self._news.clear()
                await self._news.wait()
            if self._node is None or not await self._poll(self._node):
                await self._start_again()
            elif self._pause_s:
                await asyncio.sleep(self._pause_s)

    async def _poll(self, node: int) -> bool:
        """One request and its answer; whether there was one."""
        wanted = {partition: tail.next_offset for partition, tail in self._tails.items()}
        changed = [place for place in wanted.items() if self._known.get(place[0]) != place[1]]
        forgotten = [partition for partition in self._known if partition not in wanted]
        request = fetch_request(
            self._session,
            {self._topic: changed} if changed else {},
            {self._topic: forgotten} if forgotten else {},
            _POLL_MS,
            _PARTITION_BYTES,
            _ANSWER_BYTES,
        )
        try:
            response = await self._cluster.send(node, request, self._traffic)
        except FAILURES:
            return False
        if response.error_code:
            # The broker has no such session any more (or cannot answer: the pause is for that).
            self._forget_session()
            self._pause_s = BACKOFF_S
            return True
        self._session.answered(response.session_id)
        self._known = wanted if response.session_id else {}
        if self._take(response, wanted):
            # Most often another broker leads now.
            await self._cluster.refresh()
            self._pause_s = BACKOFF_S
        return True

    def _take(self, response: Any, wanted: Mapping[int, int]) -> bool:
        """Into the windows with it; whether a partition was refused."""
        own = foreign = False
        failed: set[int] = set()
        for _, partitions in response.topics:
            for partition, code, end_offset, _, first_offset, _, _, data in partitions:
                tail = self._tails.get(partition)
                if tail is None or not tail.following:
                    continue
                if code:
                    failed.add(partition)
                    self._refuse(tail, code)
                elif wanted[partition] <= tail.next_offset:
                    records, by_others = read_records(data, tail.next_offset, self._own_producers)
                    tail.learn_ends(first_offset, 0)
                    tail.extend(records, end_offset)
                    foreign |= by_others
                    own |= bool(data)
        for partition in wanted.keys() - failed:
            if partition in self._tails:
                self._tails[partition].confirm()
        self._pause_s = min(max(2 * self._pause_s, _SHORTEST_PAUSE_S), _LONGEST_PAUSE_S) if own and not foreign else 0.0
        if own or foreign:
            self._grown()
        return bool(failed)

    def _refuse(self, tail: Tail, code: int) -> None:
        tail.confirmed = False
        del self._tails[tail.partition]
        if code == OFFSET_OUT_OF_RANGE:
            self._out_of_range(tail)
        else:
            self._lost(tail)

    async def _start_again(self) -> None:
        """The broker is away, or there is none: whoever leads now is to follow what was followed here."""
        self._forget_session()
        for tail in self._tails.values():
            tail.confirmed = False
        await self._cluster.refresh()
        await asyncio.sleep(BACKOFF_S)
        tails = list(self._tails.values())
        self._tails.clear()
        for tail in tails:
            if tail.following:
                self._lost(tail)

    def _forget_session(self) -> None:
        self._session.begin()
        self._known = {}

    def _drop_idle(self) -> None:
        idle_since_s = asyncio.get_running_loop().time() - _IDLE_S
        for partition, tail in list(self._tails.items()):
            if not tail.following or (tail.touched_s < idle_since_s and not tail.awaited):
                tail.following = tail.confirmed = False
                del self._tails[partition]
