"""The message store on SQLite: conversations, inboxes and marks in one file. See activity_rows.py for the conversations of an inbox.

Whatever gathers in one transaction is written table by table. Rows are checked against what stands in their place only
when one of them was there already, which is after a crash or a change of owner.
"""

import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass, field
from functools import partial
from pathlib import Path
from typing import Self, TypeVar

import structlog

from discovery.errors import HitherError
from services.ports.message_store import (
    Activity,
    ActivityPlace,
    ActivityRow,
    DedupKey,
    Head,
    InboxRow,
    MarkRow,
    MessageRow,
    RowConflict,
)
from services.storage.sqlite import activity_rows
from services.storage.sqlite.database import Schema
from services.storage.sqlite.keys import select_by_keys
from services.storage.sqlite.readers import Readers
from services.storage.sqlite.writer import Durable, Writer

_ROW_BYTES = 256
"""What a row weighs beside its payload, about."""
_MARKS_FOR_EACH = 10
"""recent_marks gives at most this many for each conversation asked for, on average."""

_SCHEMA = Schema(
    (
        (
            """CREATE TABLE messages (
                conversation_id TEXT NOT NULL, seq INTEGER NOT NULL, sender_id TEXT NOT NULL, client_id TEXT NOT NULL,
                log_offset INTEGER NOT NULL, payload BLOB NOT NULL,
                PRIMARY KEY (conversation_id, seq)) WITHOUT ROWID""",
            "CREATE UNIQUE INDEX messages_sent ON messages (conversation_id, sender_id, client_id)",
            """CREATE TABLE inbox (
                user_id TEXT NOT NULL, pos INTEGER NOT NULL, log_offset INTEGER NOT NULL, conversation_id TEXT NOT NULL,
                seq INTEGER NOT NULL, sender_id TEXT NOT NULL, payload BLOB NOT NULL,
                PRIMARY KEY (user_id, pos)) WITHOUT ROWID""",
            """CREATE TABLE inbox_conversations (
                user_id TEXT NOT NULL, conversation_id TEXT NOT NULL, turn_pos INTEGER NOT NULL,
                PRIMARY KEY (user_id, conversation_id)) WITHOUT ROWID""",
            """CREATE TABLE marks (
                conversation_id TEXT NOT NULL, user_id TEXT NOT NULL,
                delivered_seq INTEGER NOT NULL, seen_seq INTEGER NOT NULL,
                PRIMARY KEY (conversation_id, user_id)) WITHOUT ROWID""",
        ),
        activity_rows.MIGRATION,
    )
)

_MESSAGES_AT = """SELECT m.* FROM {keys} CROSS JOIN messages m
    ON (m.conversation_id, m.seq) = (column1, column2)"""
_MESSAGES_SENT = """SELECT m.* FROM {keys} CROSS JOIN messages m
    ON (m.conversation_id, m.sender_id, m.client_id) = (column1, column2, column3)"""
_MESSAGES_HEADS = """SELECT m.conversation_id, m.seq, m.log_offset FROM {keys} CROSS JOIN messages m
    ON m.conversation_id = column1 AND m.seq = (SELECT max(seq) FROM messages WHERE conversation_id = column1)"""
_INBOX_AT = "SELECT i.* FROM {keys} CROSS JOIN inbox i ON (i.user_id, i.pos) = (column1, column2)"
_INBOX_HEADS = """SELECT i.user_id, i.pos, i.log_offset FROM {keys} CROSS JOIN inbox i
    ON i.user_id = column1 AND i.pos = (SELECT max(pos) FROM inbox WHERE user_id = column1)"""
_MARKS_AT = """SELECT m.* FROM {keys} CROSS JOIN marks m
    ON (m.conversation_id, m.user_id) = (column1, column2)"""

_log = structlog.get_logger(__name__)


@dataclass(slots=True)
class _PutMessages:
    rows: Sequence[MessageRow]


@dataclass(slots=True)
class _PutInbox:
    rows: Sequence[InboxRow]
    activity: Sequence[ActivityRow]


@dataclass(slots=True)
class _MergeMarks:
    marks: Sequence[MarkRow]
    changed: list[MarkRow] = field(default_factory=list)


_Op = _PutMessages | _PutInbox | _MergeMarks


class SqliteMessageStore:
    """See services.ports.message_store.MessageStore. Rows are kept without an end."""

    def __init__(self, path: Path) -> None:
        self._writer: Writer[_Op] = Writer(path, _SCHEMA, _MessageApplier(), durable=Durable.AT_FLUSH)
        self._readers = Readers(path)

    @classmethod
    async def open(cls, path: Path) -> Self:
        """Opens the file, or makes it. Raises SchemaTooNew, or Unavailable if the engine cannot."""
        store = cls(path)
        try:
            await store._writer.open()
        except BaseException:
            await store.close()
            raise
        return store

    async def conversation_heads(self, conversation_ids: Sequence[str]) -> Mapping[str, Head]:
        """See ConversationStore."""
        return self._readers.look_up(partial(_select_heads, _MESSAGES_HEADS, conversation_ids))

    async def find_sent(self, keys: Sequence[DedupKey]) -> Mapping[DedupKey, MessageRow]:
        """See ConversationStore."""
        return self._readers.look_up(partial(_select_sent, keys))

    async def put_messages(self, rows: Sequence[MessageRow]) -> None:
        """See ConversationStore."""
        if rows:
            await self._writer.write(_PutMessages(rows), _weight(rows))

    async def read_messages(
        self, conversation_id: str, after_seq: int, before_seq: int, limit: int, newest: bool
    ) -> Sequence[MessageRow]:
        """See ConversationStore."""
        if limit <= 0:
            return []
        return await self._readers.run(partial(_select_messages, conversation_id, after_seq, before_seq, limit, newest))

    async def inbox_heads(self, user_ids: Sequence[str]) -> Mapping[str, Head]:
        """See InboxStore."""
        return self._readers.look_up(partial(_select_heads, _INBOX_HEADS, user_ids))

    async def put_inbox(self, rows: Sequence[InboxRow], activity: Sequence[ActivityRow] = ()) -> None:
        """See InboxStore."""
        if rows:
            await self._writer.write(_PutInbox(rows, activity), _weight(rows) + _ROW_BYTES * len(activity))

    async def read_inbox(self, user_id: str, after_pos: int, limit: int) -> Sequence[InboxRow]:
        """See InboxStore."""
        if limit <= 0:
            return []
        return await self._readers.run(partial(_select_inbox, user_id, after_pos, limit))

    async def inbox_activity(self, places: Sequence[ActivityPlace]) -> Mapping[ActivityPlace, ActivityRow]:
        """See InboxStore."""
        return self._readers.look_up(partial(activity_rows.select, places))

    async def list_activity(self, user_id: str, before_pos: int, limit: int) -> Sequence[Activity]:
        """See InboxStore."""
        if limit <= 0:
            return []
        return await self._readers.run(partial(activity_rows.select_newest, user_id, before_pos, limit))

    async def merge_marks(self, marks: Sequence[MarkRow]) -> Sequence[MarkRow]:
        """See InboxStore."""
        if not marks:
            return []
        op = _MergeMarks(marks)
        await self._writer.write(op, _ROW_BYTES * len(marks))
        await self._writer.flush()
        return op.changed

    async def read_marks(self, conversation_id: str, after_user_id: str, limit: int) -> Sequence[MarkRow]:
        """See InboxStore."""
        if limit <= 0:
            return []
        return await self._readers.run(partial(_select_marks, conversation_id, after_user_id, limit))

    async def recent_marks(self, user_id: str, limit: int) -> Sequence[MarkRow]:
        """See InboxStore. The newest conversation's marks come first; of one conversation, in order of user id."""
        if limit <= 0:
            return []
        return await self._readers.run(partial(_select_recent_marks, user_id, limit))

    async def flush(self) -> None:
        """See MessageStore."""
        await self._writer.flush()

    async def close(self) -> None:
        """See MessageStore. May be called twice."""
        await self._readers.close()
        await self._writer.close()


class _MessageApplier:
    """Writes what has gathered, table by table. All of it becomes visible at once, so the order of tables is free."""

    def apply(self, connection: sqlite3.Connection, ops: Sequence[_Op]) -> None:
        """See Applier."""
        messages: list[MessageRow] = []
        inbox: list[InboxRow] = []
        activity: list[ActivityRow] = []
        merges: list[_MergeMarks] = []
        for op in ops:
            match op:
                case _PutMessages():
                    messages.extend(op.rows)
                case _PutInbox():
                    inbox.extend(op.rows)
                    activity.extend(op.activity)
                case _MergeMarks():
                    merges.append(op)
        if messages:
            _insert_messages(connection, messages)
        if inbox:
            _insert_inbox(connection, inbox)
        if activity:
            activity_rows.upsert(connection, activity)
        if merges:
            _merge_marks(connection, merges)

    def forget(self) -> None:
        """See Applier. Nothing is remembered."""

    def committed(self, ops: Sequence[_Op]) -> None:
        """See Applier. Nobody follows."""

    def ended(self, error: HitherError) -> None:
        """See Applier."""


def _insert_messages(connection: sqlite3.Connection, rows: list[MessageRow]) -> None:
    values = [(r.conversation_id, r.seq, r.sender_id, r.client_id, r.log_offset, r.payload) for r in rows]
    inserted = connection.executemany("INSERT OR IGNORE INTO messages VALUES (?, ?, ?, ?, ?, ?)", values).rowcount
    if inserted < len(rows):
        found = select_by_keys(connection, _MESSAGES_AT, [(r.conversation_id, r.seq) for r in rows])
        _check_same("messages", rows, {MessageRow(*row) for row in found})  # type: ignore[arg-type] # columns in the fields' order


def _insert_inbox(connection: sqlite3.Connection, rows: list[InboxRow]) -> None:
    values = [(r.user_id, r.pos, r.log_offset, r.conversation_id, r.seq, r.sender_id, r.payload) for r in rows]
    inserted = connection.executemany("INSERT OR IGNORE INTO inbox VALUES (?, ?, ?, ?, ?, ?, ?)", values).rowcount
    if inserted < len(rows):
        found = select_by_keys(connection, _INBOX_AT, [(r.user_id, r.pos) for r in rows])
        _check_same("inbox", rows, {InboxRow(*row) for row in found})  # type: ignore[arg-type] # columns in the fields' order


_Row = TypeVar("_Row", MessageRow, InboxRow)


def _check_same(table: str, rows: Iterable[_Row], found: set[_Row]) -> None:
    """Raises RowConflict unless each of the rows is in the table just as it was to be written."""
    for row in rows:
        if row not in found:
            place = astuple(row)[:2]
            _log.critical("row_conflict", table=table, place=place, log_offset=row.log_offset)
            raise RowConflict(f"Another row stands in the place of a row of {table}, or has its client id.")


def _merge_marks(connection: sqlite3.Connection, merges: Sequence[_MergeMarks]) -> None:
    keys = list({(mark.conversation_id, mark.user_id): None for op in merges for mark in op.marks})
    marks: dict[tuple[str, str], MarkRow] = {}
    for row in select_by_keys(connection, _MARKS_AT, keys):
        mark = MarkRow(*row)  # type: ignore[arg-type] # columns in the fields' order
        marks[mark.conversation_id, mark.user_id] = mark
    changed: dict[tuple[str, str], MarkRow] = {}
    for op in merges:
        own = dict(_raise_marks(marks, op.marks))
        op.changed = list(own.values())
        changed |= own
    connection.executemany(
        "INSERT OR REPLACE INTO marks VALUES (?, ?, ?, ?)",
        [(m.conversation_id, m.user_id, m.delivered_seq, m.seen_seq) for m in changed.values()],
    )


def _raise_marks(
    marks: dict[tuple[str, str], MarkRow], raised: Iterable[MarkRow]
) -> Iterable[tuple[tuple[str, str], MarkRow]]:
    """Raises the marks in place; gives those that changed."""
    for mark in raised:
        place = mark.conversation_id, mark.user_id
        old = marks.get(place) or MarkRow(*place, 0, 0)
        new = MarkRow(*place, max(old.delivered_seq, mark.delivered_seq), max(old.seen_seq, mark.seen_seq))
        if new != old:
            marks[place] = new
            yield place, new


def _weight(rows: Sequence[MessageRow] | Sequence[InboxRow]) -> int:
    return sum([_ROW_BYTES + len(row.payload) for row in rows])


def _select_heads(query: str, ids: Sequence[str], connection: sqlite3.Connection) -> dict[str, Head]:
    heads = dict.fromkeys(ids, Head(0, -1))
    for key, place, log_offset in select_by_keys(connection, query, [(key,) for key in heads]):
        heads[key] = Head(place, log_offset)  # type: ignore[index, arg-type] # the columns' declared types
    return heads


def _select_sent(keys: Sequence[DedupKey], connection: sqlite3.Connection) -> dict[DedupKey, MessageRow]:
    found = (MessageRow(*row) for row in select_by_keys(connection, _MESSAGES_SENT, keys))  # type: ignore[arg-type] # as above
    return {(row.conversation_id, row.sender_id, row.client_id): row for row in found}


def _select_messages(
    conversation_id: str, after_seq: int, before_seq: int, limit: int, newest: bool, connection: sqlite3.Connection
) -> list[MessageRow]:
    rows = connection.execute(
        f"""SELECT * FROM messages WHERE conversation_id = ? AND seq > ? AND seq < ?
            ORDER BY seq {"DESC" if newest else "ASC"} LIMIT ?""",  # noqa: S608 - one of two words
        (conversation_id, after_seq, before_seq, limit),
    ).fetchall()
    messages = [MessageRow(*row) for row in rows]
    return messages[::-1] if newest else messages


def _select_inbox(user_id: str, after_pos: int, limit: int, connection: sqlite3.Connection) -> list[InboxRow]:
    rows = connection.execute(
        "SELECT * FROM inbox WHERE user_id = ? AND pos > ? ORDER BY pos LIMIT ?", (user_id, after_pos, limit)
    )
    return [InboxRow(*row) for row in rows.fetchall()]


def _select_marks(
    conversation_id: str, after_user_id: str, limit: int, connection: sqlite3.Connection
) -> list[MarkRow]:
    rows = connection.execute(
        "SELECT * FROM marks WHERE conversation_id = ? AND user_id > ? ORDER BY user_id LIMIT ?",
        (conversation_id, after_user_id, limit),
    )
    return [MarkRow(*row) for row in rows.fetchall()]


def _select_recent_marks(user_id: str, limit: int, connection: sqlite3.Connection) -> list[MarkRow]:
    rows = connection.execute(
        """SELECT m.* FROM (
                SELECT conversation_id, last_pos FROM inbox_activity WHERE user_id = ?
                ORDER BY last_pos DESC LIMIT ?
            ) newest CROSS JOIN marks m ON m.conversation_id = newest.conversation_id
            ORDER BY newest.last_pos DESC, m.user_id LIMIT ?""",
        (user_id, limit, limit * _MARKS_FOR_EACH),
    )
    return [MarkRow(*row) for row in rows.fetchall()]
