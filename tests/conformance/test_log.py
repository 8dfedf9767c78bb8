"""What every log promises."""

import asyncio
import tempfile
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from discovery.errors import InvalidArgument, Unavailable
from services.ports.log import Committed, Log, Record
from tests.conformance.conftest import LOGS, LogRig

MIB = 1024 * 1024


async def read_all(log: Log, topic: str, partition: int, offset: int = 0) -> list[Record]:
    """Everything from the offset on, page by page."""
    records: list[Record] = []
    while page := await log.read(topic, partition, offset, 100):
        records += page
        offset = page[-1].offset + 1
    return records


async def settle(task: "asyncio.Task[None]") -> None:
    """Lets the loop turn often enough for a task that can finish to do so."""
    for _ in range(10):
        await asyncio.sleep(0)


async def test_records_come_back_in_the_order_of_their_appends(log: Log) -> None:
    await log.append("t", 0, [b"a", b"b"])
    await log.append("t", 0, [b"c"])

    records = await log.read("t", 0, 0, 10)

    assert [record.value for record in records] == [b"a", b"b", b"c"]
    assert [record.offset for record in records] == sorted({record.offset for record in records})


async def test_append_returns_the_offsets_of_its_records(log: Log) -> None:
    offsets = [*await log.append("t", 0, [b"a", b"b"]), *await log.append("t", 0, [b"c"])]

    assert [record.offset for record in await log.read("t", 0, 0, 10)] == offsets


async def test_the_first_offset_of_a_partition_is_zero(log: Log) -> None:
    assert await log.append("t", 3, [b"a"]) == [0]


async def test_appending_nothing_does_nothing(log: Log) -> None:
    assert await log.append("t", 0, []) == []

    assert await log.read("t", 0, 0, 10) == []


async def test_topics_and_partitions_do_not_mix(log: Log) -> None:
    await log.append("t", 0, [b"t0"])
    await log.append("t", 1, [b"t1"])
    await log.append("u", 0, [b"u0"])

    assert [r.value for r in await log.read("t", 0, 0, 10)] == [b"t0"]
    assert [r.value for r in await log.read("t", 1, 0, 10)] == [b"t1"]
    assert [r.value for r in await log.read("u", 0, 0, 10)] == [b"u0"]


async def test_the_records_of_a_call_are_adjacent_among_concurrent_appends(log: Log) -> None:
    calls = [[f"{call}.{n}".encode() for n in range(5)] for call in range(50)]

    offsets = await asyncio.gather(*(log.append("t", 0, values) for values in calls))

    values = {record.offset: record.value for record in await read_all(log, "t", 0)}
    assert len(values) == 250
    assert [[values[offset] for offset in call] for call in offsets] == calls
    assert [call[-1] - call[0] for call in offsets] == [4] * 50


async def test_a_read_that_starts_after_an_append_sees_it(log: Log) -> None:
    for n in range(50):
        (offset,) = await log.append("t", 0, [str(n).encode()])
        assert await log.read("t", 0, offset, 1) == [Record(offset, str(n).encode())]


async def test_a_read_gives_at_most_as_many_as_it_was_asked_for(log: Log) -> None:
    await log.append("t", 0, [b"a", b"b", b"c"])

    assert [r.value for r in await log.read("t", 0, 0, 2)] == [b"a", b"b"]
    assert await log.read("t", 0, 0, 0) == []


async def test_reading_at_the_end_or_what_never_was_gives_nothing(log: Log) -> None:
    (offset,) = await log.append("t", 0, [b"a"])

    assert await log.read("t", 0, offset + 1, 10) == []
    assert await log.read("t", 0, offset + 1_000_000, 10) == []
    assert await log.read("nothing", 7, 0, 10) == []


async def test_a_record_may_be_empty_and_may_hold_any_byte(log: Log) -> None:
    values = [b"", bytes(range(256))]

    await log.append("t", 0, values)

    assert [r.value for r in await log.read("t", 0, 0, 10)] == values


async def test_a_record_of_one_mebibyte_is_taken_and_a_larger_one_refused_with_its_whole_call(log: Log) -> None:
    await log.append("t", 0, [b"x" * MIB])

    with pytest.raises(InvalidArgument):
        await log.append("t", 0, [b"small", b"x" * (MIB + 1)])

    assert [len(r.value) for r in await log.read("t", 0, 0, 10)] == [MIB]


async def test_a_call_of_1000_records_is_taken_and_a_larger_one_refused(log: Log) -> None:
    await log.append("t", 0, [b"x"] * 1_000)

    with pytest.raises(InvalidArgument):
        await log.append("t", 0, [b"x"] * 1_001)

    assert len(await read_all(log, "t", 0)) == 1_000


async def test_large_records_are_all_read_page_by_page(log: Log) -> None:
    for n in range(12):
        await log.append("t", 0, [bytes([n]) * MIB])

    assert [r.value[0] for r in await read_all(log, "t", 0)] == list(range(12))


async def test_a_reader_far_behind_and_one_at_the_tail_see_the_same(log: Log) -> None:
    for start in range(0, 6_000, 1_000):
        await log.append("t", 0, [str(n).encode() for n in range(start, start + 1_000)])

    everything = await read_all(log, "t", 0)

    assert [r.value for r in everything] == [str(n).encode() for n in range(6_000)]
    assert await read_all(log, "t", 0, everything[3_900].offset) == everything[3_900:]
    assert await read_all(log, "t", 0, everything[5_990].offset) == everything[5_990:]


async def test_wait_returns_at_once_for_what_is_there(log: Log) -> None:
    (offset,) = await log.append("t", 0, [b"a"])

    async with asyncio.timeout(30):
        await log.wait("t", 0, 0)
        await log.wait("t", 0, offset)


async def test_wait_returns_when_a_record_comes(log: Log) -> None:
    waiting = asyncio.create_task(log.wait("t", 0, 0))
    await settle(waiting)
    assert not waiting.done()

    await log.append("t", 0, [b"a"])

    async with asyncio.timeout(30):
        await waiting


async def test_wait_goes_on_while_only_earlier_records_and_other_partitions_come(log: Log) -> None:
    waiting = asyncio.create_task(log.wait("t", 0, 2))
    await settle(waiting)

    await log.append("t", 0, [b"a", b"b"])
    await log.append("t", 1, [b"a", b"b", b"c"])
    await settle(waiting)
    assert not waiting.done()

    await log.append("t", 0, [b"c"])
    async with asyncio.timeout(30):
        await waiting


async def test_what_wait_announced_can_be_read(log: Log) -> None:
    async def follow() -> list[bytes]:
        values: list[bytes] = []
        offset = 0
        while len(values) < 200:
            await log.wait("t", 0, offset)
            page = await log.read("t", 0, offset, 7)
            assert page
            values += [record.value for record in page]
            offset = page[-1].offset + 1
        return values

    following = asyncio.create_task(follow())
    for n in range(100):
        await log.append("t", 0, [f"{n}a".encode(), f"{n}b".encode()])

    async with asyncio.timeout(30):
        assert await following == [f"{n}{half}".encode() for n in range(100) for half in "ab"]


async def test_a_wait_can_be_cancelled_and_the_log_goes_on(log: Log) -> None:
    waiting = asyncio.create_task(log.wait("t", 0, 0))
    await settle(waiting)

    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting

    assert await log.append("t", 0, [b"a"]) == [0]


async def test_a_cancelled_append_is_there_whole_or_not_at_all(log: Log) -> None:
    appending = asyncio.create_task(log.append("t", 0, [b"a", b"b"]))
    await asyncio.sleep(0)
    appending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await appending

    (offset,) = await log.append("t", 0, [b"c"])

    before = [r.value for r in await log.read("t", 0, 0, 10) if r.offset < offset]
    assert before in ([], [b"a", b"b"])


async def test_a_group_that_never_committed_is_at_zero(log: Log) -> None:
    assert await log.committed("g", "t", 0) == Committed(0, b"")


async def test_the_last_commit_wins_even_if_it_goes_back(log: Log) -> None:
    await log.commit("g", "t", 0, Committed(7, b"seven"))
    await log.commit("g", "t", 0, Committed(3, b""))

    assert await log.committed("g", "t", 0) == Committed(3, b"")


async def test_commits_of_groups_topics_and_partitions_do_not_mix(log: Log) -> None:
    places = [("g", "t", 0), ("h", "t", 0), ("g", "u", 0), ("g", "t", 1)]
    for n, place in enumerate(places, 1):
        await log.commit(*place, Committed(n, bytes([n])))

    assert [await log.committed(*place) for place in places] == [Committed(n, bytes([n])) for n in range(1, 5)]


async def test_offset_and_state_of_a_commit_change_together(log: Log) -> None:
    async def commit_often() -> None:
        for n in range(100):
            await log.commit("g", "t", 0, Committed(n, str(n).encode()))

    await log.commit("g", "t", 0, Committed(0, b"0"))
    committing = asyncio.create_task(commit_often())
    while not committing.done():
        found = await log.committed("g", "t", 0)
        assert str(found.next_offset).encode() == found.state
    await committing


async def test_trimmed_records_may_go_and_the_others_keep_their_offsets(log: Log) -> None:
    offsets = await log.append("t", 0, [str(n).encode() for n in range(10)])

    await log.trim("t", 0, offsets[4])

    kept = {r.offset: r.value for r in await read_all(log, "t", 0)}
    assert {offset: kept.get(offset) for offset in offsets[4:]} == {offsets[n]: str(n).encode() for n in range(4, 10)}


async def test_offsets_go_on_after_everything_was_trimmed_and_the_log_reopened(log_rig: LogRig) -> None:
    log = await log_rig.open()
    last = (await log.append("t", 0, [b"a"] * 1_000))[-1]
    last = (await log.append("t", 0, [b"a"] * 1_000))[-1]
    await log.trim("t", 0, last + 1)

    log = await log_rig.reopen(log)

    (offset,) = await log.append("t", 0, [b"b"])
    assert offset > last
    assert (await log.read("t", 0, 0, 3_000))[-1] == Record(offset, b"b")


async def test_trimming_beyond_the_end_or_what_never_was_harms_nothing(log: Log) -> None:
    await log.append("t", 0, [b"a"])

    await log.trim("t", 0, 1_000)
    await log.trim("nothing", 5, 1_000)

    (offset,) = await log.append("t", 0, [b"b"])
    assert (await log.read("t", 0, offset, 10)) == [Record(offset, b"b")]


async def test_records_and_commits_survive_reopening(log_rig: LogRig) -> None:
    log = await log_rig.open()
    await log.append("t", 0, [b"a", b"b"])
    await log.append("u", 5, [b"c"])
    await log.commit("g", "t", 0, Committed(1, b"state"))
    before = await read_all(log, "t", 0)

    log = await log_rig.reopen(log)

    assert await read_all(log, "t", 0) == before
    assert [r.value for r in await read_all(log, "u", 5)] == [b"c"]
    assert await log.committed("g", "t", 0) == Committed(1, b"state")
    assert (await log.append("t", 0, [b"d"]))[0] > before[-1].offset
    async with asyncio.timeout(30):
        await log.wait("u", 5, 0)


async def test_close_finishes_the_appends_that_were_begun(log_rig: LogRig) -> None:
    log = await log_rig.open()
    appending = [asyncio.create_task(log.append("t", 0, [str(n).encode()])) for n in range(50)]
    await asyncio.sleep(0)

    log = await log_rig.reopen(log)

    offsets = [offset for (offset,) in await asyncio.gather(*appending)]
    assert [r.offset for r in await read_all(log, "t", 0)] == sorted(offsets)


LATER_CALLS: dict[str, Callable[[Log], object]] = {
    "append": lambda log: log.append("t", 0, [b"a"]),
    "read": lambda log: log.read("t", 0, 0, 1),
    "wait": lambda log: log.wait("t", 0, 0),
    "commit": lambda log: log.commit("g", "t", 0, Committed(1, b"")),
    "committed": lambda log: log.committed("g", "t", 0),
    "trim": lambda log: log.trim("t", 0, 1),
}


@pytest.mark.parametrize("call", LATER_CALLS.values(), ids=list(LATER_CALLS))
async def test_a_closed_log_is_unavailable(log: Log, call: Callable[[Log], "asyncio.Future[object]"]) -> None:
    await log.append("t", 0, [b"a"])
    await log.close()
    await log.close()

    with pytest.raises(Unavailable) as caught:
        await call(log)

    assert caught.value.reason == "ENGINE_DOWN"


async def test_closing_ends_a_wait(log: Log) -> None:
    waiting = asyncio.create_task(log.wait("t", 0, 0))
    await settle(waiting)

    await log.close()

    async with asyncio.timeout(30):
        with pytest.raises(Unavailable):
            await waiting


# A model: for each partition the records, in lists; steps are applied to log and model alike.
PLACES = st.tuples(st.sampled_from(["t", "u"]), st.integers(0, 1))
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("append"), PLACES, st.lists(st.binary(max_size=3), max_size=3)),
        st.tuples(st.just("read"), PLACES, st.integers(-1, 12)),
        st.tuples(st.just("trim"), PLACES, st.integers(-1, 12)),
        st.tuples(st.just("commit"), PLACES, st.integers(0, 12)),
        st.tuples(st.just("reopen"), PLACES, st.none()),
    ),
    max_size=12,
)


class LogModel:
    """Says of each step whether a log that took it keeps its promises."""

    def __init__(self, rig: LogRig, log: Log) -> None:
        self.rig = rig
        self.log = log
        self.records: dict[tuple[str, int], list[Record]] = {}
        self.trimmed: dict[tuple[str, int], int] = {}
        self.commits: dict[tuple[str, int], Committed] = {}

    async def append(self, place: tuple[str, int], values: list[bytes]) -> None:
        offsets = await self.log.append(*place, values)
        records = self.records.setdefault(place, [])
        records += map(Record, offsets, values)
        assert len(offsets) == len(values)
        assert all(one.offset < next_.offset for one, next_ in pairwise(records))

    async def read(self, place: tuple[str, int], offset: int) -> None:
        found = await self.log.read(*place, offset, 5)
        # What was trimmed may still be there; what was not must be, in its order and without a gap.
        kept_from = max(offset, self.trimmed.get(place, 0))
        expected = [record for record in self.records.get(place, []) if record.offset >= kept_from]
        kept = [record for record in found if record.offset >= kept_from]
        assert kept == expected[: len(kept)]
        assert found or not expected
        assert len(found) <= 5
        assert all(record.offset >= offset for record in found)

    async def trim(self, place: tuple[str, int], offset: int) -> None:
        await self.log.trim(*place, offset)
        end = max((r.offset + 1 for r in self.records.get(place, [])), default=0)
        self.trimmed[place] = max(self.trimmed.get(place, 0), min(offset, end))

    async def commit(self, place: tuple[str, int], offset: int) -> None:
        assert await self.log.committed("g", *place) == self.commits.get(place, Committed(0, b""))
        self.commits[place] = Committed(offset, bytes([offset]))
        await self.log.commit("g", *place, self.commits[place])

    async def reopen(self, place: tuple[str, int], _: None) -> None:
        self.log = await self.rig.reopen(self.log)


@pytest.mark.parametrize("make_rig", LOGS.values(), ids=list(LOGS))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS)
def test_a_log_does_what_its_model_does(
    make_rig: Callable[[Path], LogRig], steps: list[tuple[str, tuple[str, int], object]]
) -> None:
    async def play() -> None:
        with tempfile.TemporaryDirectory() as folder:
            rig = make_rig(Path(folder))
            model = LogModel(rig, await rig.open())
            for name, place, argument in steps:
                await getattr(model, name)(place, argument)
            for place in model.records:
                await model.read(place, 0)
            await rig.dispose()

    asyncio.run(play())
