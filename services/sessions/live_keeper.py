"""Knows when something is due for the live-location sessions that this process owns, and has it done then.

It holds a time for each session and nothing else: what is due stands in the store. When partitions come, their open sessions are
read from the store, so a session outlives its owner; no table is ever polled.
"""

import asyncio
import heapq
import random
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from itertools import count

import structlog
from prometheus_client import Counter, Gauge

from discovery.clock import Clock
from discovery.errors import HitherError
from discovery.ids import direct_conversation_id
from discovery.partitions import SEPARATOR
from services.ports.live_session_store import Ending, LiveSessionRow, LiveSessionStore
from services.sessions.settings import SessionsSettings

_PAGE = 500
_PURGED_AT_ONCE = 1_000
_PURGE_EVERY_S = 60.0
_LOOK_S = 0.5
"""After which it is looked whether something is due, whatever was to be the next: the wall clock may jump, and machines sleep."""

Tend = Callable[[str], Awaitable[int | None]]
"""Takes a session its next step; answers when the one after it is due, in milliseconds since 1970, if ever."""

_sessions = Gauge("hither_live_sessions", "Live-location sessions that this process watches over.")
_failures = Counter("hither_live_session_failures", "Steps of live-location sessions that failed and are tried again.")
_log = structlog.get_logger("hither.sessions")


class LiveKeeper:
    """See the module. run() works until cancelled; step() does what is due now."""

    def __init__(
        self,
        store: LiveSessionStore,
        tend: Tend,
        partition_of: Callable[[str], int],
        clock: Clock,
        settings: SessionsSettings,
    ) -> None:
        self._store = store
        self._tend = tend
        self._partition_of = partition_of
        self._clock = clock
        self._settings = settings
        self._due: list[tuple[int, int, str]] = []
        self._at: dict[str, tuple[int, int]] = {}
        """When each session is due, and the number of that entry; what else stands in the heap for it is void."""
        self._entries = count()
        self._conversations: dict[str, set[str]] = {}
        self._owned: frozenset[int] = frozenset()
        self._unread: deque[int] = deque()
        """Partitions whose sessions are still to be read from the store."""
        self._purged_s = clock.monotonic_s()
        self._wake = asyncio.Event()

    def __len__(self) -> int:
        """Sessions that are watched over."""
        return len(self._at)

    @property
    def is_full(self) -> bool:
        """Whether this process watches over as many sessions as it may."""
        return len(self._at) >= self._settings.most_live_sessions

    def schedule(self, session_id: str, due_ms: int) -> None:
        """Something is due for the session at that time, and nothing earlier."""
        entry = self._at[session_id] = due_ms, next(self._entries)
        self._conversations.setdefault(_conversation_of(session_id), set()).add(session_id)
        heapq.heappush(self._due, (*entry, session_id))
        self._wake.set()

    def changed(self, _topic: str, payload: bytes) -> None:
        """Takes news of the directory: "conversation <id>" or "friends <user> <user>", one on each line."""
        for line in payload.decode(errors="replace").splitlines():
            match line.split(" "):
                case ["conversation", conversation_id]:
                    self._look_at(conversation_id)
                case ["friends", one, other]:
                    self._look_at(direct_conversation_id(one, other))

    def gap(self, _topic: str) -> None:
        """News may have been missed: looks at all sessions anew, some time within a quarter of the usual time."""
        now_ms, spread_ms = self._clock.now_ms(), self._settings.live_recheck_s * 250
        for session_id, (due_ms, _) in list(self._at.items()):
            soon_ms = now_ms + round(spread_ms * random.random())  # noqa: S311 - spreads load, guards nothing
            self.schedule(session_id, min(due_ms, soon_ms))

    def follow(self, owned: frozenset[int]) -> None:
        """The process owns these partitions now."""
        self._unread = deque(partition for partition in self._unread if partition in owned)
        self._unread.extend(owned - self._owned)
        self._owned = owned
        for session_id in [one for one in self._at if self._partition_of(one) not in owned]:
            self._forget(session_id)
        self._wake.set()

    async def run(self) -> None:
        """Works until cancelled."""
        while True:
            self._wake.clear()
            await self.step()
            try:
                async with asyncio.timeout(self._pause_s()):
                    await self._wake.wait()
            except TimeoutError:
                continue

    async def step(self) -> None:
        """Reads what came with new partitions, and does what is due, a few sessions at a time."""
        await self._read_new()
        due = iter(self._take_due())

        async def work() -> None:
            for session_id in due:
                await self._step_of(session_id)

        async with asyncio.TaskGroup() as group:
            for _ in range(self._settings.live_at_once):
                group.create_task(work())
        _sessions.set(len(self._at))
        await self._purge()

    def _look_at(self, conversation_id: str) -> None:
        for session_id in self._conversations.get(conversation_id, ()):
            self.schedule(session_id, self._clock.now_ms())

    def _take_due(self) -> list[str]:
        return list(self._due_now())

    def _due_now(self) -> Iterator[str]:
        now_ms = self._clock.now_ms()
        while self._due and self._due[0][0] <= now_ms:
            due_ms, number, session_id = heapq.heappop(self._due)
            if self._at.get(session_id) == (due_ms, number):
                yield session_id
        if len(self._due) > 2 * len(self._at) + _PAGE:  # renewals have left more void entries than there are sessions
            self._due = [(*entry, session_id) for session_id, entry in self._at.items()]
            heapq.heapify(self._due)

    async def _step_of(self, session_id: str) -> None:
        entry = self._at.get(session_id)
        try:
            next_ms = await self._tend(session_id)
        except HitherError as error:
            _failures.inc()
            _log.warning("live_session.failed", reason=error.reason, error=error.message)
            next_ms = self._clock.now_ms() + round(self._settings.live_retry_s * 1000)
        if entry is None or self._at.get(session_id) != entry:
            return  # it was scheduled anew meanwhile, or is not this process's any more
        if next_ms is None:
            self._forget(session_id)
        else:
            self.schedule(session_id, next_ms)

    async def _read_new(self) -> None:
        while self._unread:
            partition = self._unread[0]
            try:
                await self._read(partition)
            except HitherError as error:
                _failures.inc()
                _log.warning("live_sessions.unread", partition=partition, reason=error.reason)
                return
            if self._unread and self._unread[0] == partition:
                self._unread.popleft()

    async def _read(self, partition: int) -> None:
        after = ""
        while rows := await self._store.open_in(partition, after, _PAGE):
            if partition not in self._owned:
                return
            for row in rows:
                if row.session_id not in self._at:
                    self.schedule(row.session_id, self._first_look_ms(row))
            after = rows[-1].session_id

    def _first_look_ms(self, row: LiveSessionRow) -> int:
        """At once if something is due; else some time before the next look at the membership, not at all sessions at once."""
        now_ms = self._clock.now_ms()
        if not row.announced or row.ending is not Ending.NONE:
            return now_ms
        spread_ms = self._settings.live_recheck_s * 1000 * random.random()  # noqa: S311 - spreads load, guards nothing
        return min(row.expires_ms, now_ms + round(spread_ms))

    async def _purge(self) -> None:
        if self._clock.monotonic_s() - self._purged_s < _PURGE_EVERY_S:
            return
        self._purged_s = self._clock.monotonic_s()
        try:
            while await self._store.purge(self._clock.now_ms(), _PURGED_AT_ONCE) == _PURGED_AT_ONCE:
                continue
        except HitherError as error:
            _log.warning("live_sessions.unpurged", reason=error.reason)

    def _pause_s(self) -> float:
        if self._unread:
            return self._settings.live_retry_s
        if not self._due:
            return _LOOK_S
        wait_s = (self._due[0][0] - self._clock.now_ms()) / 1000
        return min(max(wait_s, 0.0), _LOOK_S)

    def _forget(self, session_id: str) -> None:
        del self._at[session_id]
        conversation_id = _conversation_of(session_id)
        sessions = self._conversations[conversation_id]
        sessions.discard(session_id)
        if not sessions:
            del self._conversations[conversation_id]


def _conversation_of(session_id: str) -> str:
    return session_id.partition(SEPARATOR)[0]
