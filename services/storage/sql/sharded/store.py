"""The directory store on several PostgreSQL databases, which hold each user's account, sides of friendships, sessions and answers
where the hash of the user's id leads, and each conversation with its members where the hash of its own id does.

What touches one shard is one transaction there. What touches several is kept apart by locks (see transactions) and ends by
two-phase commit (see commit); what a process that dies leaves half done, any other ends within seconds (see recovery), and until
then it is locked. While a shard is away, what needs it raises Unavailable; all else is served.

For operators: the setting lists the shards' URLs, separated by spaces. Their number and order are fixed for the life of the data
and are written into each database, which refuses to be opened as another shard. A directory that is on one database already stays
there. Choose as many shards as the data will ever need: several may be databases of one server at first and move to servers of
their own later, by physical replication, once nothing is in pg_prepared_xacts. Each server needs max_prepared_transactions, best as
many as it has max_connections, and must have on disk what it committed: synchronous_commit stays on, and a standby that takes over
must be a synchronous one. All shards must be there when a process starts. Backups of shards from different moments do not fit
together: what spans shards may be there by half.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from typing import Self, TypeVar

import structlog
from sqlalchemy import Connection, TextClause, inspect, make_url, text

from discovery.errors import Aborted, Internal, ResourceExhausted, Unavailable
from services.directory.ports import Tables
from services.storage.sql.admission import Admission
from services.storage.sql.directory import SqlSettings
from services.storage.sql.failures import FAILURES
from services.storage.sql.migrations import DIRECTORY, DIRECTORY_SHARDS, migrate
from services.storage.sql.postgresql import PostgresqlEngine
from services.storage.sql.sharded.branch import Branch
from services.storage.sql.sharded.commit import OutcomeUnknown, commit
from services.storage.sql.sharded.conversations import ShardedConversations
from services.storage.sql.sharded.failures import LostRace, NeedsLocks, is_broken, is_full, is_lost_race
from services.storage.sql.sharded.people import ShardedAnswers, ShardedFriendships, ShardedUsers
from services.storage.sql.sharded.recovery import Recovery
from services.storage.sql.sharded.schema import DIRECTORY_SHARD
from services.storage.sql.sharded.sessions import ShardedSessions
from services.storage.sql.sharded.transactions import EXCLUSIVE, SHARED, LockingTransaction, Shards, SnapshotRead
from services.storage.sql.shards import Shard, claim

T = TypeVar("T")
Work = Callable[[Tables], Awaitable[T]]
log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class ShardSettings:
    """Whoever waits `lock_timeout_s` for a lock gives up and runs again. What is prepared for `doubt_s` is taken for left by a
    process that died; each process looks for such every `recovery_interval_s`.
    """

    lock_timeout_s: float = 0.5
    doubt_s: float = 5.0
    recovery_interval_s: float = 2.0


class ShardedTables:
    """See services.directory.ports.Tables."""

    def __init__(self, shards: Shards) -> None:
        self.users = ShardedUsers(shards)
        self.friendships = ShardedFriendships(shards, self.users)
        self.conversations = ShardedConversations(shards)
        self.sessions = ShardedSessions(shards)
        self.answers = ShardedAnswers(shards)


class ShardedDirectoryStore:
    """See services.directory.ports.DirectoryStore. Made by `open`."""

    def __init__(self, engines: Sequence[PostgresqlEngine], settings: SqlSettings, sharding: ShardSettings) -> None:
        self._engines = engines
        self._settings = settings
        self._sharding = sharding
        self._admission = Admission(settings.waiting_most)
        # Who has a turn finds a connection free on every shard: nobody waits for one while keeping another.
        self._turns = asyncio.Semaphore(settings.connections)
        self._commits: set[asyncio.Task[None]] = set()
        self._recovery = Recovery(engines, sharding.doubt_s, settings.transaction_timeout_s)
        self._recovering: asyncio.Task[None] | None = None
        limits = {
            "lock_timeout": sharding.lock_timeout_s,
            # Whose process is silent is given up for good by the server too, before a decision is forgotten.
            "idle_in_transaction_session_timeout": 2 * settings.transaction_timeout_s,
        }
        self._limits = "; ".join(f"SET LOCAL {name} = {max(1, int(limit * 1000))}" for name, limit in limits.items())

    @classmethod
    async def open(
        cls, urls: Sequence[str], settings: SqlSettings | None = None, sharding: ShardSettings | None = None
    ) -> Self:
        """Connects, migrates, and ends what was left half done. Each URL is "postgresql+asyncpg://...", without replicas.

        Processes may open the shards at once; within a process stores are opened one after the other, as Alembic keeps its
        state in globals.

        Raises ValueError for a database of another kind, for another shard, for one that has an undivided directory, and for a
        server without prepared transactions; sqlalchemy.exc.SQLAlchemyError or OSError if one cannot be reached, and alembic's
        CommandError if a newer version of this program made it.
        """
        chosen = settings or SqlSettings()
        engines: list[PostgresqlEngine] = []
        async with AsyncExitStack() as stack:
            for number, url in enumerate(urls):
                engine = _engine(url, chosen)
                stack.push_async_callback(engine.close)
                engines.append(engine)
                await engine.migrate(partial(_prepare, Shard(number, len(urls))))
            store = cls(engines, chosen, sharding or ShardSettings())
            await store._recovery.recover()
            stack.pop_all()
        store._recovering = asyncio.create_task(store._recover_again_and_again())
        store._recovering.add_done_callback(_tell_death)
        return store

    async def read(self, work: Work[T]) -> T:
        """See DirectoryStore. A snapshot where one shard is enough; else locks, for which it may wait until it is Unavailable."""
        with self._admission.one():
            try:
                return await self._repeated(self._read_snapshot, work)
            except NeedsLocks:
                pass
            try:
                return await self._repeated(self._read_locked, work)
            except Aborted:
                raise _away() from None

    async def write(self, work: Work[T]) -> T:
        """See DirectoryStore."""
        with self._admission.one():
            return await self._repeated(self._write, work)

    async def close(self) -> None:
        """See DirectoryStore. May be called twice."""
        await self._admission.close()
        if self._recovering is not None:
            self._recovering.cancel()
            await asyncio.wait([self._recovering])
        if self._commits:
            await asyncio.wait(self._commits)
        for engine in self._engines:
            await engine.close()

    async def _repeated(self, run: Callable[[Work[T]], Awaitable[T]], work: Work[T]) -> T:
        broken = False
        for attempt in range(self._settings.attempts):
            try:
                return await self._once(run, work)
            except OutcomeUnknown as error:
                raise Unavailable("The directory's store went away in a commit.", reason="OUTCOME_UNKNOWN") from error
            except OSError as error:
                raise _away() from error
            except (LostRace, *FAILURES) as error:
                if is_full(error):
                    raise _busy() from error
                broken = is_broken(error)
                if not broken and not is_lost_race(error):
                    raise Internal("A database of the directory refused a statement.") from error
                log.debug("a transaction lost a race or a connection and is run again", error=type(error).__name__)
            # Full jitter: who lost to each other must not meet again.
            longest_s = min(self._settings.retry_base_s * 2**attempt, self._settings.retry_most_s)
            await asyncio.sleep(random.uniform(0, longest_s))  # noqa: S311
        raise _away() if broken else Aborted("Concurrent changes kept winning.")

    async def _once(self, run: Callable[[Work[T]], Awaitable[T]], work: Work[T]) -> T:
        try:
            async with asyncio.timeout(self._settings.transaction_timeout_s):
                await self._turns.acquire()
        except TimeoutError:
            raise _busy() from None
        try:
            return await run(work)
        finally:
            self._turns.release()

    async def _read_snapshot(self, work: Work[T]) -> T:
        async with asyncio.timeout(self._settings.transaction_timeout_s), AsyncExitStack() as stack:
            return await work(ShardedTables(SnapshotRead(stack, self._engines, self._limits)))

    async def _read_locked(self, work: Work[T]) -> T:
        return await self._locked(work, f"BEGIN ISOLATION LEVEL READ COMMITTED READ ONLY; {self._limits}", SHARED)

    async def _write(self, work: Work[T]) -> T:
        return await self._locked(work, f"BEGIN ISOLATION LEVEL READ COMMITTED; {self._limits}", EXCLUSIVE)

    async def _locked(self, work: Work[T], begin: str, lock: TextClause) -> T:
        async with asyncio.timeout(self._settings.transaction_timeout_s), AsyncExitStack() as stack:
            transaction = LockingTransaction(stack, self._engines, begin, lock)
            result = await work(ShardedTables(transaction))
            connections = stack.pop_all()
        # Goes on if the caller is cancelled.
        task = asyncio.create_task(_commit(transaction.branches, connections))
        self._commits.add(task)
        task.add_done_callback(self._ended)
        try:
            async with asyncio.timeout(self._settings.transaction_timeout_s):
                await asyncio.shield(task)
        except TimeoutError as error:
            raise OutcomeUnknown from error
        return result

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._commits.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.debug("a commit failed", error=type(task.exception()).__name__)

    async def _recover_again_and_again(self) -> None:
        while True:
            # Many processes do the same: not all at once.
            await asyncio.sleep(self._sharding.recovery_interval_s * random.uniform(0.5, 1.5))  # noqa: S311
            await self._recovery.recover()


async def _commit(branches: Sequence[Branch], connections: AsyncExitStack) -> None:
    async with connections:
        await commit(branches)


def _engine(url: str, settings: SqlSettings) -> PostgresqlEngine:
    parsed = make_url(url)
    if parsed.get_backend_name() != "postgresql":
        raise ValueError(f"the shards of the directory run on PostgreSQL, not on {parsed.get_backend_name()}")
    if "replica" in parsed.query:
        raise ValueError("the shards of the directory have no replicas for reads")
    # One more, for the recovery.
    return PostgresqlEngine(parsed, settings.connections + 1, settings.transaction_timeout_s)


def _prepare(shard: Shard, connection: Connection) -> None:
    if inspect(connection).has_table(DIRECTORY.version_table):
        raise ValueError("the database has an undivided directory and cannot be a shard of one")
    if connection.execute(text("SHOW max_prepared_transactions")).scalar_one() == "0":
        raise ValueError(
            "max_prepared_transactions is 0 on a server: transactions over shards of the directory need some"
        )
    migrate(DIRECTORY_SHARDS, connection)
    claim(shard, connection, DIRECTORY_SHARD, "directory")


def _tell_death(recovering: asyncio.Task[None]) -> None:
    if not recovering.cancelled() and recovering.exception() is not None:
        log.error("nothing is recovered any more", exc_info=recovering.exception())


def _away() -> Unavailable:
    return Unavailable("The directory's store is away.", reason="ENGINE_DOWN", retry_after_s=1.0)


def _busy() -> ResourceExhausted:
    return ResourceExhausted("A database of the directory has no room for the transaction.", retry_after_s=1.0)
