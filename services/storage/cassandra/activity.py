"""The conversations of an inbox, one row for each, in one partition for each user.

A row's timestamp is its last_pos, so that Cassandra, which keeps what has the highest timestamp, keeps the newest, whoever writes
last. Rows are not ordered by activity, since moving one up would leave a tombstone for each message: who lists them reads
all of the user's rows, which are small, and takes the newest.
"""

import heapq
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter

from cassandra.cluster import Session
from cassandra.query import PreparedStatement

from services.ports.message_store import ActivityPlace, ActivityRow
from services.storage.cassandra.engine import Engine, PartitionWrite, Row, Statement
from services.storage.cassandra.rows import KEYS_A_STATEMENT, chunks

_ROW_BYTES = 200
_ROWS_A_STATEMENT = 1000
_MOST_ROWS = 20_000
"""Conversations of a user that are looked at, in order of their ids; of a user who has more, some are not listed."""


@dataclass(frozen=True, slots=True)
class _Statements:
    insert: PreparedStatement
    at: PreparedStatement
    after: PreparedStatement


class InboxActivity:
    """See InboxStore."""

    def __init__(self, engine: Engine, statements: _Statements) -> None:
        self._engine = engine
        self._statements = statements

    @classmethod
    def prepare(cls, engine: Engine, session: Session, keyspace: str) -> "InboxActivity":
        """Blocks while the server prepares the statements."""
        columns, table = (
            "user_id, conversation_id, last_pos, last_seq, since_seq, own_seqs",
            f"{keyspace}.inbox_activity",
        )
        select = f"SELECT {columns} FROM {table} WHERE user_id = ? AND conversation_id"
        return cls(
            engine,
            _Statements(
                session.prepare(f"INSERT INTO {table} ({columns}) VALUES (?, ?, ?, ?, ?, ?) USING TIMESTAMP ?"),
                session.prepare(f"{select} IN ?"),
                session.prepare(f"{select} > ? LIMIT ?"),
            ),
        )

    async def at(self, places: Sequence[ActivityPlace]) -> Mapping[ActivityPlace, ActivityRow]:
        """See InboxStore.inbox_activity."""
        wanted: defaultdict[str, list[str]] = defaultdict(list)
        for user_id, conversation_id in places:
            wanted[user_id].append(conversation_id)
        statements: list[Statement] = [
            (self._statements.at, (user_id, chunk))
            for user_id, conversation_ids in wanted.items()
            for chunk in chunks(conversation_ids, KEYS_A_STATEMENT)
        ]
        made = [_made(row) for rows in await self._engine.execute_all(statements) for row in rows]
        return {(row.user_id, row.conversation_id): row for row in made}

    def writes(self, rows: Sequence[ActivityRow]) -> list[PartitionWrite]:
        """What writes the rows."""
        statements: defaultdict[str, list[Statement]] = defaultdict(list)
        for row in rows:
            values = (row.user_id, row.conversation_id, row.last_pos, row.last_seq, row.since_seq, list(row.own_seqs))
            statements[row.user_id].append((self._statements.insert, (*values, row.last_pos)))
        return [PartitionWrite(some, _ROW_BYTES * len(some)) for some in statements.values()]

    async def newest(self, user_id: str, before_pos: int, limit: int) -> list[ActivityRow]:
        """Those with last_pos < before_pos, at most `limit`, in descending order of last_pos."""
        rows: list[ActivityRow] = []
        after, looked_at = "", 0
        while looked_at < _MOST_ROWS:
            found = await self._engine.execute(self._statements.after, (user_id, after, _ROWS_A_STATEMENT))
            made = [_made(row) for row in found]
            older = [row for row in made if row.last_pos < before_pos]
            rows = heapq.nlargest(limit, [*rows, *older], key=attrgetter("last_pos"))
            if len(found) < _ROWS_A_STATEMENT:
                break
            after, looked_at = made[-1].conversation_id, looked_at + len(found)
        return rows


def _made(row: Row) -> ActivityRow:
    user_id, conversation_id, last_pos, last_seq, since_seq, own_seqs = row
    return ActivityRow(user_id, conversation_id, last_pos, last_seq, since_seq, tuple(own_seqs or ()))
