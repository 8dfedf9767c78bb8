"""The log of push deliveries on SQL, in the push store's database.

A device keeps its newest entries. What is beyond is looked for when this process first writes for the device and then after each
_TRIMMED_AFTER of its entries, not at each: so a device never has more than that many too many for each process that wrote for it.
"""

import asyncio
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any, Self

from sqlalchemy import Row, bindparam, delete, select, text, tuple_

from services.ports.push_store import KEPT_DELIVERIES, DeliveryRow, Fate
from services.storage.sql.calls import Calls
from services.storage.sql.directory import SqlSettings
from services.storage.sql.engine import Engine, Statements
from services.storage.sql.push import opened
from services.storage.sql.schema import PUSH_DELIVERIES

Device = tuple[str, str]
Values = dict[str, object]

_TRIMMED_AFTER = 50
_AT_ONCE = 100
_MOST_REMEMBERED = 20_000
"""Devices of which it is remembered how much was written since they were trimmed; the others are trimmed at the next entry."""

_ROWS = PUSH_DELIVERIES.c
_PUT = text("""
    INSERT INTO push_deliveries (user_id, device_id, push_id, at_ms, fate, reason, kind, conversation_id, messages,
        collapse_id, attempts, latency_ms)
    VALUES (:user_id, :device_id, :push_id, :at_ms, :fate, :reason, :kind, :conversation_id, :messages,
        :collapse_id, :attempts, :latency_ms)
    ON CONFLICT (user_id, device_id, push_id) DO UPDATE SET at_ms = excluded.at_ms, fate = excluded.fate,
        reason = excluded.reason, kind = excluded.kind, conversation_id = excluded.conversation_id,
        messages = excluded.messages, collapse_id = excluded.collapse_id, attempts = excluded.attempts,
        latency_ms = excluded.latency_ms""")
_TRIM = text("""
    DELETE FROM push_deliveries WHERE user_id = :user_id AND device_id = :device_id AND (at_ms, push_id) <= (
        SELECT at_ms, push_id FROM push_deliveries WHERE user_id = :user_id AND device_id = :device_id
        ORDER BY at_ms DESC, push_id DESC LIMIT 1 OFFSET :kept)""")
_NEWEST = (
    select(PUSH_DELIVERIES)
    .where(_ROWS.user_id == bindparam("user"), _ROWS.device_id == bindparam("device"))
    .order_by(_ROWS.at_ms.desc(), _ROWS.push_id.desc())
    .limit(bindparam("most"))
)
_BEFORE = _NEWEST.where(tuple_(_ROWS.at_ms, _ROWS.push_id) < tuple_(bindparam("at_ms"), bindparam("push_id")))
_FORGET = delete(PUSH_DELIVERIES).where(_ROWS.user_id == bindparam("user"), _ROWS.device_id == bindparam("device"))


class SqlDeliveryLog:
    """See services.ports.push_store.DeliveryLog. Made by `open`; what calls raise besides is in services.storage.sql.calls."""

    def __init__(self, engine: Engine, settings: SqlSettings) -> None:
        self._calls = Calls(engine, settings, "push delivery log")
        self._untrimmed: dict[Device, int] = {}
        """Entries since the device was trimmed; the device that was written to last stands last."""

    @classmethod
    async def open(cls, url: str, settings: SqlSettings | None = None) -> Self:
        """As SqlPushStore.open; the two may share a database."""
        chosen = settings or SqlSettings()
        return cls(await opened(url, chosen), chosen)

    async def record(self, rows: Sequence[DeliveryRow]) -> None:
        """See DeliveryLog."""
        if not rows:
            return
        # In one order, so that no two who write the same wait for each other.
        values = [_values(row) for row in sorted(rows, key=lambda row: (row.user_id, row.device_id, row.push_id))]
        written = Counter((row.user_id, row.device_id) for row in rows)
        # Of a write whose outcome is not known, the next one trims.
        untrimmed = {device: self._untrimmed.pop(device, _TRIMMED_AFTER) + count for device, count in written.items()}
        due = sorted(device for device, count in untrimmed.items() if count > _TRIMMED_AFTER)

        async def put(tables: Statements) -> bool:
            for some in _parts(values):
                await tables.execute(_PUT, some)
                await asyncio.sleep(0)  # SQLite works on the event loop
            for some in _parts([_trimmed(device) for device in due]):
                await tables.execute(_TRIM, some)
                await asyncio.sleep(0)
            return True

        await self._calls.write(put)
        self._remember({**untrimmed, **dict.fromkeys(due, 0)})

    async def read(
        self, user_id: str, device_id: str, before: tuple[int, str] | None, limit: int
    ) -> Sequence[DeliveryRow]:
        """See DeliveryLog."""
        if limit <= 0:
            return []
        place: dict[str, object] = {"user": user_id, "device": device_id, "most": limit}
        statement = _NEWEST
        if before is not None:
            statement, place["at_ms"], place["push_id"] = _BEFORE, *before
        [rows] = await self._calls.read((statement, place))
        return [_row(row) for row in rows]

    async def forget(self, user_id: str, device_id: str) -> None:
        """See DeliveryLog."""

        async def forget(tables: Statements) -> bool | None:
            return (await tables.execute(_FORGET, {"user": user_id, "device": device_id})).rowcount > 0 or None

        await self._calls.write(forget)

    async def close(self) -> None:
        """See DeliveryLog. May be called twice."""
        await self._calls.close()

    def _remember(self, untrimmed: Mapping[Device, int]) -> None:
        self._untrimmed.update(untrimmed)
        while len(self._untrimmed) > _MOST_REMEMBERED:
            del self._untrimmed[next(iter(self._untrimmed))]


def _parts(values: Sequence[Values]) -> Iterator[Sequence[Values]]:
    """The values in parts that are sent at once."""
    return (values[start : start + _AT_ONCE] for start in range(0, len(values), _AT_ONCE))


def _trimmed(device: Device) -> Values:
    return {"user_id": device[0], "device_id": device[1], "kept": KEPT_DELIVERIES}


def _values(row: DeliveryRow) -> Values:
    return {**asdict(row), "fate": int(row.fate)}


def _row(row: Row[*tuple[Any, ...]]) -> DeliveryRow:
    return DeliveryRow(
        user_id=row.user_id,
        device_id=row.device_id,
        push_id=row.push_id,
        at_ms=row.at_ms,
        fate=Fate(row.fate),
        reason=row.reason,
        kind=row.kind,
        conversation_id=row.conversation_id,
        messages=row.messages,
        collapse_id=row.collapse_id,
        attempts=row.attempts,
        latency_ms=row.latency_ms,
    )
