"""Messages by conversation, and the ids they were sent under.

A call writes the ids first ("sent": dedup key to seq), and the messages when these are durable. So a message that is
visible is found by its key, whoever wrote it and however far its writer came; and since an id counts only if the message
that it leads to is there and has it, an id whose message was never written finds nothing. Who applies the log again then
writes the same id and the same message.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from cassandra.cluster import Session
from cassandra.query import PreparedStatement

from services.ports.message_store import DedupKey, Head, MessageRow
from services.storage.cassandra.buckets import Buckets
from services.storage.cassandra.engine import Engine, PartitionWrite, Statement
from services.storage.cassandra.remembered import Remembered
from services.storage.cassandra.rows import KEYS_A_STATEMENT, BucketedRows, Place, Table, chunks

_TABLE = Table("messages", MessageRow, ("conversation_id", "seq", "sender_id", "client_id", "log_offset", "payload"))
_SENT_BYTES = 100
_MOST_REMEMBERED = 65_536


@dataclass(frozen=True, slots=True)
class _Statements:
    insert_sent: PreparedStatement
    select_sent: PreparedStatement
    select_many_sent: PreparedStatement


class Conversations:
    """See ConversationStore. Ids that were sent are kept for `sent_ttl_s` after they were written last."""

    def __init__(
        self, engine: Engine, rows: BucketedRows[MessageRow], statements: _Statements, sent_ttl_s: int
    ) -> None:
        self._engine = engine
        self._rows = rows
        self._statements = statements
        self._sent_ttl_s = sent_ttl_s
        # Keys that find_sent did not find, until they are written: they need not be looked for again before that.
        self._not_sent: Remembered[DedupKey, bool] = Remembered(_MOST_REMEMBERED)

    @classmethod
    def prepare(
        cls, engine: Engine, buckets: Buckets, sent_ttl_s: int, session: Session, keyspace: str
    ) -> "Conversations":
        """Blocks while the server prepares the statements."""
        sent = f"{keyspace}.sent"
        statements = _Statements(
            session.prepare(f"INSERT INTO {sent} (dedup_key, seq) VALUES (?, ?) USING TTL ?"),
            session.prepare(f"SELECT dedup_key, seq FROM {sent} WHERE dedup_key = ?"),
            session.prepare(f"SELECT dedup_key, seq FROM {sent} WHERE dedup_key IN ?"),
        )
        return cls(engine, BucketedRows.prepare(engine, _TABLE, buckets, session, keyspace), statements, sent_ttl_s)

    async def heads(self, conversation_ids: Sequence[str]) -> Mapping[str, Head]:
        """See ConversationStore.conversation_heads."""
        return await self._rows.heads(conversation_ids)

    async def find_sent(self, keys: Sequence[DedupKey]) -> Mapping[DedupKey, MessageRow]:
        """See ConversationStore."""
        found = await self._find(keys)
        for key in keys:
            if key not in found:
                self._not_sent.put(key, True)
        return found

    async def put(self, rows: Sequence[MessageRow]) -> None:
        """See ConversationStore.put_messages."""
        rows = await self._rows.distinct(rows)
        await self._check_keys(rows)
        await self._engine.write(
            [
                PartitionWrite(
                    [(self._statements.insert_sent, (_text(_key_of(row)), row.seq, self._sent_ttl_s))], _SENT_BYTES
                )
                for row in rows
            ]
        )
        await self._rows.write(rows)

    async def read(
        self, conversation_id: str, after_seq: int, before_seq: int, limit: int, newest: bool
    ) -> Sequence[MessageRow]:
        """See ConversationStore.read_messages."""
        read = self._rows.read_down if newest else self._rows.read_up
        return await read(conversation_id, after_seq, before_seq, limit)

    async def at(self, places: Iterable[Place]) -> Mapping[Place, MessageRow]:
        """The messages at these places."""
        return await self._rows.at(places)

    async def _find(self, keys: Sequence[DedupKey]) -> dict[DedupKey, MessageRow]:
        asked = {_text(key): key for key in keys}
        statements: list[Statement] = [
            (self._statements.select_many_sent, (chunk,))
            if len(chunk) > 1
            else (self._statements.select_sent, (chunk[0],))
            for chunk in chunks(list(asked), KEYS_A_STATEMENT)
        ]
        sent = {asked[text]: seq for found in await self._engine.execute_all(statements) for text, seq in found}
        if not sent:
            return {}
        rows = await self._rows.at([(key[0], seq) for key, seq in sent.items()])
        return {_key_of(row): row for row in rows.values() if _key_of(row) in sent}

    async def _check_keys(self, rows: Sequence[MessageRow]) -> None:
        by_key: dict[DedupKey, MessageRow] = {}
        for row in rows:
            if by_key.setdefault(_key_of(row), row) != row:
                raise self._rows.conflict(row)
        doubtful = [key for key in by_key if not self._not_sent.take(key)]
        if not doubtful:
            return
        for key, found in (await self._find(doubtful)).items():
            if found != by_key[key]:
                raise self._rows.conflict(by_key[key])


def _key_of(row: MessageRow) -> DedupKey:
    return row.conversation_id, row.sender_id, row.client_id


def _text(key: DedupKey) -> str:
    """One text for the three, so that many keys fit into one statement; no two keys have the same."""
    conversation_id, sender_id, client_id = key
    return f"{len(conversation_id)}:{len(sender_id)}:{conversation_id}{sender_id}{client_id}"
