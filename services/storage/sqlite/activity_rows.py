"""The conversations of an inbox, one row for each user and conversation, in the file of the messages."""

import sqlite3
from collections.abc import Sequence

from services.ports.message_store import Activity, ActivityPlace, ActivityRow
from services.storage.sqlite.keys import select_by_keys

# A run is what lies between two gaps in the seqs of a user's rows of one conversation: within it, seq less the number of the
# row stays the same, and it grows from each run to the next. Of own messages the newest 32 are kept, as
# services.messaging.activity does.
MIGRATION: tuple[str, ...] = (
    """CREATE TABLE inbox_activity (
        user_id TEXT NOT NULL, conversation_id TEXT NOT NULL, last_pos INTEGER NOT NULL, last_seq INTEGER NOT NULL,
        since_seq INTEGER NOT NULL, own_seqs TEXT NOT NULL,
        PRIMARY KEY (user_id, conversation_id)) WITHOUT ROWID""",
    """INSERT INTO inbox_activity
        WITH numbered AS MATERIALIZED (
            SELECT user_id, conversation_id, pos, seq, sender_id,
                seq - row_number() OVER (PARTITION BY user_id, conversation_id ORDER BY pos) AS run
            FROM inbox),
        last_runs AS MATERIALIZED (
            SELECT user_id, conversation_id, max(run) AS run FROM numbered GROUP BY user_id, conversation_id),
        last_rows AS MATERIALIZED (SELECT * FROM numbered JOIN last_runs USING (user_id, conversation_id, run)),
        own AS MATERIALIZED (
            SELECT user_id, conversation_id, group_concat(seq) AS seqs FROM (
                SELECT user_id, conversation_id, seq,
                    row_number() OVER (PARTITION BY user_id, conversation_id ORDER BY pos DESC) AS number
                FROM last_rows WHERE sender_id = user_id)
            WHERE number <= 32 GROUP BY user_id, conversation_id)
        SELECT user_id, conversation_id, max(pos), max(seq), min(seq), coalesce(max(own.seqs), '')
        FROM last_rows LEFT JOIN own USING (user_id, conversation_id) GROUP BY user_id, conversation_id""",
    "DROP TABLE inbox_conversations",
)

_AT = """SELECT a.* FROM {keys} CROSS JOIN inbox_activity a ON (a.user_id, a.conversation_id) = (column1, column2)"""


def upsert(connection: sqlite3.Connection, rows: Sequence[ActivityRow]) -> None:
    """Writes the rows where none with as high a last_pos stands."""
    connection.executemany(
        """INSERT INTO inbox_activity VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET
            last_pos = excluded.last_pos, last_seq = excluded.last_seq, since_seq = excluded.since_seq,
            own_seqs = excluded.own_seqs WHERE excluded.last_pos > last_pos""",
        [
            (r.user_id, r.conversation_id, r.last_pos, r.last_seq, r.since_seq, ",".join(map(str, r.own_seqs)))
            for r in rows
        ],
    )


def select(places: Sequence[ActivityPlace], connection: sqlite3.Connection) -> dict[ActivityPlace, ActivityRow]:
    """The rows at these places."""
    rows = (_made(*row) for row in select_by_keys(connection, _AT, places))  # type: ignore[arg-type] # the columns' declared types
    return {(row.user_id, row.conversation_id): row for row in rows}


def select_newest(user_id: str, before_pos: int, limit: int, connection: sqlite3.Connection) -> list[Activity]:
    """See InboxStore.list_activity. Looks at all of the user's rows to find the newest: an index would be written to with
    every message.
    """
    rows = connection.execute(
        """SELECT a.*, coalesce(m.seen_seq, 0), i.payload FROM (
                SELECT * FROM inbox_activity WHERE user_id = ?1 AND last_pos < ?2 ORDER BY last_pos DESC LIMIT ?3
            ) a CROSS JOIN inbox i ON (i.user_id, i.pos) = (a.user_id, a.last_pos)
            LEFT JOIN marks m ON (m.conversation_id, m.user_id) = (a.conversation_id, a.user_id)
            ORDER BY a.last_pos DESC""",
        (user_id, before_pos, limit),
    ).fetchall()
    return [Activity(_made(*row[:6]), row[6], row[7]) for row in rows]


def _made(
    user_id: str, conversation_id: str, last_pos: int, last_seq: int, since_seq: int, own_seqs: str
) -> ActivityRow:
    seqs = tuple(sorted(map(int, own_seqs.split(",")))) if own_seqs else ()
    return ActivityRow(user_id, conversation_id, last_pos, last_seq, since_seq, seqs)
