"""The message store on Cassandra: conversations, inboxes and marks in one keyspace.

A write that returned is in the commit log of a majority of the datacenter's replicas. On their disks it is then only if the nodes
have `commitlog_sync: batch` or `group`; of another setting the store warns when it is opened. So flush has nothing to wait for.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Self

import structlog
from cassandra import InvalidRequest, Unauthorized
from cassandra.cluster import Session

from services.ports.message_store import (
    Activity,
    ActivityPlace,
    ActivityRow,
    DedupKey,
    Head,
    InboxRow,
    MarkRow,
    MessageRow,
)
from services.storage.access import OPEN, Access
from services.storage.cassandra.buckets import Buckets
from services.storage.cassandra.conversations import Conversations
from services.storage.cassandra.engine import Engine
from services.storage.cassandra.inboxes import Inboxes
from services.storage.cassandra.marks import Marks
from services.storage.cassandra.schema import Keyspace, checked_name, migrate

PLACES_A_BUCKET = 10_000
SENT_TTL_S = 30 * 24 * 3600
_LEAST_SENT_TTL_S = 7 * 24 * 3600
_MARKS_FOR_EACH = 10
"""recent_marks gives at most this many for each conversation asked for, on average."""
_SYNC_MODE = "SELECT value FROM system_views.settings WHERE name = 'commitlog_sync'"
_SYNC_MODE_S = 5.0
_log = structlog.get_logger(__name__)


class CassandraMessageStore:
    """See services.ports.message_store.MessageStore. RowConflict is checked, not locked: see rows.py.

    Rows are kept without an end. Raises Unavailable (ENGINE_DOWN) also when the outcome of a write is not known: every write may be
    repeated. Connects again by itself.
    """

    def __init__(self, engine: Engine, conversations: Conversations, inboxes: Inboxes, marks: Marks) -> None:
        self._engine = engine
        self._conversations = conversations
        self._inboxes = inboxes
        self._marks = marks

    @classmethod
    async def open(
        cls,
        contact_points: Sequence[str],
        port: int,
        keyspace: str,
        *,
        replication: int = 1,
        datacenter: str | None = None,
        access: Access = OPEN,
        sent_ttl_s: int = SENT_TTL_S,
        places_a_bucket: int = PLACES_A_BUCKET,
    ) -> Self:
        """Connects to nodes of one datacenter (by default that of the contact points) and makes what the keyspace lacks.

        `keyspace` is a lower-case name; it is made, if need be, with `replication` copies in the datacenter. `sent_ttl_s` is at
        least 7 days. `places_a_bucket` must never change for a keyspace. Raises ValueError, SchemaTooNew, Unavailable, or
        AccessRefused.
        """
        if sent_ttl_s < _LEAST_SENT_TTL_S:
            raise ValueError("ids that were sent must be kept for at least 7 days")
        place = Keyspace(checked_name(keyspace), replication)
        engine = await Engine.open(contact_points, port, datacenter, access)
        try:
            await engine.run_blocking(partial(migrate, keyspace=place))
            await engine.run_blocking(_warn_unless_durable)
            buckets = Buckets(places_a_bucket)
            return cls(
                engine,
                await engine.run_blocking(
                    partial(Conversations.prepare, engine, buckets, sent_ttl_s, keyspace=keyspace)
                ),
                await engine.run_blocking(partial(Inboxes.prepare, engine, buckets, keyspace=keyspace)),
                await engine.run_blocking(partial(Marks.prepare, engine, keyspace=keyspace)),
            )
        except BaseException:
            await engine.close()
            raise

    async def conversation_heads(self, conversation_ids: Sequence[str]) -> Mapping[str, Head]:
        """See ConversationStore."""
        with self._engine.working():
            return await self._conversations.heads(conversation_ids)

    async def find_sent(self, keys: Sequence[DedupKey]) -> Mapping[DedupKey, MessageRow]:
        """See ConversationStore."""
        with self._engine.working():
            return await self._conversations.find_sent(keys)

    async def put_messages(self, rows: Sequence[MessageRow]) -> None:
        """See ConversationStore."""
        with self._engine.working():
            await self._conversations.put(rows)

    async def read_messages(
        self, conversation_id: str, after_seq: int, before_seq: int, limit: int, newest: bool
    ) -> Sequence[MessageRow]:
        """See ConversationStore."""
        with self._engine.working():
            return await self._conversations.read(conversation_id, after_seq, before_seq, limit, newest)

    async def inbox_heads(self, user_ids: Sequence[str]) -> Mapping[str, Head]:
        """See InboxStore."""
        with self._engine.working():
            return await self._inboxes.heads(user_ids)

    async def put_inbox(self, rows: Sequence[InboxRow], activity: Sequence[ActivityRow] = ()) -> None:
        """See InboxStore."""
        with self._engine.working():
            await self._inboxes.put(rows, activity)

    async def read_inbox(self, user_id: str, after_pos: int, limit: int) -> Sequence[InboxRow]:
        """See InboxStore."""
        with self._engine.working():
            return await self._inboxes.read(user_id, after_pos, limit)

    async def inbox_activity(self, places: Sequence[ActivityPlace]) -> Mapping[ActivityPlace, ActivityRow]:
        """See InboxStore."""
        with self._engine.working():
            return await self._inboxes.activity(places)

    async def list_activity(self, user_id: str, before_pos: int, limit: int) -> Sequence[Activity]:
        """See InboxStore. Of a user with more than 20,000 conversations, some are not listed."""
        with self._engine.working():
            found = await self._inboxes.newest_activity(user_id, before_pos, limit) if limit > 0 else []
            marks = await self._marks.of_user(user_id, [activity.conversation_id for activity, _ in found])
            # An inbox row that is not there yet is the copy of a message that is.
            sent = await self._conversations.at(
                [(activity.conversation_id, activity.last_seq) for activity, row in found if row is None]
            )
            listed = []
            for activity, inbox_row in found:
                row = inbox_row or sent[activity.conversation_id, activity.last_seq]
                mark = marks.get(activity.conversation_id)
                listed.append(Activity(activity, mark.seen_seq if mark else 0, row.payload))
            return listed

    async def merge_marks(self, marks: Sequence[MarkRow]) -> Sequence[MarkRow]:
        """See InboxStore."""
        with self._engine.working():
            return await self._marks.merge(marks)

    async def read_marks(self, conversation_id: str, after_user_id: str, limit: int) -> Sequence[MarkRow]:
        """See InboxStore."""
        with self._engine.working():
            return await self._marks.read(conversation_id, after_user_id, limit)

    async def recent_marks(self, user_id: str, limit: int) -> Sequence[MarkRow]:
        """See InboxStore. The newest conversation's marks come first; of one conversation, in order of user id.

        Conversations that have no row among the newest 15 buckets or so of the inbox (150,000 rows) are not recent.
        """
        with self._engine.working():
            recent = await self._inboxes.recent_conversations(user_id, limit) if limit > 0 else []
            return await self._marks.of_conversations(recent, limit * _MARKS_FOR_EACH)

    async def flush(self) -> None:
        """See MessageStore. What was written before is durable already."""
        with self._engine.working():
            pass

    async def close(self) -> None:
        """See MessageStore. May be called twice."""
        await self._engine.close()


def _warn_unless_durable(session: Session) -> None:
    try:
        row = session.execute(_SYNC_MODE, timeout=_SYNC_MODE_S).one()
    except (InvalidRequest, Unauthorized):
        return
    if row and row[0] not in {"batch", "group"}:
        _log.warning("cassandra.writes_not_durable", commitlog_sync=row[0])
