"""The owner's part: takes the fixes of its users, keeps the newest in the Cache, tells those who follow, and feeds the history.

A fix that was answered is in the Cache and was published. The history comes after: fixes gather for a moment and wait, within a
bound, while it is away.
"""

import asyncio
from collections import OrderedDict, deque

import structlog
from prometheus_client import Counter

from discovery.clock import Clock
from discovery.errors import HitherError, Unavailable
from services.location.plausibility import check
from services.location.policy import Hints, Intervals, Wanted, is_worth_keeping, wanted
from services.location.precision import Fix, coarse
from services.location.records import Record, Records, topic_of
from services.location.rules import KnownRules
from services.location.settings import LocationSettings
from services.location.showing import Showing
from services.ports.bus import Bus
from services.ports.location_history import MOST_FIXES, FixRow, LocationHistory
from services.ports.privacy_store import PrivacyRow, PrivacyStore

_MOST_REMEMBERED = 100_000
_fixes = Counter("hither_location_fixes", "Fixes that were taken.")
_refused = Counter("hither_location_refused_fixes", "Fixes that were refused.", ["reason"])
_failures = Counter("hither_location_history_failures", "Times that fixes could not be kept in the history and waited.")
_lost = Counter("hither_location_history_lost", "Fixes that the history never got, since too many waited.")
_log = structlog.get_logger("hither.location")


class Trail:
    """Which fixes go into the history, on their way there while run() runs."""

    def __init__(self, history: LocationHistory, settings: LocationSettings) -> None:
        self._history = history
        self._settings = settings
        self._kept: OrderedDict[str, Fix] = OrderedDict()
        """The last fix of each user that went there, of those who were here lately."""
        self._waiting: deque[FixRow] = deque()

    def take(self, user_id: str, fix: Fix) -> None:
        """Keeps the fix if it is worth it."""
        apart_ms = round(self._settings.history_apart_s * 1000)
        if not is_worth_keeping(fix, self._kept.get(user_id), self._settings.min_move_m, apart_ms):
            return
        self._kept[user_id] = fix
        self._kept.move_to_end(user_id)
        if len(self._kept) > _MOST_REMEMBERED:
            self._kept.popitem(last=False)
        self._waiting.append(FixRow(user_id, fix.time_ms, fix.lat, fix.lng, fix.accuracy_m))
        self._give_up_too_many()

    async def run(self) -> None:
        """Works until cancelled, and keeps what waits then."""
        try:
            while True:
                await asyncio.sleep(self._settings.history_gather_s)
                await self.step()
        finally:
            await self.step()

    async def step(self) -> None:
        """Keeps what waits, as far as it can."""
        while self._waiting:
            rows = [self._waiting.popleft() for _ in range(min(len(self._waiting), MOST_FIXES))]
            try:
                async with asyncio.timeout(self._settings.engine_timeout_s):
                    await self._history.append(rows)
            except (HitherError, TimeoutError) as error:
                _failures.inc()
                _log.warning("history.failed", error=str(error))
                self._waiting.extendleft(reversed(rows))
                self._give_up_too_many()
                return

    def _give_up_too_many(self) -> None:
        while len(self._waiting) > self._settings.history_waiting:
            self._waiting.popleft()
            _lost.inc()


class Updating:
    """Takes fixes."""

    def __init__(
        self,
        store: PrivacyStore,
        rules: KnownRules,
        records: Records,
        bus: Bus,
        showing: Showing,
        trail: Trail,
        clock: Clock,
        settings: LocationSettings,
    ) -> None:
        self._store = store
        self._rules = rules
        self._records = records
        self._bus = bus
        self._showing = showing
        self._trail = trail
        self._clock = clock
        self._settings = settings
        self._intervals = Intervals(settings.moving_s, settings.walking_s, settings.still_s, settings.min_move_m)

    async def update(self, user_id: str, fix: Fix, hints: Hints, radius_miles: float) -> Wanted | None:
        """The user is there. None: the user shares with nobody, and nothing was kept. Raises FixOutOfTime, ImplausibleMove and
        Unavailable (ENGINE_DOWN), after which the fix may or may not have been seen.
        """
        now_ms = self._clock.now_ms()
        try:
            check(fix, None, now_ms)
            async with asyncio.timeout(self._settings.engine_timeout_s):
                row = await self._row(user_id)
                if not row.shares_location:
                    return None
                last = await self._last(user_id)
                if last is not None and last.fix is not None:
                    if fix.time_ms < last.fix.time_ms:
                        return wanted(last.fix, None, hints, self._intervals)
                    check(fix, last.fix, now_ms)
                # A clock that is ahead must not make the next fixes look old.
                fix = Fix(fix.lat, fix.lng, min(fix.time_ms, now_ms), fix.accuracy_m)
                seen = coarse(last.coarse if last else None, fix)
                record = Record(user_id, fix, seen, row.version, radius_miles)
                encoded = await self._records.write(record)
                await self._bus.publish(topic_of(user_id), encoded)
        except TimeoutError:
            raise Unavailable("The place could not be kept in time.") from None
        except HitherError as error:
            _refused.labels(error.reason).inc()
            raise
        _fixes.inc()
        self._trail.take(user_id, fix)
        return wanted(fix, last.fix if last else None, hints, self._intervals)

    async def _row(self, user_id: str) -> PrivacyRow:
        return self._rules.row(user_id) or (await self._store.privacy([user_id]))[user_id]

    async def _last(self, user_id: str) -> Record | None:
        known = self._showing.record_of(user_id)
        if known is not None:
            return known if known.is_live(self._clock.now_ms()) else None
        if self._showing.is_nowhere(user_id):
            return None
        return (await self._records.read([user_id])).get(user_id)
