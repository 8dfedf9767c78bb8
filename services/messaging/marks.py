"""Reading and typing: what a member does in a conversation beside sending."""

from hither.messaging.v1 import messaging_pb2
from services.delivery import UserEvent
from services.messaging.history import status_event
from services.messaging.membership import Memberships
from services.messaging.signals import Signals
from services.ports.message_store import MarkRow, MessageStore


class Marks:
    """Raises marks, and tells whom they concern."""

    def __init__(self, store: MessageStore, memberships: Memberships, signals: Signals) -> None:
        self._store = store
        self._memberships = memberships
        self._signals = signals

    async def mark_read(self, conversation_id: str, user_id: str, seq: int) -> None:
        """The user has read the conversation up to `seq`, or to its end. Raises NOT_A_MEMBER."""
        readers = await self._memberships.readers(conversation_id, user_id)
        heads = await self._store.conversation_heads([conversation_id])
        seq = min(seq, heads[conversation_id].place)
        if seq < 1:
            return
        # What has been read was delivered before.
        changed = await self._store.merge_marks([MarkRow(conversation_id, user_id, seq, seq)])
        for mark in changed:
            if mark.seen_seq == seq:  # else only "delivered" was raised, below what had been seen
                self._signals.offer(mark_events(mark, messaging_pb2.MESSAGE_STATUS_SEEN, seq, readers))

    async def typing(self, conversation_id: str, user_id: str) -> None:
        """Tells the other members. Raises NOT_A_MEMBER, BLOCKED."""
        members = await self._memberships.members(conversation_id, user_id)
        payload = messaging_pb2.TypingEvent(conversation_id=conversation_id, user_id=user_id).SerializeToString()
        key = f"typing:{conversation_id}:{user_id}"
        self._signals.offer(
            UserEvent(member, "typing", payload, conflation_key=key) for member in members if member != user_id
        )


def mark_events(
    mark: MarkRow, status: messaging_pb2.MessageStatus.ValueType, seq: int, receivers: tuple[str, ...] | frozenset[str]
) -> list[UserEvent]:
    """The news of a mark for those whom it concerns; the newest for each conversation, user and status counts."""
    payload = status_event(mark, seq, status).SerializeToString()
    name = messaging_pb2.MessageStatus.Name(status).removeprefix("MESSAGE_STATUS_")
    key = f"status:{mark.conversation_id}:{mark.user_id}:{name}"
    return [UserEvent(receiver, "message_status", payload, conflation_key=key) for receiver in receivers]
