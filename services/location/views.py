"""Who was shown whose place, gathered for the log: one entry for each owner, viewer and 5 minutes, written as it grows.

Nobody waits for the log: a view that cannot be logged now is logged later. Entries wait within a bound; beyond it the oldest
ones are given up, and counted.
"""

import asyncio
from collections import OrderedDict
from dataclasses import dataclass

import structlog
from prometheus_client import Counter

from discovery.clock import Clock
from discovery.errors import HitherError
from services.location.settings import LocationSettings
from services.ports.privacy_store import Precision
from services.ports.view_log import MOST_VIEWS, SLOT_MS, ViewLog, ViewRow

_failures = Counter("hither_location_view_log_failures", "Times that views could not be logged and were kept.")
_lost = Counter("hither_location_views_lost", "Entries of the log of views that were given up.")
_log = structlog.get_logger("hither.location")

Key = tuple[str, str]
"""(owner_id, viewer_id)."""


@dataclass(slots=True)
class _Seen:
    slot_ms: int
    count: int
    last_ms: int
    precision: Precision

    def row(self, key: Key) -> ViewRow:
        return ViewRow(key[0], self.slot_ms, key[1], self.count, self.last_ms, self.precision)


class Views:
    """Counts views, and logs them while run() runs."""

    def __init__(self, log: ViewLog, clock: Clock, settings: LocationSettings) -> None:
        self._log = log
        self._clock = clock
        self._settings = settings
        self._seen: OrderedDict[Key, _Seen] = OrderedDict()
        """The present slot of each pair, counted on until it is over."""
        self._due: dict[tuple[Key, int], _Seen] = {}
        """What is to be logged, in the order of the first view."""

    def note(self, owner_id: str, viewer_id: str, precision: Precision) -> None:
        """The viewer is shown where the owner is."""
        now_ms = self._clock.now_ms()
        slot_ms, key = now_ms // SLOT_MS * SLOT_MS, (owner_id, viewer_id)
        seen = self._seen.get(key)
        if seen is None or seen.slot_ms != slot_ms:
            seen = self._seen[key] = _Seen(slot_ms, 0, now_ms, precision)
        self._seen.move_to_end(key)
        seen.count, seen.last_ms, seen.precision = seen.count + 1, now_ms, max(seen.precision, precision)
        self._due[key, slot_ms] = seen
        while len(self._seen) > self._settings.most_seen:
            self._seen.popitem(last=False)
        while len(self._due) > self._settings.most_seen:
            del self._due[next(iter(self._due))]
            _lost.inc()

    async def run(self) -> None:
        """Logs until cancelled, and once more then."""
        try:
            while True:
                await asyncio.sleep(self._settings.views_gather_s)
                await self.step()
        finally:
            await self.step()

    async def step(self) -> None:
        """Logs what has gathered, as far as it can."""
        self._forget_what_is_over()
        while self._due:
            keys = list(self._due)[:MOST_VIEWS]
            due = [self._due.pop(key) for key in keys]
            rows = [seen.row(key) for (key, _), seen in zip(keys, due, strict=True)]
            try:
                async with asyncio.timeout(self._settings.engine_timeout_s):
                    await self._log.record(rows)
            except (HitherError, TimeoutError) as error:
                _failures.inc()
                _log.warning("views.failed", error=str(error))
                self._due = {**dict(zip(keys, due, strict=True)), **self._due}
                return

    def _forget_what_is_over(self) -> None:
        slot_ms = self._clock.now_ms() // SLOT_MS * SLOT_MS
        while self._seen:
            key, seen = next(iter(self._seen.items()))
            if seen.slot_ms >= slot_ms:
                return
            del self._seen[key]
