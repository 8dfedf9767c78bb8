"""The location history on Cassandra: a partition for each user and day, newest first.

Every fix is written with the time to live that is left of its seven days. All rows of a day run out together, so the table is
compacted by windows of time: files whose rows have all run out are dropped whole.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

from cassandra.cluster import Session
from cassandra.query import PreparedStatement

from discovery.clock import Clock
from discovery.errors import InvalidArgument
from services.ports.location_history import KEPT_MS, MOST_FIXES, FixRow
from services.storage.access import OPEN, Access
from services.storage.cassandra.engine import Engine, PartitionWrite, Statement
from services.storage.cassandra.opening import open_tables
from services.storage.cassandra.rows import KEYS_A_STATEMENT, chunks
from services.storage.cassandra.schema import HISTORY

_DAY_MS = 24 * 3600 * 1000
_FIX_BYTES = 100
_AHEAD_MS = 60 * 1000
"""How far in the future a fix may be: clocks differ."""


@dataclass(frozen=True, slots=True)
class _Statements:
    insert: PreparedStatement
    select: PreparedStatement
    newest: PreparedStatement
    delete: PreparedStatement


class CassandraLocationHistory:
    """See services.ports.location_history.LocationHistory. Connects again by itself."""

    def __init__(self, engine: Engine, statements: _Statements, clock: Clock) -> None:
        self._engine = engine
        self._statements = statements
        self._clock = clock

    @classmethod
    async def open(
        cls,
        contact_points: Sequence[str],
        port: int,
        keyspace: str,
        clock: Clock,
        *,
        replication: int = 1,
        access: Access = OPEN,
    ) -> Self:
        """As CassandraMessageStore.open; both may share a keyspace."""
        opened = await open_tables(contact_points, port, keyspace, replication, access, HISTORY, _prepare)
        return cls(*opened, clock)

    async def append(self, fixes: Sequence[FixRow]) -> None:
        """See LocationHistory."""
        _check(len(fixes))
        now_ms = self._clock.now_ms()
        writes = [
            PartitionWrite([self._insert(fix, ttl_s)], _FIX_BYTES)
            for fix in fixes
            if (ttl_s := (fix.time_ms + KEPT_MS - now_ms) // 1000) > 0
        ]
        with self._engine.working():
            await self._engine.write(writes)

    async def read(self, user_id: str, after_ms: int, before_ms: int, limit: int) -> Sequence[FixRow]:
        """See LocationHistory."""
        _check(limit)
        now_ms = self._clock.now_ms()
        after_ms, before_ms = max(after_ms, now_ms - KEPT_MS), min(before_ms, now_ms + _AHEAD_MS)
        fixes: list[FixRow] = []
        with self._engine.working():
            for day in reversed(_days(after_ms, before_ms)):
                if len(fixes) >= limit:
                    break
                left = limit - len(fixes)
                found = await self._engine.execute(self._statements.select, (user_id, day, after_ms, before_ms, left))
                fixes += [FixRow(*row) for row in found]
        return fixes

    async def latest(self, user_ids: Collection[str], since_ms: int) -> Mapping[str, FixRow]:
        """See LocationHistory."""
        _check(len(user_ids))
        now_ms = self._clock.now_ms()
        statements: list[Statement] = [
            (self._statements.newest, (chunk, day, since_ms))
            for day in _days(max(since_ms, now_ms - _DAY_MS), now_ms + _AHEAD_MS)
            for chunk in chunks(list(dict.fromkeys(user_ids)), KEYS_A_STATEMENT)
        ]
        newest: dict[str, FixRow] = {}
        with self._engine.working():
            for row in self._made(await self._engine.execute_all(statements)):
                if row.user_id not in newest or newest[row.user_id].time_ms < row.time_ms:
                    newest[row.user_id] = row
        return newest

    async def forget(self, user_id: str) -> None:
        """See LocationHistory."""
        now_ms = self._clock.now_ms()
        with self._engine.working():
            await self._engine.execute_all(
                [(self._statements.delete, (user_id, day)) for day in _days(now_ms - KEPT_MS, now_ms + _AHEAD_MS)]
            )

    async def close(self) -> None:
        """See LocationHistory. May be called twice."""
        await self._engine.close()

    def _insert(self, fix: FixRow, ttl_s: int) -> Statement:
        day = fix.time_ms // _DAY_MS
        return self._statements.insert, (fix.user_id, day, fix.time_ms, fix.lat, fix.lng, fix.accuracy_m, ttl_s)

    @staticmethod
    def _made(results: Sequence[list[tuple[object, ...]]]) -> Iterator[FixRow]:
        return (FixRow(*row) for rows in results for row in rows)  # type: ignore[arg-type] # the table's types


def _days(after_ms: int, before_ms: int) -> range:
    """The days that hold times of the range."""
    return range(after_ms // _DAY_MS, before_ms // _DAY_MS + 1)


def _check(count: int) -> None:
    if count > MOST_FIXES:
        raise InvalidArgument(f"More than {MOST_FIXES} at once.")


def _prepare(session: Session, keyspace: str) -> _Statements:
    fixes = f"{keyspace}.location_history"
    columns = "user_id, time_ms, lat, lng, accuracy_m"
    return _Statements(
        session.prepare(
            f"INSERT INTO {fixes} (user_id, day, time_ms, lat, lng, accuracy_m) VALUES (?, ?, ?, ?, ?, ?) USING TTL ?"
        ),
        session.prepare(
            f"SELECT {columns} FROM {fixes} WHERE user_id = ? AND day = ? AND time_ms > ? AND time_ms < ? LIMIT ?"
        ),
        session.prepare(
            f"SELECT {columns} FROM {fixes} WHERE user_id IN ? AND day = ? AND time_ms >= ? PER PARTITION LIMIT 1"
        ),
        session.prepare(f"DELETE FROM {fixes} WHERE user_id = ? AND day = ?"),
    )
