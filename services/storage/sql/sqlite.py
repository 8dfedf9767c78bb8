"""SQLite on the event loop: statements run where they are asked for, and only a commit that must reach the disk has a thread.

The directory's statements are look-ups by key and single rows, some tens of microseconds each. Crossing to a thread and
back for every one of them costs more when the loop is idle and, when it is busy, a turn of the interpreter's lock each
time (see services.storage.sqlite.handoff): a transaction of ten statements then took seconds.
"""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import structlog
from sqlalchemy import URL, Connection, CursorResult, Executable, NullPool, ScalarResult, create_engine, event
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import DBAPIError, ResourceClosedError
from sqlalchemy.pool import ConnectionPoolEntry

from services.storage.sqlite.handoff import Handoff

_BUSY_CODES = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
_LOCKED_RETRY_S = 0.005
_CACHED_STATEMENTS = 256

_log = structlog.get_logger(__name__)


class SqliteEngine:
    """See services.storage.sql.engine.Engine. Belongs to the event loop that made it.

    `connections` read; one more writes, for one transaction at a time.
    """

    def __init__(self, url: URL, connections: int) -> None:
        self._engine = create_engine(
            url.set(drivername="sqlite+pysqlite"),
            poolclass=NullPool,
            connect_args={"check_same_thread": False, "cached_statements": _CACHED_STATEMENTS},
            # Parameters are people's data, password hashes among them: none of it goes into errors and logs.
            hide_parameters=True,
        )
        event.listen(self._engine, "connect", self._set_up)
        # In the thread; on the loop nothing waits for a lock inside SQLite.
        self._lock_wait_ms = 5_000
        self._loop = asyncio.get_running_loop()
        self._handoff = Handoff(self._loop)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="directory-commits")
        self._connections = connections
        self._opened: list[Connection] = []
        self._readers: list[Connection] = []
        self._a_reader = asyncio.Semaphore(connections)
        self._turn = asyncio.Lock()
        self._closed = False

    @asynccontextmanager
    async def reading(self) -> AsyncIterator["InlineTransaction"]:
        """See Engine."""
        async with self._a_reader:
            reader = self._readers.pop()
            transaction = InlineTransaction(reader)
            try:
                reader.exec_driver_sql("BEGIN")
                yield transaction
            finally:
                transaction.end()
                try:
                    _roll_back(reader)
                finally:
                    self._readers.append(reader)

    @asynccontextmanager
    async def writing(self) -> AsyncIterator["InlineTransaction"]:
        """See Engine."""
        await self._turn.acquire()
        transaction = CommittedByThread(self._opened[0], self._commit)
        try:
            await self._begin()
            yield transaction
        finally:
            transaction.end()
            if transaction.commit_job is None:
                self._end_turn()
            else:
                # At once if it is done. If not, who asked for it is gone, and the next waits for it in their place.
                transaction.commit_job.add_done_callback(self._end_turn)

    locking = writing
    """See Engine: who writes is alone."""

    def is_lost_race(self, error: BaseException | None) -> bool:
        """See Engine."""
        # The low byte is the primary code; SQLITE_BUSY_SNAPSHOT and its like stand above it.
        return isinstance(error, sqlite3.Error) and getattr(error, "sqlite_errorcode", 0) & 0xFF in _BUSY_CODES

    async def migrate(self, steps: Callable[[Connection], None]) -> None:
        """See Engine."""
        await self._loop.run_in_executor(self._thread, self._open, steps)

    async def close(self) -> None:
        """See Engine."""
        if self._closed:
            return
        self._closed = True
        async with self._turn:
            closing = self._loop.run_in_executor(self._thread, self._close)
            self._thread.shutdown(wait=False)
            await asyncio.shield(closing)

    async def _begin(self) -> None:
        """Takes the write lock first, so that no transaction fails half-way because another process wrote since it read."""
        while True:
            try:
                self._opened[0].exec_driver_sql("BEGIN IMMEDIATE")
            except DBAPIError as error:
                if not self.is_lost_race(error.orig):
                    raise
            else:
                return
            await asyncio.sleep(_LOCKED_RETRY_S)

    def _commit(self, connection: Connection) -> asyncio.Future[None]:
        job = self._loop.run_in_executor(self._thread, connection.commit)
        self._handoff.expect()
        job.add_done_callback(lambda _job: self._handoff.answered(1))
        return job

    def _end_turn(self, _job: object = None) -> None:
        try:
            _roll_back(self._opened[0])
        finally:
            self._turn.release()

    # In the thread.

    def _open(self, steps: Callable[[Connection], None]) -> None:
        writer = self._engine.connect()
        self._opened.append(writer)
        writer.exec_driver_sql("BEGIN IMMEDIATE")
        steps(writer)
        writer.commit()
        self._opened += [self._engine.connect() for _ in range(self._connections)]
        self._lock_wait_ms = 0
        for connection in self._opened:
            connection.exec_driver_sql(f"PRAGMA busy_timeout={self._lock_wait_ms}")
            connection.commit()
        self._readers += self._opened[1:]

    def _close(self) -> None:
        for connection in self._opened:
            connection.close()
        self._engine.dispose()

    def _set_up(self, connection: DBAPIConnection, _entry: ConnectionPoolEntry) -> None:
        # The driver's own guessing when to begin is turned off: each transaction says it.
        connection.isolation_level = None
        cursor = connection.cursor()
        wait = f"busy_timeout={self._lock_wait_ms}"
        for pragma in (wait, "journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()


class InlineTransaction:
    """See services.storage.sql.engine.Transaction: all of it where it is asked for."""

    def __init__(self, connection: Connection) -> None:
        self._connection: Connection | None = connection

    async def execute(self, statement: Executable, parameters: Any = None) -> CursorResult[*tuple[Any, ...]]:
        """See Statements."""
        return self._open_connection().execute(statement, parameters)

    async def scalar(self, statement: Executable, parameters: Any = None) -> Any:
        """See Statements."""
        return self._open_connection().scalar(statement, parameters)

    async def scalars(self, statement: Executable, parameters: Any = None) -> ScalarResult[Any]:
        """See Statements."""
        return self._open_connection().scalars(statement, parameters)

    async def commit(self) -> None:
        """See Transaction."""
        self._open_connection().commit()

    def end(self) -> None:
        """Refuses everything from now on: the connection is another transaction's."""
        self._connection = None

    def _open_connection(self) -> Connection:
        if self._connection is None:
            raise ResourceClosedError("The transaction has ended.")
        return self._connection


class CommittedByThread(InlineTransaction):
    """As InlineTransaction, but `commit` lets another thread do it and waits. `commit_job` is done when that has ended."""

    def __init__(self, connection: Connection, commit: Callable[[Connection], asyncio.Future[None]]) -> None:
        super().__init__(connection)
        self._begin_commit = partial(commit, connection)
        self.commit_job: asyncio.Future[None] | None = None

    async def commit(self) -> None:
        """See Transaction."""
        self.commit_job = self._begin_commit()
        self.end()
        await asyncio.shield(self.commit_job)


def _roll_back(connection: Connection) -> None:
    """Makes the connection ready for its next transaction, whatever became of this one."""
    try:
        connection.rollback()
        # A commit that failed has ended for SQLAlchemy, but not for SQLite.
        connection.connection.rollback()
    except (DBAPIError, sqlite3.Error) as error:
        _log.error("a transaction could not be rolled back and its connection is replaced", error=type(error).__name__)
        connection.invalidate()
        connection.rollback()
