"""Sampled points of live locations for audit, where an operator wants them: one in a while, for as long as the history keeps places.

They stand in the location history under their session, never under their user: what was shared with a conversation is not for
those who may see the user nearby. Of opaque live locations there is nothing to keep.
"""

import asyncio
from collections import deque

import structlog
from prometheus_client import Counter

from discovery.clock import Clock
from discovery.errors import HitherError
from hither.location.v1.location_pb2 import Fix
from services.location.live_shares import Shared
from services.ports.location_history import MOST_FIXES, FixRow, LocationHistory

_MOST_WAITING = 10_000
_GATHER_S = 1.0

_dropped = Counter("hither_live_audit_dropped", "Sampled points that were not kept: too many waited for the history.")
_log = structlog.get_logger("hither.location")


class LiveAudit:
    """Samples while run() runs. Never holds up a point: what waits is bounded, and of more the oldest go."""

    def __init__(self, history: LocationHistory, every_s: float, clock: Clock) -> None:
        self._history = history
        self._every_s = every_s
        self._clock = clock
        self._waiting: deque[FixRow] = deque()
        self._some = asyncio.Event()

    def take(self, shared: Shared, fix: Fix) -> None:
        """A point was taken; it is kept if it is time for one."""
        now_s = self._clock.monotonic_s()
        if shared.opaque or now_s - shared.sampled_s < self._every_s:
            return
        shared.sampled_s = now_s
        if len(self._waiting) >= _MOST_WAITING:
            self._waiting.popleft()
            _dropped.inc()
        self._waiting.append(FixRow(shared.session_id, fix.timestamp.ToMilliseconds(), fix.lat, fix.lng))
        self._some.set()

    async def run(self) -> None:
        """Keeps what was sampled, until cancelled."""
        while True:
            await self._some.wait()
            await self.step()
            await asyncio.sleep(_GATHER_S)

    async def step(self) -> None:
        """Keeps what waits; what the history does not take waits on."""
        while self._waiting:
            rows = [self._waiting.popleft() for _ in range(min(len(self._waiting), MOST_FIXES))]
            try:
                await self._history.append(rows)
            except HitherError as error:
                _log.warning("live.unsampled", reason=error.reason, points=len(rows))
                self._waiting.extendleft(reversed(rows))
                return
        self._some.clear()
