"""Opening a database file: how it is kept safe, which schema it has, and what an engine's error means to a caller.

Every file is in WAL mode, with synchronous=FULL (a commit that returned is on disk) unless asked otherwise. Knows no
table; the schemas belong
to the adapters.
"""

import os
import sqlite3
from dataclasses import dataclass
from pathlib import Path

from discovery.errors import Unavailable

_BUSY_S = 5.0
_CACHE_KIB = 32 * 1024
_CACHED_STATEMENTS = 256
_LAST_RESORT_CHECKPOINT_PAGES = 20_000
"""The writer checkpoints by itself, after it has answered; SQLite's own, inside a commit, only steps in if that fails."""


class SchemaTooNew(Exception):
    """The file was written by a newer program; this one cannot know what it would break."""


@dataclass(frozen=True, slots=True)
class Schema:
    """The history of a file's tables: `steps[i]` are the statements that take version i to i + 1."""

    steps: tuple[tuple[str, ...], ...]

    @property
    def version(self) -> int:
        """The version that this program writes."""
        return len(self.steps)


def open_writer(path: Path, schema: Schema, *, synchronous: str = "FULL") -> sqlite3.Connection:
    """A connection that writes, in autocommit mode, for one thread at a time; `synchronous` is SQLite's FULL or NORMAL.

    Makes the file (mode 0600) and brings its schema up to date. Raises SchemaTooNew, and sqlite3.Error for what the engine cannot do.
    """
    os.close(os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))
    connection = sqlite3.connect(
        path, timeout=_BUSY_S, isolation_level=None, cached_statements=_CACHED_STATEMENTS, check_same_thread=False
    )
    try:
        _configure(connection)
        connection.execute(f"PRAGMA synchronous = {synchronous}")
        # Rows are immutable and files private: overwriting what was trimmed would only cost.
        connection.execute("PRAGMA secure_delete = OFF")
        connection.execute(f"PRAGMA wal_autocheckpoint = {_LAST_RESORT_CHECKPOINT_PAGES}")
        _enter_wal_mode(connection)
        _migrate(connection, path, schema)
        connection.execute("PRAGMA busy_timeout = 0")  # who writes waits by itself, without holding up its thread
    except BaseException:
        connection.close()
        raise
    return connection


def open_reader(path: Path) -> sqlite3.Connection:
    """A connection that only reads; the file must exist. It may be closed by another thread than uses it."""
    connection = sqlite3.connect(
        path, timeout=_BUSY_S, isolation_level=None, cached_statements=_CACHED_STATEMENTS, check_same_thread=False
    )
    _configure(connection)
    connection.execute("PRAGMA query_only = ON")
    return connection


def engine_down(error: BaseException) -> Unavailable:
    """What a caller sees when SQLite could not do its work and left everything as it was."""
    return Unavailable(f"The database refused: {_name(error)}.", reason="ENGINE_DOWN")


def outcome_unknown(error: BaseException) -> Unavailable:
    """What a caller sees when a commit failed half-way: a crash now might still bring it back."""
    return Unavailable(f"The database could not finish a commit: {_name(error)}.", reason="OUTCOME_UNKNOWN")


def is_engine_trouble(error: BaseException) -> bool:
    """Whether it is the engine (disk full, I/O, locks, a damaged file) that failed and not the one operation."""
    if isinstance(
        error, sqlite3.IntegrityError | sqlite3.DataError | sqlite3.ProgrammingError | sqlite3.InterfaceError
    ):
        return False
    return isinstance(error, sqlite3.Error | OSError)


def _name(error: BaseException) -> str:
    # The text may quote values or paths; the symbolic name of the result code may not.
    return getattr(error, "sqlite_errorname", None) or type(error).__name__


def _configure(connection: sqlite3.Connection) -> None:
    connection.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
    connection.execute("PRAGMA temp_store = MEMORY")


def _enter_wal_mode(connection: sqlite3.Connection) -> None:
    (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
    if mode != "wal":
        raise sqlite3.OperationalError(f"the file system only allows journal mode {mode}")


def _check_version(found: int, path: Path, schema: Schema) -> None:
    if found > schema.version:
        raise SchemaTooNew(
            f"{path} has schema version {found}, and this program knows up to {schema.version}: "
            "run the program that wrote it, or a newer one"
        )


def _migrate(connection: sqlite3.Connection, path: Path, schema: Schema) -> None:
    connection.execute("BEGIN IMMEDIATE")
    try:
        (found,) = connection.execute("PRAGMA user_version").fetchone()
        _check_version(found, path, schema)
        for statement in (statement for step in schema.steps[found:] for statement in step):
            connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {schema.version}")
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")
