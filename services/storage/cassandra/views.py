"""The log of views on Cassandra: a partition for each owner and day, newest first.

An entry's timestamp is when it was seen last, so that the newest of several writes stays, whichever comes last. Every entry is
written with the time to live that is left of its 30 days; files whose entries have all run out are dropped whole.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from cassandra.cluster import Session
from cassandra.query import PreparedStatement

from discovery.clock import Clock
from discovery.errors import InvalidArgument
from services.ports.privacy_store import Precision
from services.ports.view_log import KEPT_MS, MOST_VIEWS, ViewPlace, ViewRow
from services.storage.access import OPEN, Access
from services.storage.cassandra.engine import Engine, PartitionWrite, Row, Statement
from services.storage.cassandra.opening import open_tables
from services.storage.cassandra.schema import VIEWS

_DAY_MS = 24 * 3600 * 1000
_VIEW_BYTES = 150
_AHEAD_MS = 10 * 60 * 1000
"""How far in the future a slot may begin: clocks differ."""
_DAYS_AT_ONCE = 8
_MOST_COUNTED = 999
"""Counts up to this order writes of one millisecond."""


@dataclass(frozen=True, slots=True)
class _Statements:
    insert: PreparedStatement
    select: PreparedStatement
    select_slot: PreparedStatement
    delete: PreparedStatement


class CassandraViewLog:
    """See services.ports.view_log.ViewLog. Connects again by itself."""

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
        """As CassandraLocationHistory.open; both may share a keyspace."""
        opened = await open_tables(contact_points, port, keyspace, replication, access, VIEWS, _prepare)
        return cls(*opened, clock)

    async def record(self, views: Sequence[ViewRow]) -> None:
        """See ViewLog."""
        _check(len(views))
        now_ms = self._clock.now_ms()
        newest: dict[tuple[str, int, str], ViewRow] = {}
        for view in views:
            place = view.owner_id, view.slot_ms, view.viewer_id
            if place not in newest or (newest[place].last_ms, newest[place].count) < (view.last_ms, view.count):
                newest[place] = view
        writes = [
            PartitionWrite([self._insert(view, ttl_s)], _VIEW_BYTES)
            for view in newest.values()
            if (ttl_s := (view.slot_ms + KEPT_MS - now_ms) // 1000) > 0
        ]
        with self._engine.working():
            await self._engine.write(writes)

    async def read(self, owner_id: str, after: ViewPlace | None, limit: int) -> Sequence[ViewRow]:
        """See ViewLog."""
        _check(limit)
        if limit <= 0:
            return []
        now_ms = self._clock.now_ms()
        before_ms, kept_ms = now_ms + _AHEAD_MS, now_ms - KEPT_MS
        found: list[Row] = []
        with self._engine.working():
            if after is not None and after.slot_ms > kept_ms:
                place = owner_id, after.slot_ms // _DAY_MS, after.slot_ms, after.viewer_id, limit
                found = await self._engine.execute(self._statements.select_slot, place)
            if after is not None:
                before_ms = min(before_ms, after.slot_ms)
            days = list(reversed(range(kept_ms // _DAY_MS, before_ms // _DAY_MS + 1)))
            while days and len(found) < limit:
                some, days = days[:_DAYS_AT_ONCE], days[_DAYS_AT_ONCE:]
                left = limit - len(found)
                statements: list[Statement] = [
                    (self._statements.select, (owner_id, day, kept_ms, before_ms, left)) for day in some
                ]
                for rows in await self._engine.execute_all(statements):
                    found += rows
        return [_made(row) for row in found[:limit]]

    async def forget(self, owner_id: str) -> None:
        """See ViewLog."""
        now_ms = self._clock.now_ms()
        days = range((now_ms - KEPT_MS) // _DAY_MS, (now_ms + _AHEAD_MS) // _DAY_MS + 1)
        with self._engine.working():
            await self._engine.execute_all([(self._statements.delete, (owner_id, day)) for day in days])

    async def close(self) -> None:
        """See ViewLog. May be called twice."""
        await self._engine.close()

    def _insert(self, view: ViewRow, ttl_s: int) -> Statement:
        written_us = view.last_ms * 1000 + min(view.count, _MOST_COUNTED)
        return self._statements.insert, (
            view.owner_id, view.slot_ms // _DAY_MS, view.slot_ms, view.viewer_id, view.count, view.last_ms,
            int(view.precision), ttl_s, written_us,
        )  # fmt: skip


def _made(row: Row) -> ViewRow:
    owner_id, slot_ms, viewer_id, count, last_ms, precision = row
    return ViewRow(owner_id, slot_ms, viewer_id, count, last_ms, Precision(precision))


def _check(count: int) -> None:
    if count > MOST_VIEWS:
        raise InvalidArgument(f"More than {MOST_VIEWS} at once.")


def _prepare(session: Session, keyspace: str) -> _Statements:
    views = f"{keyspace}.location_views"
    select = (
        f"SELECT owner_id, slot_ms, viewer_id, count, last_ms, precision FROM {views} WHERE owner_id = ? AND day = ?"
    )
    return _Statements(
        session.prepare(
            f"INSERT INTO {views} (owner_id, day, slot_ms, viewer_id, count, last_ms, precision) VALUES (?, ?, ?, ?, ?, ?, ?)"
            " USING TTL ? AND TIMESTAMP ?"
        ),
        session.prepare(f"{select} AND slot_ms > ? AND slot_ms < ? LIMIT ?"),
        session.prepare(f"{select} AND slot_ms = ? AND viewer_id > ? LIMIT ?"),
        session.prepare(f"DELETE FROM {views} WHERE owner_id = ? AND day = ?"),
    )
