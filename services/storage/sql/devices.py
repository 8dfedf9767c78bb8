"""The device store on PostgreSQL.

All but the making of a device is one statement, which is a transaction by itself. Who makes a device holds its user's lock,
so that the user's devices are counted by one at a time.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Self

from sqlalchemy import Connection, RowMapping, make_url, text
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from discovery.errors import Internal, ResourceExhausted, Unavailable
from services.ports.device_store import CursorMove, DeviceRow
from services.storage.sql.admission import Admission
from services.storage.sql.directory import SqlSettings
from services.storage.sql.migrations import DEVICES, migrate
from services.storage.sql.postgresql import PostgresqlEngine
from services.storage.sql.shards import Shard, claim

_SEE_AGAIN = text("""
    UPDATE devices SET last_seen_ms = greatest(last_seen_ms, :seen_ms)
    WHERE user_id = :user_id AND device_id = :device_id
        AND (SELECT count(*) FROM devices WHERE user_id = :user_id) <= :most
    RETURNING user_id, device_id, cursor, last_seen_ms""")

_LOCK_USER = text("SELECT pg_advisory_xact_lock(hashtextextended('hither devices ' || :user_id, 0))")

_MAKE = text("""
    INSERT INTO devices (user_id, device_id, cursor, last_seen_ms)
    SELECT CAST(:user_id AS varchar), CAST(:device_id AS varchar), 0, CAST(:seen_ms AS bigint)
    WHERE (SELECT count(*) FROM devices WHERE user_id = :user_id AND device_id <> :device_id) < :most
    ON CONFLICT (user_id, device_id)
        DO UPDATE SET last_seen_ms = greatest(devices.last_seen_ms, excluded.last_seen_ms)
    RETURNING user_id, device_id, cursor, last_seen_ms""")

# Rows are locked in the order of their keys, so that no two calls wait for each other.
_ADVANCE = text("""
    WITH moves AS (
        SELECT * FROM unnest(CAST(:user_ids AS text[]), CAST(:device_ids AS text[]), CAST(:places AS bigint[]))
            AS move (user_id, device_id, pos)),
    before AS (
        SELECT devices.user_id, devices.device_id, devices.cursor, moves.pos
        FROM devices JOIN moves ON devices.user_id = moves.user_id AND devices.device_id = moves.device_id
        ORDER BY devices.user_id, devices.device_id FOR UPDATE OF devices),
    raised AS (
        UPDATE devices SET cursor = greatest(devices.cursor, before.pos) FROM before
        WHERE devices.user_id = before.user_id AND devices.device_id = before.device_id AND before.pos > before.cursor)
    SELECT user_id, device_id, cursor FROM before""")

_LIST = text("""
    SELECT user_id, device_id, cursor, last_seen_ms FROM devices
    WHERE user_id = :user_id AND device_id > :after ORDER BY device_id LIMIT :limit""")

_REMOVE = text("DELETE FROM devices WHERE user_id = :user_id AND device_id = :device_id")


class SqlDeviceStore:
    """See services.ports.device_store.DeviceStore. Made by `open`.

    A write whose connection broke, or that took longer than a transaction may, raises Unavailable (OUTCOME_UNKNOWN); more calls
    than may wait, or a pool that stays empty, ResourceExhausted.
    """

    def __init__(self, engine: PostgresqlEngine, settings: SqlSettings) -> None:
        self._engine = engine
        self._timeout_s = settings.transaction_timeout_s
        self._admission = Admission(settings.waiting_most)

    @classmethod
    async def open(cls, url: str, settings: SqlSettings | None = None, shard: Shard | None = None) -> Self:
        """Connects and migrates; the database holds all devices, or those of one shard (see ShardedDeviceStore).

        `url` is "postgresql+asyncpg://...", perhaps the directory's own database. The settings of
        retries are not used here. Stores of one process are opened one after the other, as Alembic keeps its state in globals.

        Raises ValueError for another kind of database or another shard, sqlalchemy.exc.SQLAlchemyError or OSError if it cannot
        be reached, and alembic's CommandError if a newer version of this program made it.
        """
        chosen = settings or SqlSettings()
        parsed = make_url(url)
        if parsed.get_backend_name() != "postgresql":
            raise ValueError(f"the device store runs on PostgreSQL, not on {parsed.get_backend_name()}")
        engine = PostgresqlEngine(parsed, chosen.connections, chosen.transaction_timeout_s)
        try:
            await engine.migrate(partial(_prepare, shard or Shard()))
        except BaseException:
            await engine.close()
            raise
        return cls(engine, chosen)

    async def touch(self, user_id: str, device_id: str, seen_ms: int, most: int) -> DeviceRow | None:
        """See DeviceStore."""
        device = {"user_id": user_id, "device_id": device_id, "seen_ms": seen_ms, "most": most}
        async with self._call("OUTCOME_UNKNOWN"):
            async with self._engine.single() as connection:
                row = (await connection.execute(_SEE_AGAIN, device)).mappings().first()
            if row is None:
                row = await self._make(device)
        return None if row is None else DeviceRow(**row)

    async def advance(self, moves: Sequence[CursorMove]) -> Sequence[int]:
        """See DeviceStore. Of several moves of one device, each answers what the one before it left."""
        if not moves:
            return []
        highest: dict[tuple[str, str], int] = {}
        for move in moves:
            device = move.user_id, move.device_id
            highest[device] = max(move.pos, highest.get(device, 0))
        parameters = {
            "user_ids": [user_id for user_id, _ in highest],
            "device_ids": [device_id for _, device_id in highest],
            "places": list(highest.values()),
        }
        async with self._call("OUTCOME_UNKNOWN"), self._engine.single() as connection:
            rows = (await connection.execute(_ADVANCE, parameters)).all()
        return _answers(moves, {(user_id, device_id): cursor for user_id, device_id, cursor in rows})

    async def list_devices(self, user_id: str, after_device_id: str, limit: int) -> Sequence[DeviceRow]:
        """See DeviceStore."""
        if limit <= 0:
            return []
        place = {"user_id": user_id, "after": after_device_id, "limit": limit}
        async with self._call("ENGINE_DOWN"), self._engine.single() as connection:
            return [DeviceRow(**row) for row in (await connection.execute(_LIST, place)).mappings()]

    async def remove(self, user_id: str, device_id: str) -> bool:
        """See DeviceStore."""
        async with self._call("OUTCOME_UNKNOWN"), self._engine.single() as connection:
            removed = await connection.execute(_REMOVE, {"user_id": user_id, "device_id": device_id})
            return removed.rowcount > 0

    async def close(self) -> None:
        """See DeviceStore. May be called twice."""
        await self._admission.close()
        await self._engine.close()

    async def _make(self, device: dict[str, object]) -> RowMapping | None:
        """Makes the device, unless its user has too many; or does as if it had been there, if it is there by now."""
        async with self._engine.locking() as connection:
            await connection.execute(_LOCK_USER, {"user_id": device["user_id"]})
            row = (await connection.execute(_MAKE, device)).mappings().first()
            await connection.commit()
            return row

    @asynccontextmanager
    async def _call(self, reason: str) -> AsyncIterator[None]:
        """Bounds the block's time and turns the driver's errors into ours; `reason` is for a call that broke on its way."""
        with self._admission.one():
            try:
                async with asyncio.timeout(self._timeout_s):
                    yield
            except PoolTimeoutError:
                raise ResourceExhausted("No connection to the database came free.", retry_after_s=1.0) from None
            except DBAPIError as error:
                if error.connection_invalidated:
                    raise _away(reason) from error
                if isinstance(error, (OperationalError, InterfaceError)):
                    raise _away("ENGINE_DOWN") from error
                raise Internal("The device store's database refused a statement.") from error
            except TimeoutError as error:
                raise _away(reason) from error
            except OSError as error:
                raise _away("ENGINE_DOWN") from error


def _prepare(shard: Shard, connection: Connection) -> None:
    migrate(DEVICES, connection)
    claim(shard, connection)


def _answers(moves: Sequence[CursorMove], cursors: dict[tuple[str, str], int]) -> list[int]:
    """What each move found, one after the other, where the devices were at `cursors` before; 0 for unknown devices."""
    found = []
    for move in moves:
        device = move.user_id, move.device_id
        before = cursors.get(device)
        found.append(before or 0)
        if before is not None:
            cursors[device] = max(before, move.pos)
    return found


def _away(reason: str) -> Unavailable:
    return Unavailable("The device store's database is away.", reason=reason, retry_after_s=1.0)
