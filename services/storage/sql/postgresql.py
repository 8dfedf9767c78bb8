"""PostgreSQL over asyncpg: a pool of connections, and transactions that the server keeps apart."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from sqlalchemy import URL, Connection, text
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine

# serialization_failure, deadlock_detected
_LOST_STATES = ("40001", "40P01")
# Keeps other processes from migrating at the same time, until the transaction ends.
_SCHEMA_LOCK = "SELECT pg_advisory_xact_lock(hashtext('hither directory schema'))"


class PostgresqlEngine:
    """See services.storage.sql.engine.Engine. Who finds all connections taken for `patience_s` gets SQLAlchemy's TimeoutError."""

    def __init__(self, url: URL, connections: int, patience_s: float) -> None:
        self._engine = create_async_engine(
            url,
            pool_size=connections,
            max_overflow=0,
            pool_timeout=patience_s,
            # Parameters are people's data, password hashes among them: none of it goes into errors and logs.
            hide_parameters=True,
        )
        self._readers = self._engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
        self._writers = self._engine.execution_options(isolation_level="SERIALIZABLE")
        # Who waited for the schema's lock must see what its holder did.
        self._migrators = self._engine.execution_options(isolation_level="READ COMMITTED")

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[AsyncConnection]:
        """See Engine."""
        async with self._readers.connect() as connection:
            await connection.begin()
            yield connection

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[AsyncConnection]:
        """See Engine."""
        async with self._writers.connect() as connection:
            await connection.begin()
            yield connection

    def is_lost_race(self, error: BaseException | None) -> bool:
        """See Engine."""
        return getattr(error, "sqlstate", None) in _LOST_STATES

    async def migrate(self, steps: Callable[[Connection], None]) -> None:
        """See Engine."""
        async with self._migrators.begin() as connection:
            await connection.execute(text(_SCHEMA_LOCK))
            await connection.run_sync(steps)

    async def close(self) -> None:
        """See Engine."""
        await self._engine.dispose()
