"""Where users are, as it is known beyond this process: a record each in the Cache, for as long as it may be shown to anybody.

The Cache may be lost. A mark in it tells: where the mark is missing, everything is, and for as long as a fix lives places that
are not found are looked for in the history of the last 10 minutes and put back, those that are asked for first.
"""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import structlog
from prometheus_client import Counter

from discovery.clock import Clock
from discovery.errors import HitherError
from hither.location.v1 import location_pb2
from services.location.plausibility import LIFETIME_MS, is_live
from services.location.precision import Fix
from services.ports.cache import Cache
from services.ports.location_history import MOST_FIXES, FixRow, LocationHistory

_PREFIX = "location:"
_SHOWN_PREFIX = "nearby:"
_MARK = "location-mark"
_SHOWN_TTL_S = 24 * 3600.0
"""It is written when others are near than before, which may be long ago."""
_MARK_TTL_S = 30 * 24 * 3600.0
_PUT_BACK_AT_ONCE = 32

_losses = Counter("hither_location_cache_losses", "Times that the cache was found without its mark.")
_put_back = Counter("hither_location_put_back", "Places that were found in the history and put back into the cache.")
_log = structlog.get_logger("hither.location")


@dataclass(frozen=True, slots=True)
class Record:
    """Where a user is. Without a fix only the rules have changed: `version` is that of the user's privacy, as the writer knew it."""

    user_id: str
    fix: Fix | None
    coarse: Fix | None
    version: int
    radius_miles: float = 0.0
    """How far the user looks; zero: as far as the settings say."""
    is_forgotten: bool = False
    """Whatever fix is known of the user is to be forgotten."""

    def is_live(self, now_ms: int) -> bool:
        """Whether it may be shown to anybody."""
        return self.fix is not None and is_live(self.fix, now_ms)


def topic_of(user_id: str) -> str:
    """The Bus topic of a user's place."""
    return _PREFIX + user_id


def user_of(topic: str) -> str:
    """The user whose place a Bus topic tells."""
    return topic.removeprefix(_PREFIX)


def encode(record: Record) -> bytes:
    """As it goes into the Cache and over the Bus."""
    message = location_pb2.LocationRecord(
        user_id=record.user_id,
        privacy_version=record.version,
        radius=record.radius_miles,
        forgotten=record.is_forgotten,
    )
    for fix, part in ((record.fix, message.fix), (record.coarse, message.coarse_fix)):
        if fix is not None:
            fill_fix(part, fix)
    return message.SerializeToString()


def decode(payload: bytes) -> Record:
    """What encode() made."""
    message = location_pb2.LocationRecord.FromString(payload)
    return Record(
        message.user_id,
        _fix(message.fix) if message.HasField("fix") else None,
        _fix(message.coarse_fix) if message.HasField("coarse_fix") else None,
        message.privacy_version,
        message.radius,
        message.forgotten,
    )


def fill_fix(message: location_pb2.Fix, fix: Fix) -> None:
    """Writes the fix into a message of the contract."""
    message.lat, message.lng, message.accuracy_m = fix.lat, fix.lng, fix.accuracy_m
    message.timestamp.FromMilliseconds(fix.time_ms)


def _fix(message: location_pb2.Fix) -> Fix:
    return Fix(message.lat, message.lng, message.timestamp.ToMilliseconds(), message.accuracy_m)


class Records:
    """Records by user, and whom each user was shown. Raises the Cache's Unavailable (ENGINE_DOWN)."""

    def __init__(self, cache: Cache, history: LocationHistory, clock: Clock) -> None:
        self._cache = cache
        self._history = history
        self._clock = clock

    async def read(self, user_ids: Sequence[str]) -> dict[str, Record]:
        """The live records of the users; no entry where there is none."""
        now_ms = self._clock.now_ms()
        mark, *values = await self._cache.get([_MARK, *(_PREFIX + user_id for user_id in user_ids)])
        found = {
            user_id: record
            for user_id, value in zip(user_ids, values, strict=True)
            if value is not None and (record := decode(value)).is_live(now_ms)
        }
        missing = [user_id for user_id, value in zip(user_ids, values, strict=True) if value is None]
        if missing and now_ms < await self._lost_ms(mark, now_ms) + LIFETIME_MS:
            found.update(await self._recover(missing, now_ms))
        return found

    async def write(self, record: Record) -> None:
        """Keeps the record for as long as its fix lives."""
        assert record.fix is not None
        ttl_s = (record.fix.time_ms + LIFETIME_MS - self._clock.now_ms()) / 1000
        await self._cache.set({_PREFIX + record.user_id: encode(record)}, max(ttl_s, 0.001))

    async def forget(self, user_id: str) -> None:
        """The user is nowhere, and what the history knows from before is not to be put back."""
        nowhere = Record(user_id, None, None, 0, is_forgotten=True)
        await self._cache.set({_PREFIX + user_id: encode(nowhere)}, LIFETIME_MS / 1000)

    async def shown(self, user_id: str) -> frozenset[str]:
        """Whom the user was shown last, as far as it is known."""
        [value] = await self._cache.get([_SHOWN_PREFIX + user_id])
        return frozenset(location_pb2.ShownFriends.FromString(value or b"").friend_ids)

    async def keep_shown(self, shown: Mapping[str, Iterable[str]]) -> None:
        """Keeps whom users are shown now, for the next owner of each."""
        if shown:
            items = {
                _SHOWN_PREFIX + user_id: location_pb2.ShownFriends(friend_ids=friend_ids).SerializeToString()
                for user_id, friend_ids in shown.items()
            }
            await self._cache.set(items, _SHOWN_TTL_S)

    async def _lost_ms(self, mark: bytes | None, now_ms: int) -> int:
        """When everything was lost last."""
        if mark is not None:
            return int(mark)
        _losses.inc()
        _log.warning("cache.lost")
        await self._cache.set({_MARK: str(now_ms).encode()}, _MARK_TTL_S)
        return now_ms

    async def _recover(self, user_ids: Sequence[str], now_ms: int) -> dict[str, Record]:
        rows: dict[str, FixRow] = {}
        try:
            for start in range(0, len(user_ids), MOST_FIXES):
                chunk = user_ids[start : start + MOST_FIXES]
                rows.update(await self._history.latest(chunk, now_ms - LIFETIME_MS + 1))
        except HitherError as error:  # nobody is shown who cannot be found
            _log.warning("history.failed", error=str(error))
        records = {user_id: _recovered(row) for user_id, row in rows.items()}
        at_once = asyncio.Semaphore(_PUT_BACK_AT_ONCE)
        async with asyncio.TaskGroup() as group:
            for record in records.values():
                group.create_task(self._put_back(record, now_ms, at_once))
        return records

    async def _put_back(self, record: Record, now_ms: int, at_once: asyncio.Semaphore) -> None:
        assert record.fix is not None
        ttl_s = (record.fix.time_ms + LIFETIME_MS - now_ms) / 1000
        async with at_once:
            try:
                await self._cache.compare_and_set(_PREFIX + record.user_id, None, encode(record), ttl_s)
            except HitherError as error:  # the record serves; the next who asks puts it back
                _log.warning("putting_back.failed", error=str(error))
                return
        _put_back.inc()


def _recovered(row: FixRow) -> Record:
    fix = Fix(row.lat, row.lng, row.time_ms, row.accuracy_m)
    return Record(row.user_id, fix, fix, 0)
