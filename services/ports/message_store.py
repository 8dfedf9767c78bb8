"""The message store: conversations, inboxes and marks, as projections of the log."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from discovery.errors import Internal


class RowConflict(Internal):
    """A row was to be written where another one stands. Rows are made by deterministic projections: this is a bug."""


@dataclass(frozen=True, slots=True)
class MessageRow:
    """A message of a conversation. `log_offset` is the offset, in its partition of "messages", that made the row;
    `payload` the serialised hither.messaging.v1.Message, its seq included.
    """

    conversation_id: str
    seq: int
    sender_id: str
    client_id: str
    log_offset: int
    payload: bytes


@dataclass(frozen=True, slots=True)
class InboxRow:
    """An event of a user's inbox. `log_offset` is the offset, in its partition of "inbox", that made the row; several rows
    of one user may share it. `conversation_id` and `seq` name the message, `payload` is the serialised Message.
    """

    user_id: str
    pos: int
    log_offset: int
    conversation_id: str
    seq: int
    sender_id: str
    payload: bytes


@dataclass(frozen=True, slots=True)
class Head:
    """The newest row of a conversation (place is seq) or an inbox (place is pos); Head(0, -1) if there is none."""

    place: int
    log_offset: int


@dataclass(frozen=True, slots=True)
class MarkRow:
    """How far a member has come in a conversation; zero: not at all."""

    conversation_id: str
    user_id: str
    delivered_seq: int
    seen_seq: int


@dataclass(frozen=True, slots=True)
class ActivityRow:
    """What a user's inbox holds of one conversation, up to its row at `last_pos`, which is the message `last_seq`: without a gap
    the messages from `since_seq` on, of which `own_seqs` (ascending, the newest few) are the user's own.
    """

    user_id: str
    conversation_id: str
    last_pos: int
    last_seq: int
    since_seq: int
    own_seqs: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Activity:
    """A conversation of a user, with the user's seen mark there (zero: none) and its newest message, serialised."""

    row: ActivityRow
    seen_seq: int
    payload: bytes


ActivityPlace = tuple[str, str]
"""(user_id, conversation_id)."""

DedupKey = tuple[str, str, str]
"""(conversation_id, sender_id, client_id)."""


class ConversationStore(Protocol):
    """Messages by conversation. Writing a row again changes nothing (rows are immutable); another row in the same
    place, or with the same DedupKey, raises RowConflict and nothing of the call is written.

    Rows that a method returned from writing are visible to every later read, survive the end of the process, and are durable
    once a later `flush` has returned (marks at once). Raises discovery.errors.Unavailable (ENGINE_DOWN) when the engine
    is away.
    """

    async def conversation_heads(self, conversation_ids: Sequence[str]) -> Mapping[str, Head]:
        """The newest row of each conversation; every asked id is in the answer."""

    async def find_sent(self, keys: Sequence[DedupKey]) -> Mapping[DedupKey, MessageRow]:
        """The rows with these ids, kept for at least 7 days; what is not found is not in the answer."""

    async def put_messages(self, rows: Sequence[MessageRow]) -> None:
        """Writes the rows; those of one conversation become visible all at once and after all before them."""

    async def read_messages(
        self, conversation_id: str, after_seq: int, before_seq: int, limit: int, newest: bool
    ) -> Sequence[MessageRow]:
        """Rows with after_seq < seq < before_seq, at most `limit`: the newest of them or the oldest; ascending in any case."""


class InboxStore(Protocol):
    """Inboxes by user, and marks. Durability, idempotency and errors as in ConversationStore."""

    async def inbox_heads(self, user_ids: Sequence[str]) -> Mapping[str, Head]:
        """The newest row of each inbox; every asked id is in the answer."""

    async def put_inbox(self, rows: Sequence[InboxRow], activity: Sequence[ActivityRow] = ()) -> None:
        """Writes the rows; those of one user become visible all at once and after all before them.

        `activity` is what the rows make of their conversations. Of each conversation the one with the highest last_pos stays,
        whoever writes last. It is written with the rows or before them: a row that is visible is in it.
        """

    async def read_inbox(self, user_id: str, after_pos: int, limit: int) -> Sequence[InboxRow]:
        """Rows with pos > after_pos, ascending, at most `limit`."""

    async def inbox_activity(self, places: Sequence[ActivityPlace]) -> Mapping[ActivityPlace, ActivityRow]:
        """The conversations at these places; what is not found is not in the answer."""

    async def list_activity(self, user_id: str, before_pos: int, limit: int) -> Sequence[Activity]:
        """The user's conversations with last_pos < before_pos, at most `limit`, in descending order of last_pos."""

    async def merge_marks(self, marks: Sequence[MarkRow]) -> Sequence[MarkRow]:
        """Raises each stored mark to the given one, field by field (never lowers). Returns the rows that changed, as they now are."""

    async def read_marks(self, conversation_id: str, after_user_id: str, limit: int) -> Sequence[MarkRow]:
        """Marks of a conversation with user_id > after_user_id, in order of user id."""

    async def recent_marks(self, user_id: str, limit: int) -> Sequence[MarkRow]:
        """Marks of the `limit` conversations that are newest in the user's inbox, of all their members, at most 10 x limit."""


class MessageStore(ConversationStore, InboxStore, Protocol):
    """Both, as one engine offers them."""

    async def flush(self) -> None:
        """Returns when every row that was written before is on disk. Who commits an offset flushes first: what a lost
        machine takes with it is then applied again from the log.
        """

    async def close(self) -> None:
        """Finishes the writes that were begun, then lets the engine go."""
