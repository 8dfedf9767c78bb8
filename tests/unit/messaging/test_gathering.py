"""Sharing engine calls between partitions."""

import asyncio
from collections.abc import AsyncIterator, Sequence

import pytest

from discovery.errors import Unavailable
from services.messaging.gathering import Gathering
from services.messaging.inbox_log import InboxLog
from services.ports.message_store import RowConflict
from tests.support.memory_ports import Died, Disk, Life, MemoryLog


class Engine:
    """Answers with everything it was asked together; some items it does not take."""

    def __init__(self) -> None:
        self.calls: list[list[str]] = []
        self.called = asyncio.Event()
        self.gate = asyncio.Event()
        self.gate.set()

    async def call(self, items: Sequence[str]) -> frozenset[str]:
        self.calls.append(list(items))
        self.called.set()
        await self.gate.wait()
        if "away" in items:
            raise Unavailable
        if "conflict" in items:
            raise RowConflict
        return frozenset(items)


@pytest.fixture
def engine() -> Engine:
    return Engine()


@pytest.fixture
async def gathering(engine: Engine) -> AsyncIterator[Gathering[str, frozenset[str]]]:
    gathering = Gathering(engine.call)
    task = asyncio.create_task(gathering.run())
    yield gathering
    task.cancel()
    await asyncio.wait([task])


async def test_what_comes_during_a_call_shares_the_next(
    engine: Engine, gathering: Gathering[str, frozenset[str]]
) -> None:
    engine.gate.clear()
    first = asyncio.create_task(gathering.ask(["a"]))
    await engine.called.wait()
    others = [asyncio.create_task(gathering.ask([item])) for item in "bc"]
    await asyncio.sleep(0)
    engine.gate.set()

    assert await first == {"a"}
    assert [await other for other in others] == [{"b", "c"}, {"b", "c"}]
    assert engine.calls == [["a"], ["b", "c"]]


async def test_a_fault_of_one_s_items_is_not_the_others_fault(
    engine: Engine, gathering: Gathering[str, frozenset[str]]
) -> None:
    answers = await asyncio.gather(*(gathering.ask([item]) for item in ("a", "conflict", "b")), return_exceptions=True)

    assert isinstance(answers[1], RowConflict)
    assert answers[0] == frozenset("a")
    assert answers[2] == frozenset("b")


async def test_an_engine_that_is_away_is_away_for_all_and_not_asked_again(
    engine: Engine, gathering: Gathering[str, frozenset[str]]
) -> None:
    answers = await asyncio.gather(*(gathering.ask([item]) for item in ("a", "away")), return_exceptions=True)

    assert all(isinstance(answer, Unavailable) for answer in answers)
    assert len(engine.calls) == 1


async def test_who_has_given_up_is_not_asked_for(engine: Engine, gathering: Gathering[str, frozenset[str]]) -> None:
    asked = asyncio.create_task(gathering.ask(["gone"]))
    asked.cancel()
    await asyncio.wait([asked])

    assert await gathering.ask(["a"]) == {"a"}
    assert engine.calls == [["a"]]


async def test_inbox_records_of_all_partitions_are_durable_when_the_append_returns() -> None:
    disk = Disk()

    await InboxLog(MemoryLog(disk, Life())).append([(0, b"a"), (1, b"b"), (0, b"c")])

    assert [record.value for record in disk.records["inbox", 0]] == [b"a", b"c"]
    assert [record.value for record in disk.records["inbox", 1]] == [b"b"]


async def test_an_append_that_fails_for_one_partition_fails() -> None:
    with pytest.raises(Died):
        await InboxLog(MemoryLog(Disk(), Life(dies_at=1))).append([(0, b"a"), (1, b"b")])
