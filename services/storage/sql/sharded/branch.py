"""One shard's part of a transaction, and how it ends: PostgreSQL's own commands, as no driver's transaction knows PREPARE."""

from contextlib import AsyncExitStack, suppress

import asyncpg
from sqlalchemy.ext.asyncio import AsyncConnection

from services.storage.sql.failures import FAILURES
from services.storage.sql.postgresql import PostgresqlEngine
from services.storage.sql.sharded.failures import LostRace

_ROLLBACK_S = 1.0
_ANSWER_S = 5.0


class Branch:
    """Made by `begin`. Statements are to be run one after the other; commands each have 5 s."""

    def __init__(self, number: int, statements: AsyncConnection, driver: asyncpg.Connection) -> None:
        self.number = number
        self.statements = statements
        self.is_changed = False
        self._driver = driver
        self.is_ended = False

    @classmethod
    async def begin(cls, stack: AsyncExitStack, engine: PostgresqlEngine, number: int, begin: str) -> "Branch":
        """Takes a connection until `stack` ends, which rolls back what was not ended by then. `begin` is PostgreSQL's BEGIN."""
        statements = await stack.enter_async_context(engine.single())
        raw = await statements.get_raw_connection()
        branch = cls(number, statements, raw.driver_connection)
        stack.push_async_callback(branch._leave)
        await branch._driver.execute(begin, timeout=_ANSWER_S)
        return branch

    async def end(self, commands: str, tag: str) -> None:
        """Runs commands of which the last one ends the transaction and answers with the tag. Raises LostRace if the server
        rolled back instead, since a statement before had failed.
        """
        if await self._driver.execute(commands, timeout=_ANSWER_S) != tag:
            self.is_ended = True
            raise LostRace
        self.is_ended = True

    async def command(self, commands: str) -> None:
        """Runs commands after the end."""
        await self._driver.execute(commands, timeout=_ANSWER_S)

    async def _leave(self) -> None:
        if self.is_ended:
            return
        with suppress(*FAILURES):
            await self._driver.execute("ROLLBACK", timeout=_ROLLBACK_S)
            return
        self._driver.terminate()
