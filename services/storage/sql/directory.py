"""The directory store on SQL: opens the database, brings its schema up to date, and runs transactions."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Self, TypeVar

import structlog
from sqlalchemy import URL, text
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from discovery.errors import Aborted, HitherError, ResourceExhausted, Unavailable
from services.directory.ports import Tables
from services.storage.sql.answers import SqlAnswers
from services.storage.sql.conversations import SqlConversations
from services.storage.sql.dialect import dialect_of, is_conflict
from services.storage.sql.migrations import migrate
from services.storage.sql.people import SqlFriendships, SqlSessions, SqlUsers

T = TypeVar("T")
log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class SqlSettings:
    """Limits of a store. `transaction_timeout_s` spans one run of a transaction, the wait for a connection included;
    `waiting_most` counts transactions that run or wait to. A transaction that lost a race runs again after a random part
    of `retry_base_s`, doubled each time up to `retry_most_s`.
    """

    connections: int = 4
    waiting_most: int = 1_000
    transaction_timeout_s: float = 5.0
    attempts: int = 10
    retry_base_s: float = 0.005
    retry_most_s: float = 0.1


def sqlite_url(path: Path) -> str:
    """The URL of a SQLite file, which is made if it is not there."""
    return URL.create("sqlite+aiosqlite", database=str(path)).render_as_string(hide_password=False)


class SqlTables:
    """See services.directory.ports.Tables."""

    def __init__(self, connection: AsyncConnection) -> None:
        self.users = SqlUsers(connection)
        self.friendships = SqlFriendships(connection)
        self.conversations = SqlConversations(connection)
        self.sessions = SqlSessions(connection)
        self.answers = SqlAnswers(connection)


class SqlDirectoryStore:
    """See services.directory.ports.DirectoryStore. Made by `open`."""

    def __init__(self, engine: AsyncEngine, settings: SqlSettings) -> None:
        self._engine = engine
        self._dialect = dialect_of(engine)
        self._dialect.set_up(engine)
        self._readers = engine.execution_options(**self._dialect.read_options)
        self._writers = engine.execution_options(**self._dialect.write_options)
        self._settings = settings
        self._turn: AbstractAsyncContextManager[None] = asyncio.Lock() if self._dialect.one_writer else nullcontext()
        self._under_way = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._closed = False

    @classmethod
    async def open(cls, url: str, settings: SqlSettings | None = None) -> Self:
        """Connects and migrates. `url` is "sqlite+aiosqlite:///..." (see sqlite_url) or "postgresql+asyncpg://...".

        Processes may open one database at once; within a process stores are opened one after the other, as Alembic keeps its
        state in globals.

        Raises sqlalchemy.exc.SQLAlchemyError or OSError if the database cannot be reached, and alembic's CommandError if a
        newer version of this program made it.
        """
        chosen = settings or SqlSettings()
        engine = create_async_engine(
            url,
            pool_size=chosen.connections,
            max_overflow=0,
            pool_timeout=chosen.transaction_timeout_s,
            # Parameters are people's data, password hashes among them: none of it goes into errors and logs.
            hide_parameters=True,
        )
        store = cls(engine, chosen)
        try:
            await store._migrate()
        except BaseException:
            await engine.dispose()
            raise
        return store

    async def read(self, work: Callable[[Tables], Awaitable[T]]) -> T:
        """See DirectoryStore."""
        return await self._admitted(self._readers, nullcontext(), work)

    async def write(self, work: Callable[[Tables], Awaitable[T]]) -> T:
        """See DirectoryStore."""
        return await self._admitted(self._writers, self._turn, work)

    async def close(self) -> None:
        """See DirectoryStore."""
        self._closed = True
        await self._idle.wait()
        await self._engine.dispose()

    async def _migrate(self) -> None:
        engine = self._engine.execution_options(**self._dialect.migrate_options)
        async with engine.begin() as connection:
            if self._dialect.schema_lock is not None:
                await connection.execute(text(self._dialect.schema_lock))
            await connection.run_sync(migrate)

    async def _admitted(
        self, engine: AsyncEngine, turn: AbstractAsyncContextManager[None], work: Callable[[Tables], Awaitable[T]]
    ) -> T:
        if self._closed:
            raise Unavailable("The directory's store is closed.")
        if self._under_way >= self._settings.waiting_most:
            raise ResourceExhausted("Too many transactions are waiting.", retry_after_s=1.0)
        self._under_way += 1
        self._idle.clear()
        try:
            return await self._repeated(engine, turn, work)
        finally:
            self._under_way -= 1
            if self._under_way == 0:
                self._idle.set()

    async def _repeated(
        self, engine: AsyncEngine, turn: AbstractAsyncContextManager[None], work: Callable[[Tables], Awaitable[T]]
    ) -> T:
        broken = False
        for attempt in range(self._settings.attempts):
            try:
                return await self._once(engine, turn, work)
            except DBAPIError as error:
                broken = error.connection_invalidated
                if not broken and not is_conflict(error, self._dialect):
                    raise
                log.debug("a transaction lost a race or its connection and is run again", error=str(error.orig))
            # Full jitter: who lost to each other must not meet again.
            longest_s = min(self._settings.retry_base_s * 2**attempt, self._settings.retry_most_s)
            await asyncio.sleep(random.uniform(0, longest_s))  # noqa: S311
        raise _away(committing=False) if broken else Aborted("Concurrent changes kept winning.")

    async def _once(
        self, engine: AsyncEngine, turn: AbstractAsyncContextManager[None], work: Callable[[Tables], Awaitable[T]]
    ) -> T:
        committing = False
        try:
            async with (
                asyncio.timeout(self._settings.transaction_timeout_s),
                turn,
                engine.connect() as connection,
            ):
                await connection.begin()
                result = await work(SqlTables(connection))
                committing = True
                await connection.commit()
                return result
        except PoolTimeoutError:
            raise ResourceExhausted("No connection to the database came free.", retry_after_s=1.0) from None
        except DBAPIError as error:
            if is_conflict(error, self._dialect) or (error.connection_invalidated and not committing):
                raise
            if not committing and not isinstance(error, (OperationalError, InterfaceError)):
                raise
            raise _away(committing=committing) from error
        except OSError as error:
            raise _away(committing=committing) from error


def _away(*, committing: bool) -> HitherError:
    if committing:
        return Unavailable("The directory's store went away in a commit.", reason="OUTCOME_UNKNOWN")
    return Unavailable("The directory's store is away.", reason="ENGINE_DOWN", retry_after_s=1.0)
