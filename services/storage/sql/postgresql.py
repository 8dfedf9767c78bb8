"""PostgreSQL over asyncpg: a pool of connections, and transactions that the server keeps apart."""

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from sqlalchemy import URL, Connection, event, text
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import DisconnectionError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import ConnectionPoolEntry, PoolProxiedConnection

from services.storage.sql.replicas import Replica, Replicas, ReplicaSettings, without_replicas

# serialization_failure, deadlock_detected
_LOST_STATES = ("40001", "40P01")
_READ_ONLY: Any = {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
# Keeps other processes from migrating at the same time, until the transaction ends.
_SCHEMA_LOCK = "SELECT pg_advisory_xact_lock(hashtext('hither directory schema'))"


class PostgresqlEngine:
    """See services.storage.sql.engine.Engine. Who finds all connections taken for `patience_s` gets SQLAlchemy's TimeoutError.

    What `replica` names in the URL's query serves reads as well (see services.storage.sql.replicas), each over as many
    connections. Raises ValueError for one that is not HOST:PORT.
    """

    def __init__(
        self, url: URL, connections: int, patience_s: float, replication: ReplicaSettings | None = None
    ) -> None:
        primary, others = without_replicas(url)
        self._engine = _pool(primary, connections, patience_s)
        self._replicas = self._replicas_at(others, connections, patience_s, replication or ReplicaSettings())
        self._readers = self._engine.execution_options(**_READ_ONLY)
        self._writers = self._engine.execution_options(isolation_level="SERIALIZABLE")
        # Who waited for a lock must see what its holder did.
        self._lockers = self._engine.execution_options(isolation_level="READ COMMITTED")
        self._single = self._engine.execution_options(isolation_level="AUTOCOMMIT")

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[AsyncConnection]:
        """See Engine. On a replica, if there is one that has all that was written before."""
        if self._replicas is None:
            async with self._readers.connect() as connection:
                await connection.begin()
                yield connection
            return
        async with AsyncExitStack() as stack:
            found = await stack.enter_async_context(self._replicas.connection())
            if found is None:
                found = await stack.enter_async_context(self._readers.connect())
            else:
                await found.execution_options(**_READ_ONLY)
            await found.begin()
            yield found

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[AsyncConnection]:
        """See Engine."""
        async with self._writers.connect() as connection:
            await connection.begin()
            yield connection

    @asynccontextmanager
    async def locking(self) -> AsyncIterator[AsyncConnection]:
        """A transaction whose every statement sees what others committed before it began, so that it may wait for locks
        instead of losing races. It is rolled back if it ends without a commit.
        """
        async with self._lockers.connect() as connection:
            await connection.begin()
            yield connection

    @asynccontextmanager
    async def single(self) -> AsyncIterator[AsyncConnection]:
        """Statements of which each is a transaction by itself, durable when it returns: one round trip."""
        async with self._single.connect() as connection:
            yield connection

    def is_lost_race(self, error: BaseException | None) -> bool:
        """See Engine."""
        return getattr(error, "sqlstate", None) in _LOST_STATES

    async def migrate(self, steps: Callable[[Connection], None]) -> None:
        """See Engine."""
        async with self._lockers.begin() as connection:
            await connection.execute(text(_SCHEMA_LOCK))
            await connection.run_sync(steps)

    async def close(self) -> None:
        """See Engine."""
        if self._replicas is not None:
            await self._replicas.close()
        await self._engine.dispose()

    def _replicas_at(
        self, urls: list[URL], connections: int, patience_s: float, settings: ReplicaSettings
    ) -> Replicas | None:
        if not urls:
            return None
        replicas = [Replica(f"{url.host}:{url.port}", _pool(url, connections, patience_s), settings) for url in urls]
        # A pool of its own: reads that wait for the index must not wait for the writes.
        return Replicas(_pool(self._engine.url, 1, patience_s), replicas, settings)


def _pool(url: URL, connections: int, patience_s: float) -> AsyncEngine:
    engine = create_async_engine(
        url,
        pool_size=connections,
        max_overflow=0,
        pool_timeout=patience_s,
        # Parameters are people's data, password hashes among them: none of it goes into errors and logs.
        hide_parameters=True,
    )
    event.listen(engine.sync_engine, "checkout", _refuse_closed)
    return engine


def _refuse_closed(connection: DBAPIConnection, _entry: ConnectionPoolEntry, _proxy: PoolProxiedConnection) -> None:
    """Has the pool replace a connection whose server went away while nobody used it; a look, no round trip."""
    driver_connection = connection.driver_connection
    if driver_connection.is_closed():
        raise DisconnectionError
