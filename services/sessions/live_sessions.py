"""Live-location sessions as their sharers and the other services ask for them: start, renew, stop, and which go on."""

import asyncio
from collections.abc import Callable, Sequence
from weakref import WeakValueDictionary

import structlog

from discovery.clock import Clock
from discovery.errors import HitherError, PermissionDenied
from services.ports.live_session_store import Ending, LiveSessionRow, LiveSessionStore
from services.sessions import live_lease
from services.sessions.errors import LiveLocationEnded, LiveLocationsFull
from services.sessions.live_keeper import LiveKeeper
from services.sessions.live_lease import Wish
from services.sessions.live_telling import LiveTelling, Refused
from services.sessions.live_tending import LiveTending

_MOST_IN_A_CONVERSATION = 1_000
_UNSURE_MS = 15_000
"""After which it is looked whether a session whose start was cut short exists."""
_SOON_MS = 1_000

_log = structlog.get_logger("hither.sessions")


class LiveSessions:
    """See the module. Raises Unavailable (ENGINE_DOWN) when the store is away."""

    def __init__(
        self,
        store: LiveSessionStore,
        telling: LiveTelling,
        tending: LiveTending,
        keeper: LiveKeeper,
        partition_of: Callable[[str], int],
        clock: Clock,
    ) -> None:
        self._store = store
        self._telling = telling
        self._tending = tending
        self._keeper = keeper
        self._partition_of = partition_of
        self._clock = clock
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def start(self, wish: Wish) -> LiveSessionRow:
        """Starts what the user wishes, or finds what the same request started before. Ends what the user shared there.

        If messaging is away the conversation is told later. Raises PermissionDenied (NOT_A_MEMBER, BLOCKED), and
        LiveLocationsFull.
        """
        session_id = wish.session_id()
        async with self._one_by_one(wish.conversation_id):
            if wish.request_id and (before := await self._store.find(session_id)) is not None:
                return before
            await self._telling.check_member(wish.conversation_id, wish.user_id)
            if self._keeper.is_full:
                raise LiveLocationsFull("Too many live locations are shared.", retry_after_s=60.0)
            await self._end_others(wish)
            now_ms = self._clock.now_ms()
            self._keeper.schedule(session_id, now_ms + _UNSURE_MS)  # before the store has it: nobody is to forget it
            row = await self._store.add(live_lease.begun(wish, session_id, self._partition_of(session_id), now_ms))
        try:
            row = await self._tending.announce(row)
        except Refused as refused:
            self._keeper.schedule(session_id, self._clock.now_ms())
            raise refused.error from None
        except HitherError as error:
            _log.warning("live_session.unannounced", reason=error.reason)
            self._keeper.schedule(session_id, min(row.expires_ms, self._clock.now_ms() + _SOON_MS))
            return row
        self._keeper.schedule(session_id, min(row.expires_ms, self._clock.now_ms() + _UNSURE_MS))
        return row

    async def renew(self, session_id: str, user_id: str, duration_ms: int) -> LiveSessionRow:
        """Has the session go on for at least so long from now. Raises LiveLocationEnded, and PermissionDenied (NOT_YOURSELF,
        NOT_A_MEMBER, BLOCKED).
        """
        row = await self._own(session_id, user_id)
        if row is None:
            raise LiveLocationEnded("There is no such live location.")
        await self._telling.check_member(row.conversation_id, user_id)
        now_ms = self._clock.now_ms()

        def longer(stands: LiveSessionRow) -> LiveSessionRow:
            if not live_lease.goes_on(stands, now_ms):
                raise LiveLocationEnded("The live location has ended.")
            return live_lease.renewed(stands, now_ms + duration_ms)

        return await self._tending.change(row, longer)

    async def stop(self, session_id: str, user_id: str) -> None:
        """Ends the session, if it has not ended. Raises PermissionDenied (NOT_YOURSELF)."""
        row = await self._own(session_id, user_id)
        if row is not None:
            await self._tending.end(row, Ending.STOPPED)
            self._keeper.schedule(session_id, self._clock.now_ms())

    async def active_in(self, conversation_id: str) -> Sequence[LiveSessionRow]:
        """The sessions of the conversation that go on."""
        now_ms = self._clock.now_ms()
        rows = await self._store.active_in(conversation_id, _MOST_IN_A_CONVERSATION)
        return [row for row in rows if live_lease.goes_on(row, now_ms)]

    async def _own(self, session_id: str, user_id: str) -> LiveSessionRow | None:
        row = await self._store.find(session_id)
        if row is not None and row.user_id != user_id:
            raise PermissionDenied("The live location is another user's.", reason="NOT_YOURSELF")
        return row

    async def _end_others(self, wish: Wish) -> None:
        for row in await self._store.active_in(wish.conversation_id, _MOST_IN_A_CONVERSATION):
            if row.user_id == wish.user_id:
                await self._tending.end(row, Ending.STOPPED)
                self._keeper.schedule(row.session_id, self._clock.now_ms())

    def _one_by_one(self, conversation_id: str) -> asyncio.Lock:
        lock = self._locks.get(conversation_id)
        if lock is None:
            lock = self._locks[conversation_id] = asyncio.Lock()
        return lock
