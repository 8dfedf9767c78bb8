"""The location history on SQLite. What has run out is invisible at once, and deleted a little at a time, at each write."""

import sqlite3
from collections.abc import Collection, Mapping, Sequence
from dataclasses import astuple, dataclass
from functools import partial
from pathlib import Path
from typing import Self

from discovery.clock import Clock
from discovery.errors import HitherError, InvalidArgument
from services.ports.location_history import KEPT_MS, MOST_FIXES, FixRow
from services.storage.sqlite.database import Schema
from services.storage.sqlite.keys import select_by_keys
from services.storage.sqlite.readers import Readers
from services.storage.sqlite.writer import Writer

_ROW_BYTES = 128
"""What a fix weighs in memory, about."""
_PRUNED_AT_A_WRITE = 64
"""Fixes that have run out and are deleted with one write, beside twice as many as it writes: so they cannot pile up."""

_SCHEMA = Schema(
    (
        (
            """CREATE TABLE fixes (
                user_id TEXT NOT NULL, time_ms INTEGER NOT NULL, lat REAL NOT NULL, lng REAL NOT NULL, accuracy_m REAL NOT NULL,
                PRIMARY KEY (user_id, time_ms)) WITHOUT ROWID""",
            "CREATE INDEX fixes_by_time ON fixes (time_ms)",
        ),
    )
)
_LATEST = """SELECT user_id, time_ms, lat, lng, accuracy_m FROM {keys} CROSS JOIN fixes f
    ON f.user_id = column1 AND f.time_ms = (SELECT max(time_ms) FROM fixes WHERE user_id = column1 AND time_ms >= column2)"""


@dataclass(frozen=True, slots=True)
class _Append:
    fixes: Sequence[FixRow]


@dataclass(frozen=True, slots=True)
class _Forget:
    user_id: str


_Op = _Append | _Forget


class SqliteLocationHistory:
    """See services.ports.location_history.LocationHistory."""

    def __init__(self, path: Path, clock: Clock) -> None:
        self._clock = clock
        self._writer: Writer[_Op] = Writer(path, _SCHEMA, _HistoryApplier(clock))
        self._readers = Readers(path)

    @classmethod
    async def open(cls, path: Path, clock: Clock) -> Self:
        """Opens the file, or makes it. Raises SchemaTooNew, or Unavailable if the engine cannot."""
        history = cls(path, clock)
        try:
            await history._writer.open()
        except BaseException:
            await history.close()
            raise
        return history

    async def append(self, fixes: Sequence[FixRow]) -> None:
        """See LocationHistory."""
        _check(len(fixes))
        kept_ms = self._kept_ms()
        some = [fix for fix in fixes if fix.time_ms > kept_ms]
        if some:
            await self._writer.write(_Append(some), _ROW_BYTES * len(some))

    async def read(self, user_id: str, after_ms: int, before_ms: int, limit: int) -> Sequence[FixRow]:
        """See LocationHistory."""
        _check(limit)
        after_ms = max(after_ms, self._kept_ms())
        return await self._readers.run(partial(_select, user_id, after_ms, before_ms, limit)) if limit > 0 else []

    async def latest(self, user_ids: Collection[str], since_ms: int) -> Mapping[str, FixRow]:
        """See LocationHistory."""
        _check(len(user_ids))
        keys = [(user_id, max(since_ms, self._kept_ms() + 1)) for user_id in user_ids]
        return await self._readers.run(partial(_select_latest, keys)) if keys else {}

    async def forget(self, user_id: str) -> None:
        """See LocationHistory."""
        await self._writer.write(_Forget(user_id), _ROW_BYTES)

    async def close(self) -> None:
        """See LocationHistory. May be called twice."""
        await self._readers.close()
        await self._writer.close()

    def _kept_ms(self) -> int:
        """Fixes of later times are kept."""
        return self._clock.now_ms() - KEPT_MS


class _HistoryApplier:
    """Carries out the operations in their order."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def apply(self, connection: sqlite3.Connection, ops: Sequence[_Op]) -> None:
        """See Applier."""
        written = 0
        for op in ops:
            if isinstance(op, _Append):
                connection.executemany(
                    "INSERT OR REPLACE INTO fixes VALUES (?, ?, ?, ?, ?)", [astuple(fix) for fix in op.fixes]
                )
                written += len(op.fixes)
            else:
                connection.execute("DELETE FROM fixes WHERE user_id = ?", (op.user_id,))
        connection.execute(
            """DELETE FROM fixes WHERE (user_id, time_ms) IN (
                SELECT user_id, time_ms FROM fixes WHERE time_ms <= ? ORDER BY time_ms LIMIT ?)""",
            (self._clock.now_ms() - KEPT_MS, _PRUNED_AT_A_WRITE + 2 * written),
        )

    def forget(self) -> None:
        """See Applier. Nothing is remembered."""

    def committed(self, ops: Sequence[_Op]) -> None:
        """See Applier. Nobody follows."""

    def ended(self, error: HitherError) -> None:
        """See Applier."""


def _check(count: int) -> None:
    if count > MOST_FIXES:
        raise InvalidArgument(f"More than {MOST_FIXES} at once.")


def _select(
    user_id: str, after_ms: int, before_ms: int, limit: int, connection: sqlite3.Connection
) -> Sequence[FixRow]:
    rows = connection.execute(
        """SELECT user_id, time_ms, lat, lng, accuracy_m FROM fixes
            WHERE user_id = ? AND time_ms > ? AND time_ms < ? ORDER BY time_ms DESC LIMIT ?""",
        (user_id, after_ms, before_ms, limit),
    )
    return [FixRow(*row) for row in rows.fetchall()]


def _select_latest(keys: Sequence[tuple[str, int]], connection: sqlite3.Connection) -> Mapping[str, FixRow]:
    return {row[0]: FixRow(*row) for row in select_by_keys(connection, _LATEST, keys)}  # type: ignore[arg-type, misc]
