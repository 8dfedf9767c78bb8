"""What goes on behind the servicer: announcing, pruning, ending."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar, cast

import pytest

from discovery.errors import Unavailable
from hither.directory.v1 import directory_service_pb2 as pb
from services.directory.changes import Changes, News
from services.directory.model import AnswerKey
from services.directory.ports import Tables
from services.directory.settings import DirectorySettings
from tests.support.directory import DirectoryDesk, RememberingBus

T = TypeVar("T")


class GatedBus(RememberingBus):
    """Holds publishers up until it is opened."""

    def __init__(self) -> None:
        super().__init__()
        self.entered, self.opened, self.published = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def publish(self, topic: str, payload: bytes) -> None:
        self.entered.set()
        await self.opened.wait()
        await super().publish(topic, payload)
        self.published.set()


async def change(_tables: Tables, news: News) -> str:
    news.members_changed("g.1")
    return "done"


async def test_a_change_is_announced_before_it_is_answered(desk: DirectoryDesk) -> None:
    changes = Changes(desk.store, desk.bus, DirectorySettings())

    assert await changes.write(change) == "done"
    assert desk.bus.lines == ["conversation g.1"]


async def test_a_change_that_is_refused_is_not_announced(desk: DirectoryDesk) -> None:
    await desk.sign_up("alice")

    with pytest.raises(LookupError):
        await Changes(desk.store, desk.bus, DirectorySettings()).write(refuse)

    assert desk.bus.lines == []


async def refuse(_tables: Tables, news: News) -> None:
    news.members_changed("g.1")
    raise LookupError


async def test_a_change_that_is_run_twice_is_announced_once() -> None:
    bus = RememberingBus()

    class RepeatingStore:
        async def read(self, work: Callable[[Tables], Awaitable[T]]) -> T:
            raise NotImplementedError

        async def write(self, work: Callable[[Tables], Awaitable[T]]) -> T:
            no_tables = cast(Tables, None)
            await work(no_tables)
            return await work(no_tables)

        async def close(self) -> None:
            raise NotImplementedError

    await Changes(RepeatingStore(), bus, DirectorySettings()).write(change)

    assert bus.lines == ["conversation g.1"]


async def test_a_change_stands_and_is_announced_late_when_the_bus_is_away(desk: DirectoryDesk) -> None:
    bus = GatedBus()
    bus.opened.set()
    bus.is_down = True
    changes = Changes(desk.store, bus, DirectorySettings(announce_retry_s=0.01))

    answered = await changes.write(change)
    running = asyncio.create_task(changes.run())
    bus.entered.clear()
    await bus.entered.wait()
    bus.is_down = False
    await bus.published.wait()
    running.cancel()

    assert (answered, bus.lines) == ("done", ["conversation g.1"])


async def test_a_bus_that_hangs_does_not_hold_up_the_answer(desk: DirectoryDesk) -> None:
    changes = Changes(desk.store, GatedBus(), DirectorySettings(announce_timeout_s=0.01))

    assert await changes.write(change) == "done"


async def test_a_change_whose_caller_goes_is_announced_all_the_same(desk: DirectoryDesk) -> None:
    bus = GatedBus()
    changes = Changes(desk.store, bus, DirectorySettings())
    caller = asyncio.create_task(changes.write(change))
    await bus.entered.wait()
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller

    running = asyncio.create_task(changes.run())
    bus.opened.set()
    await bus.published.wait()
    running.cancel()

    assert bus.lines == ["conversation g.1"]


async def test_the_answer_to_a_request_id_is_kept_for_a_day_and_pruned_after_two(desk: DirectoryDesk) -> None:
    await desk.sign_up("alice")
    await desk.group("alice", request_id="r1")
    key = AnswerKey("alice", "/hither.directory.v1.DirectoryService/CreateConversation", "r1")
    desk.clock.advance(24 * 3600)
    pruned_after_a_day = await desk.directory.prune()
    desk.clock.advance(24 * 3600 + 1)

    assert (pruned_after_a_day, await desk.directory.prune()) == (0, 1)
    assert await desk.store.read(lambda tables: tables.answers.find(key)) is None


async def test_sessions_are_pruned_a_week_after_they_ran_out(desk: DirectoryDesk) -> None:
    await desk.sign_up("alice")
    await desk.sign_in("alice")
    desk.clock.advance(37 * 24 * 3600)
    before = await desk.directory.prune()
    desk.clock.advance(1)

    assert (before, await desk.directory.prune()) == (0, 1)


async def test_it_works_until_it_is_cancelled(desk: DirectoryDesk) -> None:
    running = asyncio.create_task(desk.directory.run())
    await desk.sign_up("alice")
    running.cancel()

    with pytest.raises(asyncio.CancelledError):
        await running


async def test_a_closed_store_makes_every_call_unavailable(desk: DirectoryDesk) -> None:
    await desk.store.close()

    with pytest.raises(Unavailable):
        await desk.by("alice", desk.servicer.ListFriends, pb.ListFriendsRequest())
