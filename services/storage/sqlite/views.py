"""The log of views on SQLite. What has run out is invisible at once, and deleted a little at a time, at each write."""

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Self

from discovery.clock import Clock
from discovery.errors import HitherError, InvalidArgument
from services.ports.privacy_store import Precision
from services.ports.view_log import KEPT_MS, MOST_VIEWS, ViewPlace, ViewRow
from services.storage.sqlite.database import Schema
from services.storage.sqlite.readers import Readers
from services.storage.sqlite.writer import Writer

_ROW_BYTES = 256
"""What an entry weighs in memory, about."""
_PRUNED_AT_A_WRITE = 64
"""Entries that have run out and are deleted with one write, beside twice as many as it writes: so they cannot pile up."""
_FIRST = ViewPlace(1 << 62, "")

_SCHEMA = Schema(
    (
        (
            """CREATE TABLE views (
                owner_id TEXT NOT NULL, slot_ms INTEGER NOT NULL, viewer_id TEXT NOT NULL, count INTEGER NOT NULL,
                last_ms INTEGER NOT NULL, precision INTEGER NOT NULL,
                PRIMARY KEY (owner_id, slot_ms DESC, viewer_id)) WITHOUT ROWID""",
            "CREATE INDEX views_by_slot ON views (slot_ms)",
        ),
    )
)


@dataclass(frozen=True, slots=True)
class _Record:
    views: Sequence[ViewRow]


@dataclass(frozen=True, slots=True)
class _Forget:
    owner_id: str


_Op = _Record | _Forget


class SqliteViewLog:
    """See services.ports.view_log.ViewLog."""

    def __init__(self, path: Path, clock: Clock) -> None:
        self._clock = clock
        self._writer: Writer[_Op] = Writer(path, _SCHEMA, _ViewsApplier(clock))
        self._readers = Readers(path)

    @classmethod
    async def open(cls, path: Path, clock: Clock) -> Self:
        """Opens the file, or makes it. Raises SchemaTooNew, or Unavailable if the engine cannot."""
        log = cls(path, clock)
        try:
            await log._writer.open()
        except BaseException:
            await log.close()
            raise
        return log

    async def record(self, views: Sequence[ViewRow]) -> None:
        """See ViewLog."""
        _check(len(views))
        if views:
            await self._writer.write(_Record(views), _ROW_BYTES * len(views))

    async def read(self, owner_id: str, after: ViewPlace | None, limit: int) -> Sequence[ViewRow]:
        """See ViewLog."""
        _check(limit)
        kept_ms = self._clock.now_ms() - KEPT_MS
        return await self._readers.run(partial(_select, owner_id, after or _FIRST, kept_ms, limit)) if limit > 0 else []

    async def forget(self, owner_id: str) -> None:
        """See ViewLog."""
        await self._writer.write(_Forget(owner_id), _ROW_BYTES)

    async def close(self) -> None:
        """See ViewLog. May be called twice."""
        await self._readers.close()
        await self._writer.close()


class _ViewsApplier:
    """Carries out the operations in their order."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def apply(self, connection: sqlite3.Connection, ops: Sequence[_Op]) -> None:
        """See Applier."""
        written = 0
        for op in ops:
            if isinstance(op, _Record):
                connection.executemany(
                    """INSERT INTO views VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE
                        SET count = excluded.count, last_ms = excluded.last_ms, precision = excluded.precision
                        WHERE (excluded.last_ms, excluded.count) > (last_ms, count)""",
                    [_values(view) for view in op.views],
                )
                written += len(op.views)
            else:
                connection.execute("DELETE FROM views WHERE owner_id = ?", (op.owner_id,))
        connection.execute(
            """DELETE FROM views WHERE (owner_id, slot_ms, viewer_id) IN (
                SELECT owner_id, slot_ms, viewer_id FROM views WHERE slot_ms <= ? ORDER BY slot_ms LIMIT ?)""",
            (self._clock.now_ms() - KEPT_MS, _PRUNED_AT_A_WRITE + 2 * written),
        )

    def forget(self) -> None:
        """See Applier. Nothing is remembered."""

    def committed(self, ops: Sequence[_Op]) -> None:
        """See Applier. Nobody follows."""

    def ended(self, error: HitherError) -> None:
        """See Applier."""


def _check(count: int) -> None:
    if count > MOST_VIEWS:
        raise InvalidArgument(f"More than {MOST_VIEWS} at once.")


def _values(view: ViewRow) -> tuple[str, int, str, int, int, int]:
    return view.owner_id, view.slot_ms, view.viewer_id, view.count, view.last_ms, int(view.precision)


def _select(owner_id: str, after: ViewPlace, kept_ms: int, limit: int, connection: sqlite3.Connection) -> list[ViewRow]:
    rows = connection.execute(
        """SELECT owner_id, slot_ms, viewer_id, count, last_ms, precision FROM views
            WHERE owner_id = ? AND slot_ms > ? AND slot_ms <= ? AND (slot_ms < ? OR viewer_id > ?)
            ORDER BY slot_ms DESC, viewer_id LIMIT ?""",
        (owner_id, kept_ms, after.slot_ms, after.slot_ms, after.viewer_id, limit),
    )
    return [_made(row) for row in rows.fetchall()]


def _made(row: tuple[str, int, str, int, int, int]) -> ViewRow:
    owner_id, slot_ms, viewer_id, count, last_ms, precision = row
    return ViewRow(owner_id, slot_ms, viewer_id, count, last_ms, Precision(precision))
