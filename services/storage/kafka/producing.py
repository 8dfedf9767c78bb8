"""Appends: gathered for each partition while the broker is busy with the ones before, sent as one atomic record batch.

Each broker has one request under way, with at most one batch of each partition in it; batches carry a producer's id and a
sequence, so that one whose answer was lost is sent again without being written twice. A batch that is given up leaves its
partition with a new id: what becomes of it can no longer disturb what follows.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

from aiokafka.protocol.produce import ProduceRequest
from aiokafka.protocol.transaction import InitProducerIdRequest
from aiokafka.record.default_records import DefaultRecordBatch, DefaultRecordBatchBuilder

from discovery.errors import HitherError, InvalidArgument, Unavailable
from services.storage.kafka.cluster import BACKOFF_S, FAILURES, NOT_SENT, Cluster, Traffic, name_of

_MOST_GATHERED_BYTES = 1024 * 1024
"""Calls are gathered into one batch up to here; a single call may be larger."""
_MOST_GATHERED_CALLS = 1_000
_MOST_REQUEST_BYTES = 16 * 1024 * 1024
_MOST_WAITING_BYTES = 128 * 1024 * 1024
_CALL_COST_BYTES = 1_000
"""Memory of a waiting call beside its records."""
_COMPRESS_FROM_BYTES = 1024
"""Smaller batches cost more to compress than to send."""
_RECORD_OVERHEAD_BYTES = 40
_BATCH_OVERHEAD_BYTES = 200
_MOST_SEQUENCE = 2**31
_MOST_PRODUCER_IDS = 1_000

_NO_ERROR = 0
_NOT_ENOUGH_REPLICAS = 19
# The request may have been carried out, or will be when it is sent again: corrupt on its way, unknown topic, leader not
# available, not leader, timed out, broker or replica not available, network, not enough replicas (before or after the
# append), storage, epochs of leaders, throttled.
_PASSING = frozenset({2, 3, 5, 6, 7, 8, 9, 13, 19, 20, 56, 74, 75, 76, 78, 89})
# Out of order, invalid epoch, unknown producer: the broker has lost the thread of this producer.
_THREAD_LOST = frozenset({45, 47, 59})
# Too large, or a list that is too large.
_TOO_LARGE = frozenset({10, 18})
# Unknown server error, duplicate sequence: it may be there, at offsets that nobody tells.
_UNKNOWN = frozenset({-1, 46})


@dataclass(slots=True, eq=False)
class _Call:
    values: Sequence[bytes]
    size: int
    done: "asyncio.Future[Sequence[int]]"
    sent: bool = False


@dataclass(frozen=True, slots=True)
class _Identity:
    producer_id: int
    epoch: int


@dataclass(slots=True)
class _Batch:
    calls: list[_Call]
    records: int
    data: bytes
    give_up_at_s: float
    uncertain: bool = False
    """It was sent, and no answer says that it was not written."""


@dataclass(slots=True, eq=False)
class _Partition:
    topic: str
    number: int
    queue: deque[_Call] = field(default_factory=deque)
    batch: _Batch | None = None
    identity: _Identity | None = None
    next_sequence: int = 0
    scheduled: bool = False


@dataclass(slots=True, eq=False)
class _Lane:
    """What is to be sent to one broker; to none, while a partition has no leader."""

    node: int | None
    ready: deque[_Partition] = field(default_factory=deque)
    news: asyncio.Event = field(default_factory=asyncio.Event)


class Producing:
    """All appends of a log. `appended` is called with topic, partition, base offset and values once they are durable."""

    def __init__(
        self,
        cluster: Cluster,
        start: Callable[[Coroutine[None, None, NoReturn], str], None],
        appended: Callable[[str, int, int, Sequence[bytes]], None],
    ) -> None:
        self.producer_ids: set[int] = set()
        """The newest ids under which this process has appended: one, and one more for each batch that was given up."""
        self._cluster = cluster
        self._start = start
        self._appended = appended
        self._partitions: dict[tuple[str, int], _Partition] = {}
        self._lanes: dict[int | None, _Lane] = {}
        self._identity: _Identity | None = None
        self._waiting_bytes = 0
        self._ended = False

    async def append(self, topic: str, number: int, values: Sequence[bytes], size: int) -> Sequence[int]:
        """Appends them to Kafka's topic of that name; see Log.append."""
        cost = size + _CALL_COST_BYTES + _RECORD_OVERHEAD_BYTES * len(values)
        if self._waiting_bytes + cost > _MOST_WAITING_BYTES:
            raise Unavailable("Too many appends wait for Kafka.", reason="ENGINE_DOWN")
        partition = self._partitions.get((topic, number))
        if partition is None:
            partition = self._partitions[topic, number] = _Partition(topic, number)
        call = _Call(values, size, asyncio.get_running_loop().create_future())
        partition.queue.append(call)
        self._waiting_bytes += cost
        self._schedule(partition)
        try:
            async with asyncio.timeout(self._cluster.deadline_s):
                return await call.done
        except TimeoutError as error:
            raise _unavailable(sent=call.sent) from error
        finally:
            self._waiting_bytes -= cost

    def fail(self) -> None:
        """Ends all appends: nobody sends them any more."""
        self._ended = True
        for partition in self._partitions.values():
            calls = [*partition.queue, *(partition.batch.calls if partition.batch else ())]
            for call in calls:
                _refuse(call, _unavailable(sent=call.sent))
            partition.queue.clear()
            partition.batch = None

    def _schedule(self, partition: _Partition) -> None:
        """Puts it on the lane of its leader, unless it is on one."""
        if partition.scheduled:
            return
        partition.scheduled = True
        node = self._cluster.leader(partition.topic, partition.number)
        lane = self._lanes.get(node)
        if lane is None:
            lane = self._lanes[node] = _Lane(node)
            self._start(self._run(lane), f"append to broker {node}")
        lane.ready.append(partition)
        lane.news.set()

    async def _run(self, lane: _Lane) -> NoReturn:
        while True:
            await lane.news.wait()
            lane.news.clear()
            while lane.ready:
                if lane.node is None or not await self._has_identity(lane):
                    await self._cluster.refresh()
                    await asyncio.sleep(BACKOFF_S)
                    self._reroute(lane)
                    continue
                taken = self._take(lane)
                if taken:
                    await self._exchange(lane.node, taken)

    def _reroute(self, lane: _Lane) -> None:
        waiting = list(lane.ready)
        lane.ready.clear()
        for partition in waiting:
            partition.scheduled = False
            self._schedule(partition)

    async def _has_identity(self, lane: _Lane) -> bool:
        """Gives every partition of the lane a producer's id; False when no broker gives one."""
        needy = [partition for partition in lane.ready if partition.identity is None]
        if not needy:
            return True
        if self._identity is None:
            node = self._cluster.any_broker()
            if node is None:
                return False
            try:
                response = await self._cluster.send(node, InitProducerIdRequest(None, 0), Traffic.ADMIN)
            except FAILURES:
                return False
            if response.error_code != _NO_ERROR:
                return False
            self._identity = _Identity(response.producer_id, response.producer_epoch)
            if len(self.producer_ids) >= _MOST_PRODUCER_IDS:
                self.producer_ids.clear()
            self.producer_ids.add(response.producer_id)
        for partition in needy:
            partition.identity, partition.next_sequence = self._identity, 0
        return True

    def _take(self, lane: _Lane) -> list[_Partition]:
        """As many partitions as fit into a request, each with a batch. Those whose callers have all gone are dropped."""
        taken: list[_Partition] = []
        size = 0
        for _ in range(len(lane.ready)):
            if lane.ready[0].identity is None or size >= _MOST_REQUEST_BYTES:
                break
            partition = lane.ready.popleft()
            batch = partition.batch or _build(partition, self._cluster.deadline_s)
            partition.batch = batch
            if batch is None:
                partition.scheduled = False
                continue
            taken.append(partition)
            size += len(batch.data)
        return taken

    async def _exchange(self, node: int, taken: Sequence[_Partition]) -> None:
        by_topic: dict[str, list[tuple[int, bytes]]] = {}
        for partition in taken:
            assert partition.batch is not None
            by_topic.setdefault(partition.topic, []).append((partition.number, partition.batch.data))
        request = ProduceRequest(None, -1, int(self._cluster.deadline_s * 1000), list(by_topic.items()))
        try:
            response = await self._cluster.send(node, request, Traffic.PRODUCE)
        except NOT_SENT:
            await self._failed(taken)
            return
        except FAILURES:
            for partition in taken:
                assert partition.batch is not None
                partition.batch.uncertain = True
            await self._failed(taken)
            return
        self._settle(taken, response)

    async def _failed(self, taken: Sequence[_Partition]) -> None:
        """The broker did not answer: later it, or whoever leads then, is asked again."""
        await self._cluster.refresh()
        await asyncio.sleep(BACKOFF_S)
        for partition in taken:
            self._again(partition)

    def _settle(self, taken: Sequence[_Partition], response: Any) -> None:
        answers = {
            (topic, number): (code, offset)
            for topic, partitions in response.topics
            for number, code, offset, *_ in partitions
        }
        passing = []
        for partition in taken:
            code, base_offset = answers.get((partition.topic, partition.number), (-1, -1))
            assert partition.batch is not None
            if code == _NO_ERROR and base_offset >= 0:
                self._succeed(partition, partition.batch, base_offset)
            elif code in _PASSING:
                partition.batch.uncertain |= code != _NOT_ENOUGH_REPLICAS
                passing.append(partition)
            else:
                self._rejected(partition, partition.batch, code)
        if passing:
            asyncio.get_running_loop().call_later(BACKOFF_S, self._later, passing)

    def _later(self, partitions: Sequence[_Partition]) -> None:
        if self._ended:
            return
        for partition in partitions:
            # Through the lane that asks anew who leads: that is what such an error most often means.
            lane = self._lanes.get(None)
            if lane is None:
                lane = self._lanes[None] = _Lane(None)
                self._start(self._run(lane), "append to nobody")
            if self._keep(partition):
                lane.ready.append(partition)
                lane.news.set()

    def _again(self, partition: _Partition) -> None:
        if self._keep(partition):
            partition.scheduled = False
            self._schedule(partition)

    def _keep(self, partition: _Partition) -> bool:
        """Whether its batch is to be sent again. What is too old is given up; what was never written may be built anew."""
        batch = partition.batch
        assert batch is not None
        if not batch.uncertain:
            self._unbuild(partition, batch)
        elif time.monotonic() > batch.give_up_at_s:
            self._give_up(partition, batch)
            return False
        return True

    def _succeed(self, partition: _Partition, batch: _Batch, base_offset: int) -> None:
        partition.next_sequence = (partition.next_sequence + batch.records) % _MOST_SEQUENCE
        offset = base_offset
        values: list[bytes] = []
        for call in batch.calls:
            if not call.done.done():
                call.done.set_result(list(range(offset, offset + len(call.values))))
            offset += len(call.values)
            values += call.values
        self._appended(partition.topic, partition.number, base_offset, values)
        self._next(partition)

    def _rejected(self, partition: _Partition, batch: _Batch, code: int) -> None:
        if batch.uncertain or code in _UNKNOWN or code == _NO_ERROR:
            self._give_up(partition, batch)
        elif code in _THREAD_LOST:
            self._unbuild(partition, batch)
            self._rename(partition)
            self._again_unbuilt(partition)
        else:
            for call in batch.calls:
                _refuse(call, _refusal(code))
            self._next(partition)

    def _give_up(self, partition: _Partition, batch: _Batch) -> None:
        for call in batch.calls:
            _refuse(call, _unavailable(sent=True))
        self._rename(partition)
        self._next(partition)

    def _rename(self, partition: _Partition) -> None:
        """Has it go on under another producer's id."""
        if partition.identity == self._identity:
            self._identity = None
        partition.identity = None

    def _unbuild(self, partition: _Partition, batch: _Batch) -> None:
        """Its calls wait again, as if they had never been sent: they can still be said to have had no effect."""
        for call in batch.calls:
            call.sent = False
        partition.queue.extendleft(reversed(batch.calls))
        partition.batch = None

    def _again_unbuilt(self, partition: _Partition) -> None:
        partition.scheduled = False
        self._schedule(partition)

    def _next(self, partition: _Partition) -> None:
        partition.batch = None
        partition.scheduled = False
        if partition.queue:
            self._schedule(partition)


def _build(partition: _Partition, deadline_s: float) -> _Batch | None:
    """The oldest waiting calls as one record batch; None if nobody waits."""
    calls: list[_Call] = []
    size = records = 0
    while partition.queue and len(calls) < _MOST_GATHERED_CALLS:
        call = partition.queue[0]
        if calls and size + call.size > _MOST_GATHERED_BYTES:
            break
        partition.queue.popleft()
        if call.done.done():
            continue
        call.sent = True
        calls.append(call)
        size += call.size
        records += len(call.values)
    if not calls:
        return None
    assert partition.identity is not None
    builder = DefaultRecordBatchBuilder(
        2,
        DefaultRecordBatch.CODEC_LZ4 if size >= _COMPRESS_FROM_BYTES else DefaultRecordBatch.CODEC_NONE,
        0,
        partition.identity.producer_id,
        partition.identity.epoch,
        partition.next_sequence,
        size + records * _RECORD_OVERHEAD_BYTES + _BATCH_OVERHEAD_BYTES,
    )
    now_ms = int(time.time() * 1000)
    offset = 0
    for call in calls:
        for value in call.values:
            assert builder.append(offset, now_ms, None, value, []) is not None
            offset += 1
    return _Batch(calls, records, bytes(builder.build()), time.monotonic() + deadline_s)


def _refuse(call: _Call, error: HitherError) -> None:
    if not call.done.done():
        call.done.set_exception(error)


def _refusal(code: int) -> HitherError:
    if code in _TOO_LARGE:
        return InvalidArgument("Kafka does not take an append of this size.")
    return Unavailable(f"Kafka refused an append: {name_of(code)}.", reason="ENGINE_DOWN")


def _unavailable(*, sent: bool) -> Unavailable:
    if sent:
        return Unavailable("Kafka did not say whether the append was done.", reason="OUTCOME_UNKNOWN")
    return Unavailable("Kafka cannot be reached.", reason="ENGINE_DOWN")
