"""Acknowledging inboxes: cursors, delivered marks and the news of them."""

import asyncio
from collections.abc import AsyncIterator, Sequence

import pytest

from discovery.errors import ResourceExhausted
from hither.messaging.v1 import messaging_pb2
from services.delivery import UserEvent
from services.messaging.acknowledgement import Acknowledgements
from services.messaging.recent import RecentRows
from services.messaging.settings import MessagingSettings
from services.messaging.signals import Signals
from services.ports.message_store import InboxRow, MarkRow
from tests.support.lone_mesh import LoneMesh
from tests.support.memory_ports import Disk, Life, MemoryStore


class Told:
    """Remembers what it was asked to tell."""

    def __init__(self) -> None:
        self.events: list[UserEvent] = []
        self.news = asyncio.Event()

    async def to_users(self, events: Sequence[UserEvent]) -> frozenset[str]:
        self.events += events
        self.news.set()
        return frozenset()

    def statuses(self) -> list[tuple[str, str, int, str]]:
        result = []
        for event in self.events:
            status = messaging_pb2.MessageStatusEvent.FromString(event.payload)
            result.append((event.user_id, status.conversation_id, status.seq, status.user_id))
        return sorted(result)


class Desk:
    """Everything around acknowledgements."""

    def __init__(self, most: int = 10, rows: int = 1000) -> None:
        settings = MessagingSettings(
            acknowledgement_interval_s=0,
            most_pending_acknowledgements=most,
            acknowledgement_rows=rows,
            retry_min_s=0.001,
            retry_max_s=0.001,
        )
        self.mesh = LoneMesh()
        self.disk = Disk()
        self.life = Life()
        self.told = Told()
        self.recent = RecentRows(100)
        self.signals = Signals(self.told, 100)
        self.work = Acknowledgements(
            self.mesh.as_mesh(), MemoryStore(self.disk, self.life), self.recent, self.signals, settings
        )

    def arrive(self, user_id: str, *messages: tuple[str, int, str], remember: bool = False) -> None:
        for conversation_id, seq, sender_id in messages:
            pos = len(self.disk.inboxes[user_id]) + 1
            row = InboxRow(user_id, pos, pos, conversation_id, seq, sender_id, b"")
            self.disk.inboxes[user_id][pos] = row
            if remember:
                self.recent.add([row])

    async def until_cursor(self, user_id: str, pos: int, device_id: str = "phone") -> None:
        await self.mesh.until(lambda: self.mesh.cursors.get((user_id, device_id)) == pos)

    def delivered(self) -> dict[tuple[str, str], int]:
        return {key: mark.delivered_seq for key, mark in self.disk.marks.items()}


@pytest.fixture
async def desk() -> AsyncIterator[Desk]:
    desk = Desk()
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(desk.work.run()), group.create_task(desk.signals.run())]
        yield desk
        for task in tasks:
            task.cancel()


@pytest.mark.parametrize("remember", [False, True])
async def test_an_acknowledgement_moves_the_cursor_marks_what_it_covers_and_tells_the_senders(
    desk: Desk, remember: bool
) -> None:
    desk.arrive("ann", ("g.1", 4, "ben"), ("g.2", 1, "cat"), ("g.1", 5, "ann"), ("g.1", 6, "dan"), remember=remember)

    desk.work.offer("ann", "phone", 3)
    await desk.until_cursor("ann", 3)
    await desk.told.news.wait()

    assert desk.delivered() == {("g.1", "ann"): 5, ("g.2", "ann"): 1}
    assert desk.told.statuses() == [("ben", "g.1", 5, "ann"), ("cat", "g.2", 1, "ann")]
    assert desk.told.events[0].conflation_key == "status:g.1:ann:DELIVERED"
    assert ("read_inbox" in desk.life.trace) is not remember


async def test_a_place_beyond_the_end_counts_as_the_end(desk: Desk) -> None:
    desk.arrive("ann", ("g.1", 1, "ben"), ("g.1", 2, "ben"))

    desk.work.offer("ann", "phone", 2**62)

    await desk.until_cursor("ann", 2)


async def test_one_s_own_messages_alone_mark_nothing(desk: Desk) -> None:
    desk.arrive("ann", ("g.1", 1, "ann"), ("g.1", 2, "ann"))

    desk.work.offer("ann", "phone", 2)
    await desk.until_cursor("ann", 2)

    assert desk.delivered() == {}


async def test_the_next_acknowledgement_looks_only_at_what_is_new(desk: Desk) -> None:
    desk.arrive("ann", ("g.1", 1, "ben"), ("g.1", 2, "ben"))
    desk.work.offer("ann", "phone", 2)
    await desk.until_cursor("ann", 2)
    desk.disk.marks.clear()
    desk.arrive("ann", ("g.2", 1, "ben"))

    desk.work.offer("ann", "phone", 3)
    await desk.until_cursor("ann", 3)

    assert desk.delivered() == {("g.2", "ann"): 1}


async def test_a_second_device_that_follows_marks_nothing_again(desk: Desk) -> None:
    desk.arrive("ann", ("g.1", 1, "ben"), ("g.1", 2, "ben"))
    desk.work.offer("ann", "phone", 2)
    await desk.until_cursor("ann", 2)
    await desk.told.news.wait()
    told = len(desk.told.events)

    desk.work.offer("ann", "laptop", 2)
    await desk.until_cursor("ann", 2, "laptop")

    assert len(desk.told.events) == told


async def test_acknowledgements_of_a_device_gather_to_the_newest() -> None:
    desk = Desk(most=1)
    desk.arrive("ann", *[("g.1", seq, "ben") for seq in range(1, 10)])
    for pos in (2, 7, 5):
        desk.work.offer("ann", "phone", pos)
    task = asyncio.create_task(desk.work.run())

    await desk.until_cursor("ann", 7)
    task.cancel()

    assert desk.mesh.calls == ["AdvanceCursors", "AdvanceCursors"]


async def test_too_many_waiting_devices_are_refused() -> None:
    desk = Desk(most=1)
    desk.work.offer("ann", "phone", 1)

    with pytest.raises(ResourceExhausted):
        desk.work.offer("ben", "phone", 1)


async def test_marks_are_durable_before_the_cursor_moves_past_them(desk: Desk) -> None:
    desk.arrive("ann", ("g.1", 1, "ben"), ("g.1", 2, "ben"), ("g.1", 3, "ben"))
    desk.mesh.cursors["ann", "phone"] = 1
    seen: list[int] = []
    desk.life.hooks["merge_marks"] = lambda: seen.append(desk.mesh.cursors["ann", "phone"])

    desk.work.offer("ann", "phone", 3)
    await desk.until_cursor("ann", 3)

    assert seen == [1]


async def test_what_fails_is_kept_and_tried_again(desk: Desk) -> None:
    desk.arrive("ann", ("g.1", 1, "ben"))
    desk.mesh.failing = {"AdvanceCursors"}
    desk.work.offer("ann", "phone", 1)
    await desk.mesh.until(lambda: bool(desk.mesh.calls))

    desk.mesh.failing = set()

    await desk.until_cursor("ann", 1)


async def test_of_a_long_absence_only_the_newest_rows_are_looked_at() -> None:
    desk = Desk(rows=2)
    desk.arrive("ann", ("g.1", 1, "ben"), ("g.2", 1, "ben"), ("g.3", 1, "ben"))
    desk.work.offer("ann", "phone", 3)
    task = asyncio.create_task(desk.work.run())

    await desk.until_cursor("ann", 3)
    task.cancel()

    assert desk.disk.marks == {
        ("g.2", "ann"): MarkRow("g.2", "ann", 1, 0),
        ("g.3", "ann"): MarkRow("g.3", "ann", 1, 0),
    }
