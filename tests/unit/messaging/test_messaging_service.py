"""The service as a whole over engines in memory, and once over the embedded ones."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest

from discovery.errors import PermissionDenied, ResourceExhausted, Unavailable
from discovery.ids import Snowflakes
from discovery.rpc.call import Call, Caller, Role, serve_call
from hither.messaging.v1 import messaging_service_pb2 as pb
from services.messaging.service import Messaging
from services.messaging.settings import MessagingSettings
from services.ports.log import Committed, Log
from services.ports.message_store import MessageRow, MessageStore
from services.storage.sqlite.log import SqliteLog
from services.storage.sqlite.messages import SqliteMessageStore
from tests.support.clock import ManualClock
from tests.support.lone_mesh import LoneMesh
from tests.support.memory_ports import Disk, Life, MemoryLog, MemoryStore, MemoryTopics


def quick(
    most_waiting_sends: int = 1000,
    most_recent_outcomes: int = 0,
    send_burst: int = 1000,
    leave_timeout_s: float = 0.01,
    commit_interval_s: float = 0,
) -> MessagingSettings:
    """Settings without pauses."""
    return MessagingSettings(
        send_rate_per_s=0.5,
        send_burst=send_burst,
        most_waiting_sends=most_waiting_sends,
        most_recent_outcomes=most_recent_outcomes,
        commit_interval_s=commit_interval_s,
        acknowledgement_interval_s=0,
        retry_min_s=0.001,
        retry_max_s=0.002,
        leave_timeout_s=leave_timeout_s,
    )


class Town:
    """A messaging service and what it stands on."""

    def __init__(
        self, log: Log, store: MessageStore, settings: MessagingSettings, clock: ManualClock | None = None
    ) -> None:
        self.mesh = LoneMesh()
        self.mesh.members["d.1"] = ["ann", "ben"]
        self.bus = MemoryTopics()
        clock = clock or ManualClock()
        self.messaging = Messaging(self.mesh.as_mesh(), log, store, self.bus, Snowflakes(1, clock), clock, settings)

    async def send(
        self, text: str, client_id: str, sender: str = "ann", conversation: str = "d.1", within_s: float = 5.0
    ) -> pb.SendMessageResponse:
        serve_call(Call("SendMessage", Caller(Role.USER, sender, "phone"), time.monotonic() + within_s, "trace"))
        request = pb.SendMessageRequest(conversation_id=conversation, client_id=client_id, text=text)
        return await self.messaging.servicer.SendMessage(request, None)

    def was_told(self, pos: int) -> bool:
        return ("message", pos) in self.mesh.received(7)

    async def history(self, reader: str = "ben") -> list[str]:
        serve_call(Call("ListMessages", Caller(Role.USER, reader, "phone"), time.monotonic() + 5.0, "trace"))
        page = await self.messaging.servicer.ListMessages(pb.ListMessagesRequest(conversation_id="d.1"), None)
        return [message.text for message in page.messages]

    async def conversations(self, user_id: str) -> list[tuple[str, str, int]]:
        request = pb.ListInboxConversationsRequest(user_id=user_id)
        page = await self.messaging.servicer.ListInboxConversations(request, None)
        return [(one.conversation_id, one.last_message.text, one.unread_count) for one in page.conversations]

    async def inbox(self, user_id: str) -> list[tuple[int, str]]:
        page = await self.messaging.servicer.SyncInbox(pb.SyncInboxRequest(user_id=user_id), None)
        return [(event.pos, event.message.message.text) for event in page.events]


async def turns() -> None:
    """Lets everything that is ready go on for a while."""
    for _ in range(50):
        await asyncio.sleep(0)


@asynccontextmanager
async def running(town: Town) -> AsyncIterator[Town]:
    task = asyncio.create_task(town.messaging.run())
    try:
        await turns()  # the partitions begin
        yield town
    finally:
        task.cancel()
        await asyncio.wait([task])
        if not task.cancelled():
            task.result()


@pytest.fixture
def disk() -> Disk:
    return Disk()


@pytest.fixture
def life() -> Life:
    return Life()


@pytest.fixture
async def town(disk: Disk, life: Life) -> AsyncIterator[Town]:
    async with running(Town(MemoryLog(disk, life), MemoryStore(disk, life), quick())) as town:
        yield town


async def test_a_message_is_acknowledged_with_its_place_and_reaches_both(town: Town) -> None:
    town.mesh.connect("ben", 7)

    answer = await town.send("hi", "c1")
    await town.mesh.until(lambda: town.mesh.received(7) == [("message", 1)])

    assert (answer.seq, answer.client_id, answer.conversation_id, answer.status) == (1, "c1", "d.1", 1)
    assert answer.create_time.ToMilliseconds() == ManualClock().now_ms()
    assert await town.inbox("ben") == [(1, "hi")]


async def test_who_has_no_live_device_is_handed_to_push_but_never_the_sender(town: Town, disk: Disk) -> None:
    await town.send("hi", "c1")
    await disk.until(lambda: any(topic == "push" and records for (topic, _), records in disk.records.items()))
    await disk.until(lambda: disk.settled("inboxes", "inbox"))

    pushed = [record for (topic, _), records in disk.records.items() if topic == "push" for record in records]
    assert len(pushed) == 1


async def test_what_is_sent_after_a_first_look_at_the_history_is_there_without_reading_rows_again(
    town: Town, life: Life
) -> None:
    await town.send("one", "c1")
    assert await town.history() == ["one"]
    await town.send("two", "c2")
    del life.trace[:]

    assert await town.history() == ["one", "two"]
    assert "read_messages" not in life.trace


async def test_a_conversation_is_listed_with_what_others_sent_since_it_was_read(town: Town, disk: Disk) -> None:
    for number in (1, 2, 3):
        await town.send(f"m{number}", f"c{number}")
    await town.send("mine", "c4", sender="ben")
    await disk.until(lambda: disk.settled("inboxes", "inbox"))
    assert await town.conversations("ben") == [("d.1", "mine", 3)]

    serve_call(Call("MarkRead", Caller(Role.USER, "ben", "phone"), time.monotonic() + 5.0, "trace"))
    await town.messaging.servicer.MarkRead(pb.MarkReadRequest(conversation_id="d.1", seq=2), None)

    assert await town.conversations("ben") == [("d.1", "mine", 1)]
    assert await town.conversations("ann") == [("d.1", "mine", 1)]


@pytest.mark.parametrize("remembered", [0, 100])
async def test_a_retry_with_the_same_client_id_gets_the_first_answer(disk: Disk, life: Life, remembered: int) -> None:
    settings = quick(most_recent_outcomes=remembered)
    async with running(Town(MemoryLog(disk, life), MemoryStore(disk, life), settings)) as town:
        first = await town.send("hi", "c1")
        again = await town.send("hi", "c1")
        other = await town.send("ho", "c2")

        assert again == first
        assert other.seq == 2


async def test_sends_at_once_share_appends_and_keep_their_order(town: Town, life: Life) -> None:
    answers = await asyncio.gather(*(town.send(f"m{number}", f"c{number}") for number in range(100)))

    assert [answer.seq for answer in answers] == list(range(1, 101))
    assert life.trace.count("after append messages") <= 3


async def test_a_sender_who_may_not_send_is_refused_but_learns_what_was_accepted_before(town: Town) -> None:
    first = await town.send("hi", "c1")
    town.mesh.refusals["d.1", "ann"] = PermissionDenied(reason="BLOCKED")
    await town.bus.publish("directory.changes", b"conversation d.1")

    with pytest.raises(PermissionDenied):
        await town.send("ho", "c2")

    assert await town.send("hi", "c1") == first


async def test_a_sender_beyond_the_rate_is_told_when_to_come_back(disk: Disk, life: Life) -> None:
    async with running(Town(MemoryLog(disk, life), MemoryStore(disk, life), quick(send_burst=1))) as town:
        await town.send("hi", "c1")

        with pytest.raises(ResourceExhausted) as caught:
            await town.send("ho", "c2")

        assert (caught.value.reason, caught.value.retry_after_s) == ("RATE_LIMITED", 2.0)


async def test_too_many_waiting_sends_are_refused_before_anything_is_done(disk: Disk, life: Life) -> None:
    async with running(Town(MemoryLog(disk, life), MemoryStore(disk, life), quick(most_waiting_sends=1))) as town:
        first, second = await asyncio.gather(town.send("a", "c1"), town.send("b", "c2"), return_exceptions=True)

        assert isinstance(first, pb.SendMessageResponse)
        assert isinstance(second, ResourceExhausted)
        assert second.reason == "OVERLOADED"


class Held(MemoryStore):
    """A store that writes no message until the gate is open."""

    def __init__(self, disk: Disk, life: Life) -> None:
        super().__init__(disk, life)
        self.arrived = asyncio.Event()
        self.gate = asyncio.Event()

    async def put_messages(self, rows: Sequence[MessageRow]) -> None:
        self.arrived.set()
        await self.gate.wait()
        await super().put_messages(rows)


async def test_rule_7_a_send_whose_partition_moves_away_is_of_unknown_outcome_and_the_retry_finds_it(
    disk: Disk, life: Life
) -> None:
    store = Held(disk, life)
    async with running(Town(MemoryLog(disk, life), store, quick())) as town:
        first = asyncio.create_task(town.send("hi", "c1"))
        await store.arrived.wait()
        town.mesh.own()
        with pytest.raises(Unavailable) as caught:
            await first
        assert caught.value.reason == "OUTCOME_UNKNOWN"

        store.gate.set()
        town.mesh.own(*range(town.mesh.partitions))
        await turns()

        assert (await town.send("hi", "c1")).seq == 1
        assert len(disk.messages["d.1"]) == 1


async def test_a_partition_that_moves_away_finishes_what_it_took_and_takes_no_more(disk: Disk, life: Life) -> None:
    store = Held(disk, life)
    async with running(Town(MemoryLog(disk, life), store, quick(leave_timeout_s=5))) as town:
        first = asyncio.create_task(town.send("hi", "c1"))
        await store.arrived.wait()
        town.mesh.own()
        await turns()
        with pytest.raises(Unavailable) as caught:
            await town.send("too late", "c2")
        assert caught.value.reason == "NO_OWNER"
        leaving = asyncio.create_task(town.messaging.handed_over())
        await turns()
        assert not leaving.done()

        store.gate.set()
        assert (await first).seq == 1
        await leaving


async def test_a_partition_that_has_left_has_committed_what_it_applied(disk: Disk, life: Life) -> None:
    settings = quick(leave_timeout_s=5, commit_interval_s=3600)
    async with running(Town(MemoryLog(disk, life), MemoryStore(disk, life), settings)) as town:
        await town.send("one", "c1")
        await disk.until(lambda: disk.settled("conversations", "messages"))
        await town.send("two", "c2")
        assert not disk.settled("conversations", "messages")
        town.mesh.own()
        await town.messaging.handed_over()
        assert disk.settled("conversations", "messages")


async def test_a_send_that_is_not_seen_in_time_is_of_unknown_outcome(town: Town, life: Life) -> None:
    with pytest.raises(Unavailable) as caught:
        await town.send("hi", "c1", within_s=0.0)

    assert caught.value.reason == "OUTCOME_UNKNOWN"


async def test_a_conversation_that_is_not_here_is_refused_without_a_trace(town: Town, disk: Disk) -> None:
    town.mesh.own()
    await turns()

    with pytest.raises(Unavailable) as caught:
        await town.send("hi", "c1")

    assert caught.value.reason == "NO_OWNER"
    assert not any(records for records in disk.records.values())


class Failing(MemoryStore):
    """A store that is away while `down`."""

    down = True

    async def put_messages(self, rows: Sequence[MessageRow]) -> None:
        if self.down:
            raise Unavailable("the store is away")
        await super().put_messages(rows)


async def test_a_store_that_is_away_refuses_sends_and_says_so_and_what_is_in_the_log_is_applied_when_it_returns(
    disk: Disk, life: Life
) -> None:
    store = Failing(disk, life)
    async with running(Town(MemoryLog(disk, life), store, quick())) as town:
        with pytest.raises(Unavailable) as unknown:
            await town.send("hi", "c1")
        with pytest.raises(Unavailable) as refused:
            await town.send("ho", "c2")
        problems = town.messaging.health()

        store.down = False
        await disk.until(lambda: bool(disk.inboxes["ben"]) and disk.settled("conversations", "messages"))
        await turns()
        assert town.messaging.health() == []
        assert (await town.send("hi", "c1")).seq == 1

    assert (unknown.value.reason, refused.value.reason) == ("OUTCOME_UNKNOWN", "ENGINE_DOWN")
    assert [(problem.projection, problem.text) for problem in problems] == [
        ("conversations", "Unavailable: the store is away")
    ]


async def test_devices_that_cannot_be_told_hold_nothing_back(town: Town, disk: Disk) -> None:
    town.mesh.failing = {"LookupConnections"}

    await town.send("hi", "c1")
    await disk.until(lambda: bool(disk.inboxes["ben"]) and disk.settled("inboxes", "inbox"))

    assert town.messaging.health() == []
    assert await town.inbox("ben") == [(1, "hi")]


async def test_a_device_that_could_not_be_told_is_told_when_its_edge_is_back(town: Town) -> None:
    town.mesh.connect("ben", 7)
    town.mesh.dead_edges = {"edge"}
    await town.send("one", "c1")
    await town.send("two", "c2")
    await town.mesh.until(lambda: town.mesh.calls.count("LookupConnections") >= 2)

    town.mesh.dead_edges = set()

    await town.mesh.until(lambda: town.was_told(2))


async def test_acknowledging_and_reading_reach_the_sender(town: Town, disk: Disk) -> None:
    town.mesh.connect("ann", 7)
    await town.send("hi", "c1")
    await disk.until(lambda: bool(disk.inboxes["ben"]))

    acknowledgement = pb.AcknowledgeInboxRequest(user_id="ben", device_id="phone", pos=1)
    await town.messaging.servicer.AcknowledgeInbox(acknowledgement, None)
    await town.mesh.until(lambda: ("message_status", 0) in town.mesh.received(7))
    serve_call(Call("MarkRead", Caller(Role.USER, "ben", "phone"), time.monotonic() + 5, "trace"))
    await town.messaging.servicer.MarkRead(pb.MarkReadRequest(conversation_id="d.1", seq=1), None)

    await town.mesh.until(lambda: town.mesh.received(7).count(("message_status", 0)) == 2)


async def test_the_log_lets_go_of_what_was_committed_a_round_ago_less_a_margin(town: Town, disk: Disk) -> None:
    trimming = town.messaging._trimming
    trimming._settings = MessagingSettings(trim_margin=1, most_push_records=1)
    for number in range(4):
        await town.send(f"m{number}", f"c{number}")
    await disk.until(lambda: disk.settled("inboxes", "inbox") and disk.settled("conversations", "messages"))
    partition = town.mesh.partition_of("d.1")

    await trimming.trim()
    assert len(disk.records["messages", partition]) == 4
    await trimming.trim()

    assert [record.offset for record in disk.records["messages", partition]] == [3]
    assert sum(len(records) for (topic, _), records in disk.records.items() if topic == "push") == 1


async def test_the_log_lets_go_of_what_push_has_committed(town: Town, disk: Disk) -> None:
    trimming = town.messaging._trimming
    trimming._settings = MessagingSettings(trim_margin=1, most_push_records=100)
    partition = town.mesh.partition_of("ben")
    disk.append("push", partition, [b"record"] * 20)
    await trimming.trim()
    await trimming.trim()
    assert len(disk.records["push", partition]) == 20

    disk.commits["push", "push", partition] = Committed(15, b"")
    await trimming.trim()
    assert len(disk.records["push", partition]) == 20
    await trimming.trim()

    assert [record.offset for record in disk.records["push", partition]] == [14, 15, 16, 17, 18, 19]


async def test_the_same_over_the_embedded_engines_which_outlive_the_service(tmp_path: Path) -> None:
    answers: list[pb.SendMessageResponse] = []
    clock = ManualClock()
    for life in range(2):
        clock.advance(1)
        log = await SqliteLog.open(tmp_path / "log.db")
        store = await SqliteMessageStore.open(tmp_path / "messages.db")
        async with running(Town(log, store, quick(), clock)) as town:
            town.mesh.connect("ben", 7)
            last = 40 * (life + 1)
            sends = [town.send(f"m{life}-{number % 40}", f"c{life}-{number % 40}") for number in range(50)]
            answers += await asyncio.gather(*sends)
            await town.mesh.until(partial(town.was_told, last))
            inbox = await town.inbox("ben")
        await log.close()
        await store.close()

    assert [answer.seq for answer in answers[:40]] == list(range(1, 41))
    assert answers[40:50] == answers[:10]
    assert {answer.seq for answer in answers} == set(range(1, 81))
    assert [pos for pos, _ in inbox] == list(range(1, 81))
    assert [text for _, text in inbox] == [f"m{life}-{number}" for life in range(2) for number in range(40)]


async def test_a_service_posts_in_a_members_name_once_however_often_it_tries(town: Town) -> None:
    town.mesh.connect("ben", 7)
    request = pb.PostMessageRequest(conversation_id="d.1", sender_id="ann", client_id="live.1")
    request.content.media_type, request.content.data = "application/json", b"{}"
    serve_call(Call("PostMessage", Caller(Role.SERVICE, service="sessions"), time.monotonic() + 5, "trace"))

    first = await town.messaging.servicer.PostMessage(request, None)
    again = await town.messaging.servicer.PostMessage(request, None)

    await town.mesh.until(lambda: town.was_told(1))
    assert (first.seq, again) == (1, first)
    page = await town.messaging.servicer.SyncInbox(pb.SyncInboxRequest(user_id="ben"), None)
    [event] = page.events
    assert (event.message.message.sender_id, event.message.message.content.data) == ("ann", b"{}")


async def test_a_service_does_not_post_for_who_is_no_member(town: Town) -> None:
    town.mesh.refusals["d.1", "eve"] = PermissionDenied(reason="NOT_A_MEMBER")
    request = pb.PostMessageRequest(conversation_id="d.1", sender_id="eve", client_id="live.1")
    request.content.media_type, request.content.data = "application/json", b"{}"
    serve_call(Call("PostMessage", Caller(Role.SERVICE, service="sessions"), time.monotonic() + 5, "trace"))

    with pytest.raises(PermissionDenied):
        await town.messaging.servicer.PostMessage(request, None)
