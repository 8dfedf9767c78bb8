"""What the log on Kafka promises beyond its port: several processes, and a broker that goes away and comes back."""

import asyncio
import random
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import count
from pathlib import Path
from typing import TypeVar

import pytest
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import KafkaConnectionError, NodeNotReadyError

from discovery.errors import InvalidArgument, Unavailable
from services.messaging.inboxing import write_watermarks
from services.ports.log import Committed, Log, Record
from services.storage.kafka.cluster import Traffic
from services.storage.kafka.log import KafkaLog
from tests.support.servers.kafka import KafkaServer
from tests.support.servers.process import ServerMissing

PARTITIONS = 4
DEADLINE_S = 1.5
_Answer = TypeVar("_Answer")
OpenLog = Callable[..., Awaitable[KafkaLog]]


@pytest.fixture
async def open_log(kafka: KafkaServer) -> AsyncIterator[OpenLog]:
    """Opens logs over the same topics; they are closed at the end."""
    prefix = f"k{uuid.uuid4().hex[:12]}-"
    async with AsyncExitStack() as stack:

        async def open_(partitions: int = PARTITIONS) -> KafkaLog:
            log = await KafkaLog.open(kafka.address, partitions, prefix=prefix)
            stack.push_async_callback(log.close)
            return log

        yield open_


@pytest.fixture(scope="module")
def mortal_kafka(tmp_path_factory: pytest.TempPathFactory, kafka: KafkaServer) -> Iterator[KafkaServer]:
    """A broker of these tests' own: they kill and pause it. (`kafka` is asked for first: it skips where there is none.)"""
    with KafkaServer(tmp_path_factory.mktemp("mortal")) as server:
        yield server


@pytest.fixture
async def mortal_log(mortal_kafka: KafkaServer) -> AsyncIterator[KafkaLog]:
    prefix = f"k{uuid.uuid4().hex[:12]}-"
    log = await KafkaLog.open(mortal_kafka.address, PARTITIONS, prefix=prefix, deadline_s=DEADLINE_S)
    yield log
    await log.close()


async def follow(log: Log, partition: int, seen: list[Record], enough: Callable[[], bool]) -> None:
    """Reads as a projection does, through all outages."""
    while not enough():
        offset = seen[-1].offset + 1 if seen else 0
        try:
            await log.wait("t", partition, offset)
            seen += await log.read("t", partition, offset, 50)
        except Unavailable:
            continue


async def read_all(log: Log, partition: int) -> list[Record]:
    records: list[Record] = []
    while page := await log.read("t", partition, records[-1].offset + 1 if records else 0, 500):
        records += page
    return records


async def test_calls_of_two_instances_on_one_partition_are_interleaved_whole(open_log: OpenLog) -> None:
    logs = [await open_log(), await open_log()]
    calls = [[f"{log}.{call}.{n}".encode() for n in range(5)] for call in range(40) for log in (0, 1)]

    offsets = await asyncio.gather(*(logs[i % 2].append("t", 0, values) for i, values in enumerate(calls)))

    values = {record.offset: record.value for record in await read_all(await open_log(), 0)}
    assert sorted(values) == list(range(400))
    assert [[values[offset] for offset in call] for call in offsets] == calls
    assert [list(call) for call in offsets] == [list(range(call[0], call[0] + 5)) for call in offsets]


async def test_two_instances_that_follow_and_append_see_the_same(open_log: OpenLog) -> None:
    logs = [await open_log(), await open_log()]
    seen: list[list[Record]] = [[], []]

    async def append(log: Log, name: int) -> None:
        for n in range(100):
            await log.append("t", 1, [f"{name}.{n}a".encode(), f"{name}.{n}b".encode()])

    async with asyncio.timeout(30), asyncio.TaskGroup() as tasks:
        for i, log in enumerate(logs):
            tasks.create_task(follow(log, 1, seen[i], lambda i=i: len(seen[i]) >= 400))  # type: ignore[misc]
            tasks.create_task(append(log, i))

    assert seen[0] == seen[1]
    assert [record.offset for record in seen[0]] == list(range(400))


async def test_a_wait_goes_on_while_another_reads_what_is_older(open_log: OpenLog) -> None:
    log, other = await open_log(), await open_log()
    await log.append("t", 0, [b"old"] * 10)
    waiting = asyncio.create_task(log.wait("t", 0, 10))
    await asyncio.sleep(0)

    older = [await log.read("t", 0, offset, 2) for offset in (0, 7, 3)]
    await other.append("t", 0, [b"new"])

    assert [[record.offset for record in page] for page in older] == [[0, 1], [7, 8], [3, 4]]
    async with asyncio.timeout(30):
        await waiting
    assert await log.read("t", 0, 10, 5) == [Record(10, b"new")]


async def test_a_wait_beyond_the_end_wakes_at_its_offset(open_log: OpenLog) -> None:
    log, other = await open_log(), await open_log()
    waiting = asyncio.create_task(log.wait("t", 0, 3))
    await asyncio.sleep(0)

    await other.append("t", 0, [b"a", b"b"])
    await other.append("t", 0, [b"c", b"d"])

    async with asyncio.timeout(30):
        await waiting
    assert await log.read("t", 0, 3, 5) == [Record(3, b"d")]


async def test_waiting_for_what_was_trimmed_waits_for_what_is_next(open_log: OpenLog) -> None:
    log, other = await open_log(), await open_log()
    await log.append("t", 0, [b"a"] * 5)
    await log.trim("t", 0, 5)
    waiting = asyncio.create_task(other.wait("t", 0, 0))
    done, _ = await asyncio.wait([waiting], timeout=0.5)
    assert not done

    await log.append("t", 0, [b"b"])

    async with asyncio.timeout(30):
        await waiting
    assert await other.read("t", 0, 0, 5) == [Record(5, b"b")]


async def test_a_topic_with_another_number_of_partitions_is_refused(open_log: OpenLog) -> None:
    await (await open_log()).append("t", 0, [b"a"])
    log = await open_log(PARTITIONS + 1)

    with pytest.raises(InvalidArgument, match="partitions"):
        await log.append("t", 0, [b"a"])


async def test_a_topic_is_made_to_keep_all_that_nobody_trims_on_all_replicas_but_one(
    open_log: OpenLog, kafka: KafkaServer
) -> None:
    log, name = await open_log(), f"kept{uuid.uuid4().hex}"
    await log.append(name, 0, [b"a"])

    (topic,) = [topic for topic in await topics(kafka) if topic.endswith(name)]

    found = await settings_of(kafka, topic)
    assert {name: found[name] for name in ("cleanup.policy", "retention.ms", "retention.bytes")} == {
        "cleanup.policy": "delete",
        "retention.ms": "-1",
        "retention.bytes": "-1",
    }
    assert (found["min.insync.replicas"], found["unclean.leader.election.enable"]) == ("1", "false")


@pytest.mark.parametrize(
    ("setting", "value"),
    [("cleanup.policy", "compact"), ("retention.ms", "86400000"), ("retention.bytes", "1000000")],
)
async def test_a_topic_that_would_lose_records_is_refused(
    open_log: OpenLog, kafka: KafkaServer, setting: str, value: str
) -> None:
    log, name = await open_log(), f"lossy{uuid.uuid4().hex}"
    await log.append(name, 0, [b"a"])
    (topic,) = [topic for topic in await topics(kafka) if topic.endswith(name)]
    await set_of(kafka, topic, {setting: value})

    with pytest.raises(InvalidArgument, match=f"would lose records: {setting} is {value}"):
        await (await open_log()).append(name, 0, [b"a"])


async def test_a_topic_whose_acks_count_on_too_few_replicas_is_refused(kafka: KafkaServer) -> None:
    prefix = f"k{uuid.uuid4().hex[:12]}-"
    async with AsyncExitStack() as stack:
        first = await KafkaLog.open(kafka.address, PARTITIONS, prefix=prefix)
        stack.push_async_callback(first.close)
        await first.append("t", 0, [b"a"])
        log = await KafkaLog.open(kafka.address, PARTITIONS, replication=3, prefix=prefix)
        stack.push_async_callback(log.close)

        with pytest.raises(InvalidArgument, match=r"min\.insync\.replicas is 1, not 2"):
            await log.append("t", 0, [b"a"])


@asynccontextmanager
async def admin(kafka: KafkaServer) -> AsyncIterator[AIOKafkaAdminClient]:
    client = AIOKafkaAdminClient(bootstrap_servers=kafka.address)
    await client.start()
    try:
        yield client
    finally:
        await client.close()


async def topics(kafka: KafkaServer) -> list[str]:
    async with admin(kafka) as client:
        return list(await client.list_topics())


async def settings_of(kafka: KafkaServer, topic: str) -> dict[str, str]:
    async with admin(kafka) as client:
        (answer,) = await client.describe_configs([ConfigResource(ConfigResourceType.TOPIC, topic)])
    ((_, _, _, _, entries),) = answer.resources
    return {name: value for name, value, *_ in entries}


async def set_of(kafka: KafkaServer, topic: str, changed: dict[str, str]) -> None:
    async with admin(kafka) as client:
        await client.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, configs=changed)])


@pytest.mark.parametrize("partition", [-1, PARTITIONS])
async def test_a_partition_that_the_log_does_not_have_is_refused(open_log: OpenLog, partition: int) -> None:
    log = await open_log()

    with pytest.raises(InvalidArgument):
        await log.read("t", partition, 0, 1)


async def test_a_topic_name_that_kafka_would_not_take_is_refused(open_log: OpenLog) -> None:
    log = await open_log()

    with pytest.raises(InvalidArgument):
        await log.append("no/topic", 0, [b"a"])


async def test_the_watermarks_of_384_sources_fit_into_a_commit(open_log: OpenLog) -> None:
    log = await open_log()
    state = write_watermarks({source: 2**36 + source * 12_345_677 for source in range(384)})

    await log.commit("g", "t", 0, Committed(1, state))

    assert await log.committed("g", "t", 0) == Committed(1, state)


async def test_a_state_that_is_too_large_is_refused_and_the_last_commit_stands(open_log: OpenLog) -> None:
    log = await open_log()
    await log.commit("g", "t", 0, Committed(1, b"one"))

    with pytest.raises(InvalidArgument):
        await log.commit("g", "t", 0, Committed(2, random.Random(1).randbytes(6_000)))

    assert await log.committed("g", "t", 0) == Committed(1, b"one")


async def test_a_producer_that_the_broker_lost_the_thread_of_goes_on_under_another_id(open_log: OpenLog) -> None:
    log = await open_log()
    await log.append("t", 0, [b"a"])
    log._producing._partitions[f"{log._cluster._prefix}t", 0].next_sequence += 17

    assert await log.append("t", 0, [b"b"]) == [1]

    assert [record.value for record in await read_all(log, 0)] == [b"a", b"b"]


class FailingSend:
    """Stands before a log's requests, and has the first append fail: before it is sent, or after its answer came."""

    def __init__(self, log: KafkaLog, error: Exception, *, after: bool) -> None:
        self._send = log._cluster.send
        self._error: Exception | None = error
        self._after = after
        log._cluster.send = self  # type: ignore[method-assign, assignment]

    async def __call__(self, node: int, request: object, traffic: Traffic) -> object:
        if traffic is not Traffic.PRODUCE or self._error is None:
            return await self._send(node, request, traffic)
        error, self._error = self._error, None
        if self._after:
            await self._send(node, request, traffic)
        raise error


async def test_an_append_whose_answer_was_lost_is_sent_again_and_there_once(open_log: OpenLog) -> None:
    log = await open_log()
    FailingSend(log, KafkaConnectionError(), after=True)

    offsets = await log.append("t", 0, [b"a", b"b"])

    assert await read_all(log, 0) == [
        Record(offset, value) for offset, value in zip(offsets, [b"a", b"b"], strict=True)
    ]


async def test_appends_that_could_not_be_sent_keep_their_order(open_log: OpenLog) -> None:
    log = await open_log()
    await log.append("t", 0, [b"first"])
    FailingSend(log, NodeNotReadyError(), after=False)

    appending = []
    for n in range(5):
        appending.append(asyncio.create_task(log.append("t", 0, [str(n).encode()])))
        await asyncio.sleep(0.01)

    assert await asyncio.gather(*appending) == [[1], [2], [3], [4], [5]]


async def test_without_a_broker_a_log_cannot_be_opened() -> None:
    with pytest.raises(Unavailable) as caught:
        await KafkaLog.open("127.0.0.1:1", PARTITIONS)

    assert caught.value.reason == "ENGINE_DOWN"


class Appenders:
    """Tasks that append until told to stop, and what they were told was durable. What failed is not tried again."""

    def __init__(self, log: Log) -> None:
        self.acked: dict[tuple[int, int], str] = {}
        self.stopping = False
        self._log = log
        self._news = asyncio.Event()

    async def append(self, name: int) -> None:
        partition = name % PARTITIONS
        for n in count():
            if self.stopping:
                return
            try:
                (offset,) = await self._log.append("t", partition, [f"{name}.{n}".encode()])
            except Unavailable:
                continue
            self.acked[partition, offset] = f"{name}.{n}"
            self._news.set()

    async def reach(self, more: int) -> None:
        """Returns after that many further acks."""
        end = len(self.acked) + more
        while len(self.acked) < end:
            self._news.clear()
            await self._news.wait()


def check_order(values: list[str]) -> None:
    """Each appender counted up: nothing of it may be there twice, or out of order."""
    assert len(set(values)) == len(values)
    last: dict[str, int] = {}
    for value in values:
        name, _, n = value.partition(".")
        assert int(n) > last.get(name, -1)
        last[name] = int(n)


@pytest.mark.slow
async def test_every_acked_record_is_there_in_order_after_the_broker_was_killed_and_readers_go_on(
    mortal_kafka: KafkaServer, mortal_log: KafkaLog
) -> None:
    appenders = Appenders(mortal_log)
    seen: list[list[Record]] = [[] for _ in range(PARTITIONS)]
    async with asyncio.timeout(100), asyncio.TaskGroup() as tasks:
        for name in range(3 * PARTITIONS):
            tasks.create_task(appenders.append(name))
        readers = [
            tasks.create_task(follow(mortal_log, partition, seen[partition], lambda: False))
            for partition in range(PARTITIONS)
        ]
        for _ in range(2):
            await appenders.reach(500)
            await asyncio.to_thread(mortal_kafka.kill)
            await asyncio.to_thread(mortal_kafka.start)
        await appenders.reach(200)
        appenders.stopping = True
        for reader in readers:
            reader.cancel()

    found = {
        (partition, record.offset): record.value.decode()
        for partition in range(PARTITIONS)
        for record in await read_all(mortal_log, partition)
    }
    assert {place: found.get(place) for place in appenders.acked} == appenders.acked
    for partition, records in enumerate(seen):
        assert len(records) > 200
        assert [found[partition, record.offset] for record in records] == [r.value.decode() for r in records]
        assert [record.offset for record in records] == list(range(len(records)))
        check_order([value for place, value in found.items() if place[0] == partition])


async def test_a_broker_that_stands_still_is_an_error_within_the_deadline_and_then_the_log_goes_on(
    mortal_kafka: KafkaServer, mortal_log: KafkaLog
) -> None:
    await mortal_log.append("t", 0, [b"a"])
    await mortal_log.commit("g", "t", 0, Committed(1, b""))
    waiting = asyncio.create_task(mortal_log.wait("t", 1, 0))

    mortal_kafka.pause()
    try:
        async with asyncio.timeout(5 * DEADLINE_S):
            append, read, commit, committed, wait = await asyncio.gather(
                mortal_log.append("t", 0, [b"b"]),
                mortal_log.read("t", 0, 0, 1),
                mortal_log.commit("g", "t", 0, Committed(2, b"")),
                mortal_log.committed("g", "t", 0),
                waiting,
                return_exceptions=True,
            )
    finally:
        mortal_kafka.resume()

    reasons = [getattr(error, "reason", error) for error in (append, read, commit, committed, wait)]
    assert reasons == ["OUTCOME_UNKNOWN", "ENGINE_DOWN", "OUTCOME_UNKNOWN", "ENGINE_DOWN", "ENGINE_DOWN"]
    async with asyncio.timeout(60):
        offset = await retry(lambda: mortal_log.append("t", 0, [b"c"]))
        await retry(lambda: mortal_log.commit("g", "t", 0, Committed(3, b"")))
    assert await mortal_log.committed("g", "t", 0) == Committed(3, b"")
    assert [record.value for record in await read_all(mortal_log, 0) if record.offset <= offset[0]] in (
        [b"a", b"c"],
        [b"a", b"b", b"c"],
    )


@pytest.mark.slow
async def test_a_killed_broker_is_an_error_within_the_deadline_and_the_log_goes_on_when_it_is_back(
    mortal_kafka: KafkaServer, mortal_log: KafkaLog
) -> None:
    await mortal_log.append("t", 0, [b"a"])
    await mortal_log.commit("g", "t", 0, Committed(1, b""))

    await asyncio.to_thread(mortal_kafka.kill)
    async with asyncio.timeout(5 * DEADLINE_S):
        answers = await asyncio.gather(
            *(mortal_log.append("t", partition, [b"b"]) for partition in range(PARTITIONS)),
            mortal_log.read("t", 1, 0, 1),
            mortal_log.commit("g", "t", 0, Committed(2, b"")),
            mortal_log.committed("g", "t", 0),
            return_exceptions=True,
        )
    await asyncio.to_thread(mortal_kafka.start)
    async with asyncio.timeout(60):
        offsets = await retry(lambda: mortal_log.append("t", 0, [b"c"]))
        await retry(lambda: mortal_log.commit("g", "t", 0, Committed(3, b"")))

    assert all(isinstance(answer, Unavailable) for answer in answers)
    assert {getattr(answer, "reason", None) for answer in answers} <= {"ENGINE_DOWN", "OUTCOME_UNKNOWN"}
    records = [record.value for record in await read_all(mortal_log, 0) if record.offset <= offsets[0]]
    assert (records[0], records[-1]) == (b"a", b"c")
    assert await mortal_log.committed("g", "t", 0) == Committed(3, b"")


async def retry(call: Callable[[], Awaitable[_Answer]]) -> _Answer:
    while True:
        try:
            return await call()
        except Unavailable:
            continue


def test_a_broker_without_java_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", "")

    with pytest.raises(ServerMissing):
        KafkaServer(tmp_path)
