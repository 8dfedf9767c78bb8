"""The keyspace and its tables, brought up to date when a store is opened.

Steps are applied in order by whoever holds a lease in the keyspace; the others wait for it. A step may run again after a
crash in its midst, so each of its statements must be harmless then.
"""

import re
import time
import uuid
from dataclasses import dataclass

from cassandra import ConfigurationException, InvalidRequest
from cassandra.cluster import NoHostAvailable, Session

from discovery.errors import FailedPrecondition, Unavailable

_STATEMENT_S = 30.0
_LEASE_S = 60
_WAIT_S = 90.0
_SETTLE_S = 15.0
_POLL_S = 0.2
_KEYSPACE_NAME = re.compile(r"[a-z][a-z0-9_]{0,47}")
_KEYSPACE_ID = uuid.UUID("5f0c9f4c-53b4-5d07-9d5b-6c6f0a5f3b7e")

# See rows.py for buckets, conversations.py for "sent", inboxes.py for "turns", marks.py and activity.py
# for their timestamps. Conversations from before step 2 come into inbox_activity with their next message.
STEPS: tuple[tuple[str, ...], ...] = (
    (
        """CREATE TABLE IF NOT EXISTS {keyspace}.messages (
            conversation_id text, bucket bigint, seq bigint, sender_id text, client_id text, log_offset bigint, payload blob,
            PRIMARY KEY ((conversation_id, bucket), seq)) WITH CLUSTERING ORDER BY (seq DESC)""",
        """CREATE TABLE IF NOT EXISTS {keyspace}.sent (dedup_key text PRIMARY KEY, seq bigint)
            WITH compaction = {{'class': 'TimeWindowCompactionStrategy', 'compaction_window_unit': 'DAYS',
            'compaction_window_size': 1}}""",
        """CREATE TABLE IF NOT EXISTS {keyspace}.inbox (
            user_id text, bucket bigint, pos bigint, log_offset bigint, conversation_id text, seq bigint, sender_id text,
            payload blob, turns map<text, bigint> STATIC,
            PRIMARY KEY ((user_id, bucket), pos)) WITH CLUSTERING ORDER BY (pos DESC)""",
        """CREATE TABLE IF NOT EXISTS {keyspace}.newest_buckets (kind text, id text, bucket bigint,
            PRIMARY KEY ((kind, id)))""",
        """CREATE TABLE IF NOT EXISTS {keyspace}.marks (
            conversation_id text, user_id text, delivered_seq bigint, seen_seq bigint,
            PRIMARY KEY (conversation_id, user_id))""",
    ),
    (
        """CREATE TABLE IF NOT EXISTS {keyspace}.inbox_activity (
            user_id text, conversation_id text, last_pos bigint, last_seq bigint, since_seq bigint,
            own_seqs frozen<list<bigint>>, PRIMARY KEY (user_id, conversation_id))""",
    ),
)


@dataclass(frozen=True, slots=True)
class Schema:
    """The history of some tables of a keyspace. `name` is where its version is kept, `steps[i]` take it from i to i + 1."""

    name: str
    steps: tuple[tuple[str, ...], ...]


MESSAGES = Schema("version", STEPS)
# A day runs out within a day: two windows of compaction for each, fourteen that live.
HISTORY = Schema(
    "history version",
    (
        (
            """CREATE TABLE IF NOT EXISTS {keyspace}.location_history (
                user_id text, day bigint, time_ms bigint, lat double, lng double, accuracy_m double,
                PRIMARY KEY ((user_id, day), time_ms)) WITH CLUSTERING ORDER BY (time_ms DESC)
                AND default_time_to_live = 604800 AND gc_grace_seconds = 86400
                AND compaction = {{'class': 'TimeWindowCompactionStrategy', 'compaction_window_unit': 'HOURS',
                'compaction_window_size': 12}}""",
        ),
    ),
)
# Thirty days live: a window of compaction for each.
VIEWS = Schema(
    "views version",
    (
        (
            """CREATE TABLE IF NOT EXISTS {keyspace}.location_views (
                owner_id text, day bigint, slot_ms bigint, viewer_id text, count bigint, last_ms bigint, precision int,
                PRIMARY KEY ((owner_id, day), slot_ms, viewer_id)) WITH CLUSTERING ORDER BY (slot_ms DESC, viewer_id ASC)
                AND default_time_to_live = 2592000 AND gc_grace_seconds = 86400
                AND compaction = {{'class': 'TimeWindowCompactionStrategy', 'compaction_window_unit': 'DAYS',
                'compaction_window_size': 1}}""",
        ),
    ),
)


class SchemaTooNew(FailedPrecondition):
    """The keyspace was written by a newer program; this one cannot know what it would break."""


@dataclass(frozen=True, slots=True)
class Keyspace:
    """Where the tables are: the keyspace's name (letters, digits and underscores) and how many copies of each row the
    datacenter keeps, if the keyspace is still to be made.
    """

    name: str
    replication: int


def checked_name(keyspace: str) -> str:
    """The name, if it can be one. Raises ValueError."""
    if not _KEYSPACE_NAME.fullmatch(keyspace):
        raise ValueError(f"{keyspace!r} cannot name a keyspace: lower-case letters, digits and underscores")
    return keyspace


def migrate(session: Session, keyspace: Keyspace, schema: Schema = MESSAGES) -> None:
    """Makes what is missing. Blocks. Raises SchemaTooNew, Unavailable if another process does not finish, and the driver's errors."""
    end_s = time.monotonic() + _SETTLE_S
    while True:
        try:
            return _make_what_is_missing(session, keyspace, schema)
        except NoHostAvailable:
            # A node that is being told of a table by one process may know its name and not yet its id for another.
            if time.monotonic() > end_s:
                raise
            time.sleep(_POLL_S)


def _make_what_is_missing(session: Session, keyspace: Keyspace, schema: Schema) -> None:
    if _version(session, keyspace, schema) == len(schema.steps):
        return
    _make_keyspace(session, keyspace)
    holder = uuid.uuid4()
    end_s = time.monotonic() + _WAIT_S
    while (version := _version(session, keyspace, schema)) != len(schema.steps):
        if version > len(schema.steps):
            raise SchemaTooNew(
                f"Keyspace {keyspace.name} has {schema.name} {version}; this program knows {len(schema.steps)}."
            )
        if _take_lease(session, keyspace, holder):
            try:
                _apply(session, keyspace, schema, _version(session, keyspace, schema))
            finally:
                _give_back_lease(session, keyspace, holder)
        elif time.monotonic() > end_s:
            raise Unavailable(f"Another process does not finish with the tables of keyspace {keyspace.name}.")
        else:
            time.sleep(_POLL_S)


def _version(session: Session, keyspace: Keyspace, schema: Schema) -> int:
    try:
        rows = session.execute(
            f"SELECT value FROM {keyspace.name}.hither_schema WHERE name = '{schema.name}'",
            timeout=_STATEMENT_S,
        )
    except (InvalidRequest, ConfigurationException):  # there is no such keyspace or table
        return 0
    row = rows.one()
    return int(row[0]) if row else 0


def _make_keyspace(session: Session, keyspace: Keyspace) -> None:
    datacenter = session.execute("SELECT data_center FROM system.local", timeout=_STATEMENT_S).one()[0]
    session.execute(
        f"""CREATE KEYSPACE IF NOT EXISTS {keyspace.name}
            WITH replication = {{'class': 'NetworkTopologyStrategy', '{datacenter}': {keyspace.replication}}}""",
        timeout=_STATEMENT_S,
    )
    # Its id is fixed: two nodes that are asked for the table at the same time then make the same one.
    session.execute(
        f"""CREATE TABLE IF NOT EXISTS {keyspace.name}.hither_schema (name text PRIMARY KEY, value text)
            WITH id = {uuid.uuid5(_KEYSPACE_ID, keyspace.name)}""",
        timeout=_STATEMENT_S,
    )


def _take_lease(session: Session, keyspace: Keyspace, holder: uuid.UUID) -> bool:
    """Nobody else has it until it is given back or _LEASE_S have passed."""
    taken = session.execute(
        f"""INSERT INTO {keyspace.name}.hither_schema (name, value) VALUES ('lease', '{holder}')
            IF NOT EXISTS USING TTL {_LEASE_S}""",
        timeout=_STATEMENT_S,
    )
    return bool(taken.was_applied)


def _apply(session: Session, keyspace: Keyspace, schema: Schema, version: int) -> None:
    for number, step in enumerate(schema.steps[version:], version + 1):
        for statement in step:
            session.execute(statement.format(keyspace=keyspace.name), timeout=_STATEMENT_S)
        session.execute(
            f"UPDATE {keyspace.name}.hither_schema SET value = '{number}' WHERE name = '{schema.name}'",
            timeout=_STATEMENT_S,
        )


def _give_back_lease(session: Session, keyspace: Keyspace, holder: uuid.UUID) -> None:
    session.execute(
        f"DELETE FROM {keyspace.name}.hither_schema WHERE name = 'lease' IF value = '{holder}'",
        timeout=_STATEMENT_S,
    )
