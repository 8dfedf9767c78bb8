"""The device store on SQLite. Operations happen in the order in which they came; neighbours that move cursors, as one."""

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Self

from discovery.errors import HitherError
from services.ports.device_store import CursorMove, DeviceRow
from services.storage.sqlite.database import Schema
from services.storage.sqlite.keys import select_by_keys
from services.storage.sqlite.readers import Readers
from services.storage.sqlite.writer import Writer

_ROW_BYTES = 256
"""What a row or a move weighs in memory, about."""

_SCHEMA = Schema(
    (
        (
            """CREATE TABLE devices (
                user_id TEXT NOT NULL, device_id TEXT NOT NULL, cursor INTEGER NOT NULL, last_seen_ms INTEGER NOT NULL,
                PRIMARY KEY (user_id, device_id)) WITHOUT ROWID""",
        ),
    )
)

_CURSORS_AT = """SELECT d.user_id, d.device_id, d.cursor FROM {keys} CROSS JOIN devices d
    ON (d.user_id, d.device_id) = (column1, column2)"""


@dataclass(slots=True)
class _Touch:
    user_id: str
    device_id: str
    seen_ms: int
    most: int
    row: DeviceRow | None = None


@dataclass(slots=True)
class _Advance:
    moves: Sequence[CursorMove]
    before: list[int] = field(default_factory=list)


@dataclass(slots=True)
class _Remove:
    user_id: str
    device_id: str
    removed: bool = False


_Op = _Touch | _Advance | _Remove


class SqliteDeviceStore:
    """See services.ports.device_store.DeviceStore."""

    def __init__(self, path: Path) -> None:
        self._writer: Writer[_Op] = Writer(path, _SCHEMA, _DeviceApplier())
        self._readers = Readers(path)

    @classmethod
    async def open(cls, path: Path) -> Self:
        """Opens the file, or makes it. Raises SchemaTooNew, or Unavailable if the engine cannot."""
        store = cls(path)
        try:
            await store._writer.open()
        except BaseException:
            await store.close()
            raise
        return store

    async def touch(self, user_id: str, device_id: str, seen_ms: int, most: int) -> DeviceRow | None:
        """See DeviceStore."""
        op = _Touch(user_id, device_id, seen_ms, most)
        await self._writer.write(op, _ROW_BYTES)
        return op.row

    async def advance(self, moves: Sequence[CursorMove]) -> Sequence[int]:
        """See DeviceStore. Of several moves of one device, each answers what the one before it left."""
        if not moves:
            return []
        op = _Advance(moves)
        await self._writer.write(op, _ROW_BYTES * len(moves))
        return op.before

    async def list_devices(self, user_id: str, after_device_id: str, limit: int) -> Sequence[DeviceRow]:
        """See DeviceStore."""
        if limit <= 0:
            return []
        return await self._readers.run(partial(_select_devices, user_id, after_device_id, limit))

    async def remove(self, user_id: str, device_id: str) -> bool:
        """See DeviceStore."""
        op = _Remove(user_id, device_id)
        await self._writer.write(op, _ROW_BYTES)
        return op.removed

    async def close(self) -> None:
        """See DeviceStore. May be called twice."""
        await self._readers.close()
        await self._writer.close()


class _DeviceApplier:
    """Carries out the operations in their order."""

    def apply(self, connection: sqlite3.Connection, ops: Sequence[_Op]) -> None:
        """See Applier."""
        for _, neighbours in groupby(ops, type):
            run = list(neighbours)
            advances = [op for op in run if isinstance(op, _Advance)]
            if advances:
                _advance(connection, advances)
            for op in run:
                if isinstance(op, _Touch):
                    _touch(connection, op)
                elif isinstance(op, _Remove):
                    _remove(connection, op)

    def forget(self) -> None:
        """See Applier. Nothing is remembered."""

    def committed(self, ops: Sequence[_Op]) -> None:
        """See Applier. Nobody follows."""

    def ended(self, error: HitherError) -> None:
        """See Applier."""


def _touch(connection: sqlite3.Connection, op: _Touch) -> None:
    (others,) = connection.execute(
        "SELECT count(*) FROM devices WHERE user_id = ? AND device_id <> ?", (op.user_id, op.device_id)
    ).fetchone()
    if others + 1 > op.most:
        op.row = None
        return
    row = connection.execute(
        """INSERT INTO devices VALUES (?, ?, 0, ?)
            ON CONFLICT DO UPDATE SET last_seen_ms = max(last_seen_ms, excluded.last_seen_ms)
            RETURNING user_id, device_id, cursor, last_seen_ms""",
        (op.user_id, op.device_id, op.seen_ms),
    ).fetchall()[0]
    op.row = DeviceRow(*row)


def _advance(connection: sqlite3.Connection, ops: Sequence[_Advance]) -> None:
    keys = list({(move.user_id, move.device_id): None for op in ops for move in op.moves})
    cursors: dict[tuple[object, object], int] = {}
    for user_id, device_id, cursor in select_by_keys(connection, _CURSORS_AT, keys):
        cursors[user_id, device_id] = cursor  # type: ignore[assignment] # the column's declared type
    raised: dict[tuple[str, str], int] = {}
    for op in ops:
        op.before = []
        for move in op.moves:
            device = move.user_id, move.device_id
            before = cursors.get(device)
            op.before.append(before or 0)
            if before is not None and move.pos > before:
                cursors[device] = raised[device] = move.pos
    connection.executemany(
        "UPDATE devices SET cursor = ? WHERE (user_id, device_id) = (?, ?)",
        [(pos, *device) for device, pos in raised.items()],
    )


def _remove(connection: sqlite3.Connection, op: _Remove) -> None:
    deleted = connection.execute("DELETE FROM devices WHERE (user_id, device_id) = (?, ?)", (op.user_id, op.device_id))
    op.removed = deleted.rowcount > 0


def _select_devices(user_id: str, after_device_id: str, limit: int, connection: sqlite3.Connection) -> list[DeviceRow]:
    rows = connection.execute(
        """SELECT user_id, device_id, cursor, last_seen_ms FROM devices
            WHERE user_id = ? AND device_id > ? ORDER BY device_id LIMIT ?""",
        (user_id, after_device_id, limit),
    )
    return [DeviceRow(*row) for row in rows.fetchall()]
