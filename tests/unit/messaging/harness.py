"""Runs the projections of all partitions over a Disk, as one process would, and looks at what they left."""

import asyncio
import random
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from hither.messaging.v1 import messaging_pb2, records_pb2
from services.delivery import UserEvent
from services.messaging import conversation_projection, inbox_projection
from services.messaging.activity import RecentActivity, follow
from services.messaging.conversation_projection import ConversationProjection
from services.messaging.inbox_log import InboxLog
from services.messaging.inbox_projection import InboxProjection
from services.messaging.sequencing import Outcome
from services.messaging.settings import MessagingSettings
from services.messaging.supervision import Status
from services.ports.message_store import DedupKey
from tests.support.clock import ManualClock
from tests.support.memory_ports import Died, Disk, Life, MemoryLog, MemoryStore

PARTITIONS = 2
SETTINGS = MessagingSettings(commit_interval_s=0, acknowledgement_interval_s=0)


def partition_of(key: str) -> int:
    """Stable, and easy to read: by the last digit or letter."""
    return ord(key[-1]) % PARTITIONS


def accepted(
    message_id: int,
    conversation_id: str = "g.0",
    sender_id: str = "ann0",
    client_id: str = "",
    recipients: Sequence[str] = (),
) -> bytes:
    """A record of "messages"; the client id is made from the message id unless given."""
    message = messaging_pb2.Message(
        message_id=message_id,
        conversation_id=conversation_id,
        sender_id=sender_id,
        client_id=client_id or f"c{message_id}",
        text=f"text {message_id}",
    )
    message.create_time.FromMilliseconds(1_790_000_000_000)
    return records_pb2.AcceptedMessage(
        message=message, recipient_ids=recipients or (sender_id, "ben1")
    ).SerializeToString()


@dataclass(slots=True)
class FakeTeller:
    """Tells everybody who is connected; remembers what it told."""

    connected: set[str] = field(default_factory=set)
    told: list[UserEvent] = field(default_factory=list)

    async def to_users(self, events: Sequence[UserEvent]) -> frozenset[str]:
        await asyncio.sleep(0)
        self.told += [event for event in events if event.user_id in self.connected]
        return frozenset(event.user_id for event in events) - self.connected


@dataclass(slots=True)
class World:
    """What all processes share, and everything that any of them has said."""

    disk: Disk = field(default_factory=Disk)
    teller: FakeTeller = field(default_factory=FakeTeller)
    outcomes: list[Outcome] = field(default_factory=list)

    def settled(self) -> bool:
        """Whether everything is applied and committed now."""
        return self.disk.settled(conversation_projection.GROUP, "messages") and self.disk.settled(
            inbox_projection.GROUP, "inbox"
        )

    def was_settled(self) -> bool:
        """Whether it was, though another owner may have taken a commit back since."""
        return self.disk.was_settled(conversation_projection.GROUP, "messages") and self.disk.was_settled(
            inbox_projection.GROUP, "inbox"
        )

    async def live(self, life: Life, batch_records: int = 512) -> None:
        """Runs one process until everything was settled, or it dies."""
        await self._live_until(self.was_settled, life, batch_records)

    async def _live_until(self, settled: Callable[[], bool], life: Life, batch_records: int) -> None:
        async with asyncio.TaskGroup() as group:
            task = group.create_task(self.run(life, batch_records))
            watch = group.create_task(self.disk.until(settled))
            await asyncio.wait([task, watch], return_when=asyncio.FIRST_COMPLETED)
            task.cancel()
            watch.cancel()

    async def run(self, life: Life, batch_records: int = 512) -> None:
        """Runs one process until it is cancelled or dies; anything else that ends it is raised."""
        settings = MessagingSettings(commit_interval_s=0, batch_records=batch_records)
        recent_activity = RecentActivity(10)
        log, store, clock = MemoryLog(self.disk, life), MemoryStore(self.disk, life), ManualClock()
        try:
            async with asyncio.TaskGroup() as group:
                for number in range(PARTITIONS):
                    status = Status("conversations", number)
                    conversations = ConversationProjection(
                        log,
                        store,
                        InboxLog(log).append,
                        partition_of,
                        lambda _: None,
                        self.outcomes.extend,
                        status,
                        clock,
                        settings,
                    )
                    group.create_task(conversations.run())
                    status = Status("inboxes", number)
                    inboxes = InboxProjection(
                        log, store, self.teller, lambda _: None, recent_activity, status, clock, settings
                    )
                    group.create_task(inboxes.run())
        except* Died:
            pass

    async def recover(self) -> None:
        """Runs a process that does not die, until everything is settled."""
        async with asyncio.timeout(30):
            await self._live_until(self.settled, Life(), 512)

    def accept(self, record: bytes) -> int:
        """Appends to the conversation's partition of "messages"; returns the offset."""
        message = records_pb2.AcceptedMessage.FromString(record).message
        return self.disk.append("messages", partition_of(message.conversation_id), [record])[0]

    def inbox(self, user_id: str) -> list[tuple[str, int]]:
        """The user's inbox as (conversation, seq) in order of place."""
        return [(row.conversation_id, row.seq) for _, row in sorted(self.disk.inboxes[user_id].items())]

    def seqs(self, conversation_id: str) -> dict[int, str]:
        """The conversation as seq to client id."""
        return {seq: row.client_id for seq, row in sorted(self.disk.messages[conversation_id].items())}

    def pushed(self) -> set[tuple[str, int]]:
        """(user, pos) of everything in the log "push"."""
        return {
            (record.user_id, record.pos)
            for (topic, _), records in self.disk.records.items()
            if topic == "push"
            for record in (records_pb2.PushRecord.FromString(item.value) for item in records)
        }


def check_exactly_once(world: World) -> None:
    """No accepted message is lost, doubled or out of order, anywhere."""
    firsts: dict[DedupKey, records_pb2.AcceptedMessage] = {}
    for (topic, _), records in world.disk.records.items():
        for record in records if topic == "messages" else ():
            item = records_pb2.AcceptedMessage.FromString(record.value)
            message = item.message
            firsts.setdefault((message.conversation_id, message.sender_id, message.client_id), item)
    rows = [row for conversation in world.disk.messages.values() for row in conversation.values()]
    keys = [(row.conversation_id, row.sender_id, row.client_id) for row in rows]
    assert sorted(keys) == sorted(firsts), "a message is missing or was taken twice"
    for conversation_id, conversation in world.disk.messages.items():
        assert sorted(conversation) == list(range(1, len(conversation) + 1)), f"{conversation_id} has gaps"
        offsets = [row.log_offset for _, row in sorted(conversation.items())]
        assert offsets == sorted(set(offsets)), f"{conversation_id} is out of order"
    for row in rows:
        message = messaging_pb2.Message.FromString(row.payload)
        first = firsts[row.conversation_id, row.sender_id, row.client_id].message
        assert (message.seq, message.message_id, message.text) == (row.seq, first.message_id, first.text)
    _check_inboxes(world, firsts)
    _check_activity(world)
    for outcome in world.outcomes:
        row = world.disk.sent[outcome.key]
        assert outcome.message.SerializeToString() == row.payload, "an ack is not what history says"


def _check_activity(world: World) -> None:
    """What is stored of each conversation of each inbox is what its rows make of it from the first on."""
    for user_id, inbox in world.disk.inboxes.items():
        rows = [row for _, row in sorted(inbox.items())]
        expected = {(item.user_id, item.conversation_id): item for item in follow({}, rows)}
        stored = {place: item for place, item in world.disk.activity.items() if place[0] == user_id}
        assert stored == expected, f"the conversations of {user_id} are not what the inbox makes of them"


def _check_inboxes(world: World, firsts: dict[DedupKey, records_pb2.AcceptedMessage]) -> None:
    due: defaultdict[str, list[tuple[str, int]]] = defaultdict(list)
    for key, item in firsts.items():
        for user_id in item.recipient_ids:
            due[user_id].append((key[0], world.disk.sent[key].seq))
    told = {(event.user_id, event.pos) for event in world.teller.told} | world.pushed()
    for user_id in due.keys() | world.disk.inboxes.keys():
        inbox = world.inbox(user_id)
        assert sorted(inbox) == sorted(due[user_id]), f"the inbox of {user_id} misses or doubles a message"
        assert sorted(world.disk.inboxes[user_id]) == list(range(1, len(inbox) + 1)), f"the inbox of {user_id} has gaps"
        for conversation_id in {place[0] for place in inbox}:
            seqs = [seq for its_conversation, seq in inbox if its_conversation == conversation_id]
            assert seqs == sorted(seqs), f"the inbox of {user_id} is out of order"
        for pos, row in world.disk.inboxes[user_id].items():
            assert (user_id, pos) in told or row.sender_id == user_id, f"{user_id} was never told of {pos}"


def random_life(seed: int, dies_at: float) -> Life:
    """A process whose calls take random turns."""
    return Life(dies_at, random.Random(seed))
