"""Inbox rows by user, and which conversations are newest in an inbox.

Each bucket keeps, beside its rows and written with them, `turns`: the place of the newest row of each conversation in it. A turn's
timestamp is the last place of the call that wrote it, so that Cassandra keeps the newest, whoever writes last.
"""

from collections.abc import Mapping, Sequence

from cassandra.cluster import Session
from cassandra.query import PreparedStatement

from services.ports.message_store import ActivityPlace, ActivityRow, Head, InboxRow
from services.storage.cassandra.activity import InboxActivity
from services.storage.cassandra.buckets import Buckets
from services.storage.cassandra.engine import Engine, Statement
from services.storage.cassandra.rows import BucketedRows, Table

_TABLE = Table("inbox", InboxRow, ("user_id", "pos", "log_offset", "conversation_id", "seq", "sender_id", "payload"))
_MOST_BUCKETS = 16
"""Buckets, from the newest, in which recent conversations are looked for."""


class Inboxes:
    """See InboxStore."""

    def __init__(
        self,
        engine: Engine,
        rows: BucketedRows[InboxRow],
        activity: InboxActivity,
        buckets: Buckets,
        add_turns: PreparedStatement,
        select_turns: PreparedStatement,
    ) -> None:
        self._engine = engine
        self._rows = rows
        self._activity = activity
        self._buckets = buckets
        self._add_turns = add_turns
        self._select_turns = select_turns

    @classmethod
    def prepare(cls, engine: Engine, buckets: Buckets, session: Session, keyspace: str) -> "Inboxes":
        """Blocks while the server prepares the statements."""
        return cls(
            engine,
            BucketedRows.prepare(engine, _TABLE, buckets, session, keyspace),
            InboxActivity.prepare(engine, session, keyspace),
            buckets,
            session.prepare(
                f"UPDATE {keyspace}.inbox USING TIMESTAMP ? SET turns = turns + ? WHERE user_id = ? AND bucket = ?"
            ),
            session.prepare(
                f"SELECT DISTINCT user_id, bucket, turns FROM {keyspace}.inbox WHERE user_id = ? AND bucket = ?"
            ),
        )

    async def heads(self, user_ids: Sequence[str]) -> Mapping[str, Head]:
        """See InboxStore.inbox_heads."""
        return await self._rows.heads(user_ids)

    async def put(self, rows: Sequence[InboxRow], activity: Sequence[ActivityRow]) -> None:
        """See InboxStore.put_inbox."""
        distinct = await self._rows.distinct(rows)
        if activity:  # first: who applies the log again writes the same, and then the rows
            await self._engine.write(self._activity.writes(activity))
        await self._rows.write(distinct, self._turns)

    async def activity(self, places: Sequence[ActivityPlace]) -> Mapping[ActivityPlace, ActivityRow]:
        """See InboxStore.inbox_activity."""
        return await self._activity.at(places)

    async def newest_activity(
        self, user_id: str, before_pos: int, limit: int
    ) -> list[tuple[ActivityRow, InboxRow | None]]:
        """See InboxStore.list_activity: each with the inbox row that it ends with, unless that is only being written."""
        newest = await self._activity.newest(user_id, before_pos, limit)
        rows = await self._rows.at([(user_id, activity.last_pos) for activity in newest])
        return [(activity, rows.get((user_id, activity.last_pos))) for activity in newest]

    async def read(self, user_id: str, after_pos: int, limit: int) -> Sequence[InboxRow]:
        """See InboxStore.read_inbox."""
        return await self._rows.read_up(user_id, after_pos, 1 << 62, limit)

    async def recent_conversations(self, user_id: str, limit: int) -> list[str]:
        """The conversations that are newest in the inbox, the newest first, of the last 16 buckets."""
        head = (await self._rows.heads([user_id]))[user_id]
        if not head.place:
            return []
        newest = self._buckets.of(head.place)
        recent: dict[str, None] = {}
        for bucket in range(newest, max(-1, newest - _MOST_BUCKETS), -1):
            found = await self._engine.execute(self._select_turns, (user_id, bucket))
            turns: Mapping[str, int] = found[0][2] if found and found[0][2] else {}
            recent.update(dict.fromkeys(sorted(turns, key=lambda turn: -turns[turn]), None))
            if len(recent) >= limit:
                break
        return list(recent)[:limit]

    def _turns(self, user_id: str, bucket: int, rows: Sequence[InboxRow]) -> Sequence[Statement]:
        in_order = sorted(rows, key=lambda row: row.pos)
        turns = {row.conversation_id: row.pos for row in in_order}
        return [(self._add_turns, (in_order[-1].pos, turns, user_id, bucket))]
