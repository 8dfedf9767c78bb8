"""Takes a live-location session its next step: what is due follows from its row alone, so any owner can do it, again and again.

Every change names the version that it changes, so of two owners at once only one decides.
"""

from collections.abc import Callable
from dataclasses import replace

from discovery.clock import Clock
from discovery.errors import Aborted, PermissionDenied
from services.ports.live_session_store import Ending, LiveSessionRow, LiveSessionStore
from services.sessions import live_lease
from services.sessions.live_telling import LiveTelling, Refused

_TRIES = 8


class LiveTending:
    """See the module. Raises HitherError for what is to be tried again."""

    def __init__(self, store: LiveSessionStore, telling: LiveTelling, clock: Clock, recheck_s: float) -> None:
        self._store = store
        self._telling = telling
        self._clock = clock
        self._recheck_ms = round(recheck_s * 1000)

    async def tend(self, session_id: str) -> int | None:
        """Does what is due; returns when something will be next, in milliseconds since 1970; None if nothing ever will."""
        row = await self._store.find(session_id)
        if row is None or row.told:
            return None
        if row.ending is Ending.NONE:
            row = await self._go_on(row)
        if row.ending is not Ending.NONE:
            await self._telling.tell_end(row)
            await self.change(row, live_lease.told)
            return None
        return min(row.expires_ms, self._clock.now_ms() + self._recheck_ms)

    async def announce(self, row: LiveSessionRow) -> LiveSessionRow:
        """Has the start said in the conversation. Raises Refused, after which the session has ended."""
        try:
            await self._telling.announce(row)
        except Refused:
            await self.end(row, Ending.REMOVED)
            raise
        return await self.change(row, live_lease.announced)

    async def end(self, row: LiveSessionRow, ending: Ending) -> LiveSessionRow:
        """Ends the session, if it has not ended; who is to know is told by tend()."""
        now_ms = self._clock.now_ms()
        return await self.change(row, lambda stands: live_lease.ended(stands, ending, now_ms))

    async def change(self, row: LiveSessionRow, change: Callable[[LiveSessionRow], LiveSessionRow]) -> LiveSessionRow:
        """Changes what stands, which may be newer than `row`; returns what then stands. Raises Aborted if others always win."""
        stands: LiveSessionRow | None = row
        for _ in range(_TRIES):
            if stands is None:
                return row
            changed = change(stands)
            if changed == stands:
                return stands
            if await self._store.replace(stands, changed):
                return replace(changed, version=stands.version + 1)
            stands = await self._store.find(row.session_id)
        raise Aborted("Concurrent changes of the session kept winning.")

    async def _go_on(self, row: LiveSessionRow) -> LiveSessionRow:
        """A session that has not ended: whether it still may."""
        if self._clock.now_ms() >= row.expires_ms:
            return await self._expire(row)
        if not row.announced:
            try:
                return await self.announce(row)
            except Refused:
                return await self.end(row, Ending.REMOVED)
        try:
            await self._telling.check_member(row.conversation_id, row.user_id)
        except PermissionDenied:
            return await self.end(row, Ending.REMOVED)
        return row

    async def _expire(self, row: LiveSessionRow) -> LiveSessionRow:
        now_ms = self._clock.now_ms()

        def expired(stands: LiveSessionRow) -> LiveSessionRow:  # it may have been renewed since it was read
            return live_lease.ended(stands, Ending.EXPIRED, now_ms) if now_ms >= stands.expires_ms else stands

        return await self.change(row, expired)
