"""The directory store on SQL: opens the database, brings its schema up to date, and runs transactions."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Self, TypeVar

import structlog
from sqlalchemy import URL, make_url
from sqlalchemy.exc import DBAPIError, IntegrityError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from discovery.errors import Aborted, HitherError, ResourceExhausted, Unavailable
from services.directory.ports import Tables
from services.storage.sql.admission import Admission
from services.storage.sql.answers import SqlAnswers
from services.storage.sql.conversations import SqlConversations
from services.storage.sql.engine import Engine, Statements, Transaction
from services.storage.sql.migrations import DIRECTORY, migrate
from services.storage.sql.people import SqlFriendships, SqlSessions, SqlUsers
from services.storage.sql.postgresql import PostgresqlEngine
from services.storage.sql.sqlite import SqliteEngine

T = TypeVar("T")
Begin = Callable[[], AbstractAsyncContextManager[Transaction]]
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
    return URL.create("sqlite", database=str(path)).render_as_string(hide_password=False)


class SqlTables:
    """See services.directory.ports.Tables."""

    def __init__(self, statements: Statements) -> None:
        self.users = SqlUsers(statements)
        self.friendships = SqlFriendships(statements)
        self.conversations = SqlConversations(statements)
        self.sessions = SqlSessions(statements)
        self.answers = SqlAnswers(statements)


class SqlDirectoryStore:
    """See services.directory.ports.DirectoryStore. Made by `open`."""

    def __init__(self, engine: Engine, settings: SqlSettings) -> None:
        self._engine = engine
        self._settings = settings
        self._admission = Admission(settings.waiting_most)

    @classmethod
    async def open(cls, url: str, settings: SqlSettings | None = None) -> Self:
        """Connects and migrates. `url` is "sqlite:///..." (see sqlite_url) or "postgresql+asyncpg://...".

        Processes may open one database at once; within a process stores are opened one after the other, as Alembic keeps its
        state in globals.

        Raises sqlalchemy.exc.SQLAlchemyError or OSError if the database cannot be reached, and alembic's CommandError if a
        newer version of this program made it.
        """
        chosen = settings or SqlSettings()
        engine = engine_of(url, chosen)
        try:
            await engine.migrate(partial(migrate, DIRECTORY))
        except BaseException:
            await engine.close()
            raise
        return cls(engine, chosen)

    async def read(self, work: Callable[[Tables], Awaitable[T]]) -> T:
        """See DirectoryStore."""
        with self._admission.one():
            return await self._repeated(self._engine.reading, work)

    async def write(self, work: Callable[[Tables], Awaitable[T]]) -> T:
        """See DirectoryStore."""
        with self._admission.one():
            return await self._repeated(self._engine.writing, work)

    async def close(self) -> None:
        """See DirectoryStore."""
        await self._admission.close()
        await self._engine.close()

    async def _repeated(self, begin: Begin, work: Callable[[Tables], Awaitable[T]]) -> T:
        broken = False
        for attempt in range(self._settings.attempts):
            try:
                return await self._once(begin, work)
            except DBAPIError as error:
                broken = error.connection_invalidated
                if not broken and not self._is_conflict(error):
                    raise
                log.debug("a transaction lost a race or its connection and is run again", error=str(error.orig))
            # Full jitter: who lost to each other must not meet again.
            longest_s = min(self._settings.retry_base_s * 2**attempt, self._settings.retry_most_s)
            await asyncio.sleep(random.uniform(0, longest_s))  # noqa: S311
        raise _away(committing=False) if broken else Aborted("Concurrent changes kept winning.")

    async def _once(self, begin: Begin, work: Callable[[Tables], Awaitable[T]]) -> T:
        committing = False
        try:
            async with asyncio.timeout(self._settings.transaction_timeout_s), begin() as transaction:
                result = await work(SqlTables(transaction))
                committing = True
                await transaction.commit()
                return result
        except PoolTimeoutError:
            raise ResourceExhausted("No connection to the database came free.", retry_after_s=1.0) from None
        except DBAPIError as error:
            if self._is_conflict(error) or (error.connection_invalidated and not committing):
                raise
            if not committing and not isinstance(error, (OperationalError, InterfaceError)):
                raise
            raise _away(committing=committing) from error
        except OSError as error:
            raise _away(committing=committing) from error

    def _is_conflict(self, error: DBAPIError) -> bool:
        """Whether a concurrent transaction won, so that running this one again may succeed."""
        return isinstance(error, IntegrityError) or self._engine.is_lost_race(error.orig)


def engine_of(url: str, settings: SqlSettings) -> Engine:
    """The engine for a URL as `SqlDirectoryStore.open` takes it. Raises ValueError if it is for another database."""
    parsed = make_url(url)
    match parsed.get_backend_name():
        case "sqlite":
            return SqliteEngine(parsed, settings.connections)
        case "postgresql":
            return PostgresqlEngine(parsed, settings.connections, settings.transaction_timeout_s)
        case other:
            raise ValueError(f"the directory runs on SQLite or PostgreSQL, not on {other}")


def _away(*, committing: bool) -> HitherError:
    if committing:
        return Unavailable("The directory's store went away in a commit.", reason="OUTCOME_UNKNOWN")
    return Unavailable("The directory's store is away.", reason="ENGINE_DOWN", retry_after_s=1.0)
