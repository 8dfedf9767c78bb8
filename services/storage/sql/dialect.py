"""Where SQLite and PostgreSQL differ: how transactions begin, how connections are set up, what a lost race looks like."""

import sqlite3
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from sqlalchemy import Connection, event
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.pool import ConnectionPoolEntry

_BEGIN = "hither_begin"
_BUSY_CODES = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
# serialization_failure, deadlock_detected
_LOST_STATES = ("40001", "40P01")


@dataclass(frozen=True, slots=True)
class Dialect:
    """One database's ways. Options are SQLAlchemy's execution options for transactions that read, write and migrate."""

    read_options: Mapping[str, object]
    write_options: Mapping[str, object]
    migrate_options: Mapping[str, object]
    # Writers of this process take turns before they ask for a connection, instead of polling a locked file.
    one_writer: bool
    # Keeps other processes from migrating at the same time, until the transaction ends. None: its begin does that.
    schema_lock: str | None
    set_up: Callable[[AsyncEngine], None]
    is_lost_race: Callable[[BaseException | None], bool]


def dialect_of(engine: AsyncEngine) -> Dialect:
    """The ways of the engine's database. Raises ValueError if it is neither SQLite nor PostgreSQL."""
    try:
        return _DIALECTS[engine.dialect.name]
    except KeyError:
        raise ValueError(f"the directory runs on SQLite or PostgreSQL, not on {engine.dialect.name}") from None


def is_conflict(error: DBAPIError, dialect: Dialect) -> bool:
    """Whether a concurrent transaction won, so that running this one again may succeed."""
    return isinstance(error, IntegrityError) or dialect.is_lost_race(error.orig)


def _set_up_sqlite(engine: AsyncEngine) -> None:
    event.listen(engine.sync_engine, "connect", _prepare_sqlite_connection)
    event.listen(engine.sync_engine, "begin", _begin_sqlite)


def _prepare_sqlite_connection(connection: DBAPIConnection, _entry: ConnectionPoolEntry) -> None:
    # The driver's own guessing when to begin is turned off: _begin_sqlite says it.
    connection.isolation_level = None
    cursor = connection.cursor()
    for pragma in ("busy_timeout=5000", "journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    connection.exec_driver_sql(connection.get_execution_options().get(_BEGIN, "BEGIN"))


def _lost_on_sqlite(error: BaseException | None) -> bool:
    # The low byte is the primary code; SQLITE_BUSY_SNAPSHOT and its like stand above it.
    return isinstance(error, sqlite3.Error) and getattr(error, "sqlite_errorcode", 0) & 0xFF in _BUSY_CODES


def _lost_on_postgresql(error: BaseException | None) -> bool:
    return getattr(error, "sqlstate", None) in _LOST_STATES


_DIALECTS: Mapping[str, Dialect] = {
    "sqlite": Dialect(
        read_options={_BEGIN: "BEGIN"},
        # Taking the write lock first keeps a transaction from failing half-way because another wrote since it read.
        write_options={_BEGIN: "BEGIN IMMEDIATE"},
        migrate_options={_BEGIN: "BEGIN IMMEDIATE"},
        one_writer=True,
        schema_lock=None,
        set_up=_set_up_sqlite,
        is_lost_race=_lost_on_sqlite,
    ),
    "postgresql": Dialect(
        read_options={"isolation_level": "REPEATABLE READ", "postgresql_readonly": True},
        write_options={"isolation_level": "SERIALIZABLE"},
        # Who waited for the schema's lock must see what its holder did.
        migrate_options={"isolation_level": "READ COMMITTED"},
        one_writer=False,
        schema_lock="SELECT pg_advisory_xact_lock(hashtext('hither directory schema'))",
        set_up=lambda _engine: None,
        is_lost_race=_lost_on_postgresql,
    ),
}
