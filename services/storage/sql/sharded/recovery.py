"""Ends what processes that died, or lost a shard, left prepared; forgets decisions that nobody will ask for any more.

Every process does this, for all: whatever two do at once has the effect of one of them.
"""

import asyncio
from collections.abc import Sequence

import asyncpg
import structlog
from sqlalchemy import text

from services.storage.sql.failures import FAILURES
from services.storage.sql.postgresql import PostgresqlEngine
from services.storage.sql.sharded.commit import TransactionName

_AT_ONCE = 100
# A transaction that was given up cannot be decided later than this: the server ends it when its process is silent.
_REFUSALS_KEPT_S = 3_600
_OLD_PARTS = text("""
    SELECT gid FROM pg_prepared_xacts
    WHERE database = current_database() AND gid LIKE 'hither directory %'
        AND prepared <= clock_timestamp() - make_interval(secs => :age_s)
    ORDER BY prepared LIMIT :limit""")
_PARTS = text("SELECT gid FROM pg_prepared_xacts WHERE database = current_database()")
# Waits for a decision that is under way.
_REFUSE = text("""
    INSERT INTO decisions (transaction_id, is_committed, time_ms)
    VALUES (:transaction_id, false, (extract(epoch FROM clock_timestamp()) * 1000)::bigint)
    ON CONFLICT (transaction_id) DO NOTHING""")
_DECISION = text("SELECT is_committed FROM decisions WHERE transaction_id = :transaction_id")
_OLD_DECISIONS = text("""
    SELECT transaction_id FROM decisions
    WHERE is_committed AND time_ms < (extract(epoch FROM clock_timestamp()) - :age_s) * 1000
    ORDER BY time_ms LIMIT :limit""")
_FORGET = text("DELETE FROM decisions WHERE transaction_id = ANY(CAST(:ids AS text[])) AND is_committed")
_FORGET_REFUSALS = text("""
    DELETE FROM decisions
    WHERE NOT is_committed AND time_ms < (extract(epoch FROM clock_timestamp()) - :age_s) * 1000""")

log = structlog.get_logger(__name__)


class Recovery:
    """What is prepared for longer than `doubt_s` is taken for left. Each step has `answer_s`."""

    def __init__(self, engines: Sequence[PostgresqlEngine], doubt_s: float, answer_s: float) -> None:
        self._engines = engines
        self._doubt_s = doubt_s
        self._answer_s = answer_s

    async def recover(self) -> None:
        """One look at all shards, at some transactions of each. Shards that are away are left for the next time."""
        for number in range(len(self._engines)):
            try:
                await self._end_parts(number)
            except FAILURES as error:
                log.warning("a shard of the directory cannot be looked at", shard=number, error=type(error).__name__)
        try:
            await self._forget()
        except FAILURES as error:
            log.debug("no decision is forgotten while a shard is away", error=type(error).__name__)

    async def _end_parts(self, number: int) -> None:
        limits = {"age_s": self._doubt_s, "limit": _AT_ONCE}
        async with asyncio.timeout(self._answer_s), self._engines[number].single() as connection:
            gids = list(await connection.scalars(_OLD_PARTS, limits))
        for gid in gids:
            name = TransactionName.parse(gid)
            if name is not None and name.first < len(self._engines):
                await self._end_part(number, name)

    async def _end_part(self, number: int, name: TransactionName) -> None:
        command = "COMMIT" if await self._is_committed(name) else "ROLLBACK"
        async with asyncio.timeout(self._answer_s), self._engines[number].single() as connection:
            driver: asyncpg.Connection = (await connection.get_raw_connection()).driver_connection
            try:
                await driver.execute(f"{command} PREPARED '{name.gid(number)}'")
            except (asyncpg.UndefinedObjectError, asyncpg.ObjectNotInPrerequisiteStateError):
                return  # Somebody else has ended it, or is about to.
        log.warning("a transaction that was left in doubt is ended", gid=name.gid(number), shard=number, by=command)

    async def _is_committed(self, name: TransactionName) -> bool:
        """Whether it was decided so; if it was not decided, it cannot be any more."""
        key = {"transaction_id": name.transaction_id}
        async with asyncio.timeout(self._answer_s), self._engines[name.first].single() as connection:
            await connection.execute(_REFUSE, key)
            return bool(await connection.scalar(_DECISION, key))

    async def _forget(self) -> None:
        old: dict[int, list[str]] = {}
        for number, engine in enumerate(self._engines):
            async with asyncio.timeout(self._answer_s), engine.single() as connection:
                await connection.execute(_FORGET_REFUSALS, {"age_s": _REFUSALS_KEPT_S})
                limits = {"age_s": self._doubt_s, "limit": _AT_ONCE}
                old[number] = list(await connection.scalars(_OLD_DECISIONS, limits))
        if not any(old.values()):
            return
        # Whatever a decided transaction has prepared was prepared before its decision was seen here.
        prepared = {name.transaction_id for name in await self._parts()}
        for number, ids in old.items():
            async with asyncio.timeout(self._answer_s), self._engines[number].single() as connection:
                await connection.execute(_FORGET, {"ids": [each for each in ids if each not in prepared]})

    async def _parts(self) -> list[TransactionName]:
        found = []
        for engine in self._engines:
            async with asyncio.timeout(self._answer_s), engine.single() as connection:
                found += [TransactionName.parse(gid) for gid in await connection.scalars(_PARTS)]
        return [name for name in found if name is not None]
