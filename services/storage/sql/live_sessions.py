"""The store of live-location sessions on SQL: each method is one statement, and a change names the version that it changes."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any, Self

from sqlalchemy import CursorResult, Executable, Row, bindparam, select, text
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from discovery.errors import Aborted, HitherError, Internal, ResourceExhausted, Unavailable
from services.ports.live_session_store import Ending, LiveSessionRow
from services.storage.sql import migrations
from services.storage.sql.admission import Admission
from services.storage.sql.directory import SqlSettings, engine_of
from services.storage.sql.engine import Engine
from services.storage.sql.schema import LIVE_SESSIONS

_ROWS = LIVE_SESSIONS.c
_ADD = text("""
    INSERT INTO live_sessions (session_id, conversation_id, partition, user_id, opaque, started_ms, expires_ms,
        keep_until_ms, ending, ended_ms, announced, told, version)
    VALUES (:session_id, :conversation_id, :partition, :user_id, :opaque, :started_ms, :expires_ms,
        :keep_until_ms, :ending, :ended_ms, :announced, :told, 1)
    ON CONFLICT (session_id) DO NOTHING""")
_REPLACE = text("""
    UPDATE live_sessions SET expires_ms = :expires_ms, keep_until_ms = :keep_until_ms, ending = :ending,
        ended_ms = :ended_ms, announced = :announced, told = :told, version = version + 1
    WHERE session_id = :session_id AND version = :before""")
_FIND = select(LIVE_SESSIONS).where(_ROWS.session_id == bindparam("session"))
_ACTIVE = (
    select(LIVE_SESSIONS)
    .where(_ROWS.conversation_id == bindparam("conversation"), _ROWS.ending == 0)
    .order_by(_ROWS.session_id)
    .limit(bindparam("most"))
)
_OPEN = (
    select(LIVE_SESSIONS)
    .where(_ROWS.partition == bindparam("its_partition"), _ROWS.told == 0, _ROWS.session_id > bindparam("after"))
    .order_by(_ROWS.session_id)
    .limit(bindparam("most"))
)
_PURGE = text("""
    DELETE FROM live_sessions WHERE session_id IN (
        SELECT session_id FROM live_sessions WHERE told = 1 AND keep_until_ms < :before_ms LIMIT :most)""")


class SqlLiveSessionStore:
    """See services.ports.live_session_store.LiveSessionStore. Made by `open`.

    A write whose commit broke or took too long raises Unavailable (OUTCOME_UNKNOWN); one that lost races again and again
    Aborted; more calls than may wait, or a pool that stays empty, ResourceExhausted.
    """

    def __init__(self, engine: Engine, settings: SqlSettings) -> None:
        self._engine = engine
        self._settings = settings
        self._admission = Admission(settings.waiting_most)

    @classmethod
    async def open(cls, url: str, settings: SqlSettings | None = None) -> Self:
        """Connects and migrates. `url` is as SqlDirectoryStore.open takes it, perhaps of a PostgreSQL database that others use
        too. Stores of one process are opened one after the other, as Alembic keeps its state in globals.

        Raises ValueError for another kind of database, sqlalchemy.exc.SQLAlchemyError or OSError if it cannot be reached, and
        alembic's CommandError if a newer version of this program made it.
        """
        chosen = settings or SqlSettings()
        engine = engine_of(url, chosen)
        try:
            await engine.migrate(partial(migrations.migrate, migrations.LIVE_SESSIONS))
        except BaseException:
            await engine.close()
            raise
        return cls(engine, chosen)

    async def add(self, row: LiveSessionRow) -> LiveSessionRow:
        """See LiveSessionStore."""
        await self._write(_ADD, _values(row))
        stands = await self.find(row.session_id)
        if stands is None:
            raise Internal("The live-session store's database made no row.")
        return stands

    async def replace(self, before: LiveSessionRow, after: LiveSessionRow) -> bool:
        """See LiveSessionStore."""
        return await self._write(_REPLACE, {**_values(after), "before": before.version}) == 1

    async def find(self, session_id: str) -> LiveSessionRow | None:
        """See LiveSessionStore."""
        rows = await self._read(_FIND, {"session": session_id})
        return rows[0] if rows else None

    async def active_in(self, conversation_id: str, limit: int) -> Sequence[LiveSessionRow]:
        """See LiveSessionStore."""
        return await self._read(_ACTIVE, {"conversation": conversation_id, "most": limit})

    async def open_in(self, partition: int, after_session_id: str, limit: int) -> Sequence[LiveSessionRow]:
        """See LiveSessionStore."""
        return await self._read(_OPEN, {"its_partition": partition, "after": after_session_id, "most": limit})

    async def purge(self, before_ms: int, limit: int) -> int:
        """See LiveSessionStore."""
        return await self._write(_PURGE, {"before_ms": before_ms, "most": limit})

    async def close(self) -> None:
        """See LiveSessionStore."""
        await self._admission.close()
        await self._engine.close()

    async def _read(self, statement: Executable, parameters: Mapping[str, object]) -> Sequence[LiveSessionRow]:
        with self._admission.one():
            try:
                async with asyncio.timeout(self._settings.transaction_timeout_s), self._engine.reading() as transaction:
                    return [_row(row) for row in (await transaction.execute(statement, parameters)).all()]
            except (DBAPIError, PoolTimeoutError, OSError) as error:
                raise _refusal(error, "ENGINE_DOWN") from error

    async def _write(self, statement: Executable, parameters: Mapping[str, object]) -> int:
        """Runs the statement as a transaction; how many rows it changed."""
        with self._admission.one():
            for _ in range(self._settings.attempts):
                try:
                    return (await self._write_once(statement, parameters)).rowcount
                except DBAPIError as error:
                    if not self._engine.is_lost_race(error.orig):
                        raise _refusal(error, "ENGINE_DOWN") from error
        raise Aborted("Concurrent changes kept winning.")

    async def _write_once(
        self, statement: Executable, parameters: Mapping[str, object]
    ) -> CursorResult[*tuple[Any, ...]]:
        outcome = "ENGINE_DOWN"
        try:
            async with asyncio.timeout(self._settings.transaction_timeout_s), self._engine.writing() as transaction:
                result = await transaction.execute(statement, parameters)
                outcome = "OUTCOME_UNKNOWN"
                await transaction.commit()
                return result
        except DBAPIError as error:
            if self._engine.is_lost_race(error.orig):
                raise
            raise _refusal(error, outcome) from error
        except (PoolTimeoutError, OSError) as error:
            raise _refusal(error, outcome) from error


def _values(row: LiveSessionRow) -> dict[str, object]:
    numbers = {
        "opaque": int(row.opaque),
        "ending": int(row.ending),
        "announced": int(row.announced),
        "told": int(row.told),
    }
    return {**asdict(row), **numbers}


def _row(row: Row[*tuple[Any, ...]]) -> LiveSessionRow:
    return LiveSessionRow(
        session_id=row.session_id,
        conversation_id=row.conversation_id,
        partition=row.partition,
        user_id=row.user_id,
        opaque=bool(row.opaque),
        started_ms=row.started_ms,
        expires_ms=row.expires_ms,
        keep_until_ms=row.keep_until_ms,
        ending=Ending(row.ending),
        ended_ms=row.ended_ms,
        announced=bool(row.announced),
        told=bool(row.told),
        version=row.version,
    )


def _refusal(error: DBAPIError | PoolTimeoutError | OSError, outcome: str) -> HitherError:
    """What callers are told; `outcome` says what became of the call if it broke on its way."""
    if isinstance(error, PoolTimeoutError):
        return ResourceExhausted("No connection to the database came free.", retry_after_s=1.0)
    is_of_the_engine = isinstance(error, (OSError, OperationalError, InterfaceError)) or error.connection_invalidated
    if not is_of_the_engine:
        return Internal("The live-session store's database refused a statement.")
    return Unavailable("The live-session store's database is away.", reason=outcome, retry_after_s=1.0)
