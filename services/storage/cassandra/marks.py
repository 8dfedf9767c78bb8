"""How far members have come. Each mark's timestamp is its own value, so that Cassandra, which keeps what has the highest
timestamp, keeps the maximum, whoever writes last: no lock, and no harm in writing again.

Whoever deletes marks one day must give the deletion a timestamp of that kind too: one of the clock's would hide all later marks.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from cassandra.cluster import Session
from cassandra.query import PreparedStatement

from services.ports.message_store import MarkRow
from services.storage.cassandra.engine import Engine, PartitionWrite, Row, Statement
from services.storage.cassandra.rows import KEYS_A_STATEMENT, chunks

_MARK_BYTES = 100
_ROWS_A_STATEMENT = 1000
_CONVERSATIONS_A_STATEMENT = 16
Place = tuple[str, str]
"""(conversation_id, user_id)."""


@dataclass(frozen=True, slots=True)
class _Statements:
    raise_delivered: PreparedStatement
    raise_seen: PreparedStatement
    of_users: PreparedStatement
    of_conversations: PreparedStatement
    after: PreparedStatement
    of_all: PreparedStatement


class Marks:
    """See InboxStore."""

    def __init__(self, engine: Engine, statements: _Statements) -> None:
        self._engine = engine
        self._statements = statements

    @classmethod
    def prepare(cls, engine: Engine, session: Session, keyspace: str) -> "Marks":
        """Blocks while the server prepares the statements."""
        marks, place = f"{keyspace}.marks", "WHERE conversation_id = ? AND user_id"
        select = f"SELECT conversation_id, user_id, delivered_seq, seen_seq FROM {marks}"
        return cls(
            engine,
            _Statements(
                session.prepare(f"UPDATE {marks} USING TIMESTAMP ? SET delivered_seq = ? {place} = ?"),
                session.prepare(f"UPDATE {marks} USING TIMESTAMP ? SET seen_seq = ? {place} = ?"),
                session.prepare(f"{select} {place} IN ?"),
                session.prepare(f"{select} WHERE conversation_id IN ? AND user_id = ?"),
                session.prepare(f"{select} {place} > ? LIMIT ?"),
                session.prepare(f"{select} WHERE conversation_id IN ? PER PARTITION LIMIT ?"),
            ),
        )

    async def merge(self, marks: Sequence[MarkRow]) -> Sequence[MarkRow]:
        """See InboxStore.merge_marks. Rows that others raise at the same time are given as they are after both."""
        wanted: dict[Place, MarkRow] = {}
        for mark in marks:
            place = mark.conversation_id, mark.user_id
            wanted[place] = _maximum(wanted.get(place, mark), mark)
        before = await self._at(wanted)
        raised = {place: mark for place, mark in wanted.items() if _maximum(old := _of(before, place), mark) != old}
        if not raised:
            return []
        await self._engine.write(
            [PartitionWrite(self._raise(mark, _of(before, place)), _MARK_BYTES) for place, mark in raised.items()]
        )
        after = await self._at(raised)
        return [_of(after, place) for place in raised]

    async def read(self, conversation_id: str, after_user_id: str, limit: int) -> Sequence[MarkRow]:
        """See InboxStore.read_marks."""
        marks: list[MarkRow] = []
        while len(marks) < limit:
            want = min(limit - len(marks), _ROWS_A_STATEMENT)
            found = await self._engine.execute(self._statements.after, (conversation_id, after_user_id, want))
            marks.extend(_made(found))
            if len(found) < want:
                break
            after_user_id = marks[-1].user_id
        return marks

    async def of_user(self, user_id: str, conversation_ids: Sequence[str]) -> Mapping[str, MarkRow]:
        """The user's marks in these conversations, by conversation; one that is not found is not in the answer."""
        found = await self._at([(conversation_id, user_id) for conversation_id in conversation_ids])
        return {conversation_id: mark for (conversation_id, _), mark in found.items()}

    async def of_conversations(self, conversation_ids: Sequence[str], limit: int) -> list[MarkRow]:
        """Marks of all members, at most `limit`: those of the first conversation first, each in order of user id."""
        marks: list[MarkRow] = []
        for chunk in chunks(conversation_ids, _CONVERSATIONS_A_STATEMENT):
            left = limit - len(marks)
            if left <= 0:
                break
            found = await self._engine.execute(self._statements.of_all, (chunk, left))
            order = {conversation_id: index for index, conversation_id in enumerate(chunk)}
            marks.extend(sorted(_made(found), key=lambda mark: (order[mark.conversation_id], mark.user_id)))
        return marks[:limit]

    def _raise(self, mark: MarkRow, old: MarkRow) -> list[Statement]:
        statements: list[Statement] = []
        place = mark.conversation_id, mark.user_id
        if mark.delivered_seq > old.delivered_seq:
            statements.append((self._statements.raise_delivered, (mark.delivered_seq, mark.delivered_seq, *place)))
        if mark.seen_seq > old.seen_seq:
            statements.append((self._statements.raise_seen, (mark.seen_seq, mark.seen_seq, *place)))
        return statements

    async def _at(self, places: Iterable[Place]) -> dict[Place, MarkRow]:
        """In as few statements as it takes: usually a user asks for many conversations, or a conversation for many users."""
        users_of: defaultdict[str, list[str]] = defaultdict(list)
        conversations_of: defaultdict[str, list[str]] = defaultdict(list)
        for conversation_id, user_id in places:
            users_of[conversation_id].append(user_id)
            conversations_of[user_id].append(conversation_id)
        statements: list[Statement]
        if len(users_of) <= len(conversations_of):
            statements = [
                (self._statements.of_users, (conversation_id, chunk))
                for conversation_id, user_ids in users_of.items()
                for chunk in chunks(user_ids, KEYS_A_STATEMENT)
            ]
        else:
            statements = [
                (self._statements.of_conversations, (chunk, user_id))
                for user_id, conversation_ids in conversations_of.items()
                for chunk in chunks(conversation_ids, KEYS_A_STATEMENT)
            ]
        found = await self._engine.execute_all(statements)
        return {(mark.conversation_id, mark.user_id): mark for rows in found for mark in _made(rows)}


def _made(rows: Iterable[Row]) -> list[MarkRow]:
    """A mark that was never raised is not stored."""
    return [
        MarkRow(conversation_id, user_id, delivered or 0, seen or 0)
        for conversation_id, user_id, delivered, seen in rows
    ]


def _of(marks: dict[Place, MarkRow], place: Place) -> MarkRow:
    return marks.get(place) or MarkRow(*place, 0, 0)


def _maximum(one: MarkRow, other: MarkRow) -> MarkRow:
    return MarkRow(
        one.conversation_id,
        one.user_id,
        max(one.delivered_seq, other.delivered_seq),
        max(one.seen_seq, other.seen_seq),
    )
