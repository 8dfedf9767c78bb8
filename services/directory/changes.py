"""Changes of the directory: committed first, then announced on the bus, so that caches elsewhere let go of what was.

A line says what changed, never how: "conversation <id>" for its members, "friends <user> <user>" for how the two stand.
So a line may come twice, or for nothing, and does no harm; one that is lost costs a cache its time to live.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

import structlog

from discovery.errors import Unavailable
from services.directory.ports import DirectoryStore, Tables
from services.directory.settings import DirectorySettings
from services.ports.bus import Bus

TOPIC = "directory.changes"
_LINES_IN_ONE = 200

T = TypeVar("T")
log = structlog.get_logger(__name__)


class News:
    """What one transaction will have changed."""

    def __init__(self) -> None:
        self._lines: list[str] = []

    def members_changed(self, conversation_id: str) -> None:
        """The conversation has other members, or none any more."""
        self._lines.append(f"conversation {conversation_id}")

    def standing_changed(self, user_id: str, other_id: str) -> None:
        """The two users stand to each other in another way."""
        self._lines.append(f"friends {user_id} {other_id}")

    def lines(self) -> tuple[str, ...]:
        """All of it, a line each."""
        return tuple(self._lines)


class Changes:
    """Runs mutations on the store and announces them."""

    def __init__(self, store: DirectoryStore, bus: Bus, settings: DirectorySettings) -> None:
        self._store = store
        self._bus = bus
        self._settings = settings
        self._late: deque[str] = deque(maxlen=settings.announcements_most)
        self._some_late = asyncio.Event()

    async def write(self, work: Callable[[Tables, News], Awaitable[T]]) -> T:
        """Runs `work` as DirectoryStore.write does; what it notes as news is announced before this returns.

        If the bus is away, or the caller goes, the news is announced by run() as soon as it can be.
        """
        news = News()

        async def attempt(tables: Tables) -> T:
            nonlocal news
            news = News()
            return await work(tables, news)

        try:
            result = await self._store.write(attempt)
            await self._announce(news.lines())
        except (asyncio.CancelledError, Unavailable):
            # The transaction may stand: better a line too many than one too few.
            self._announce_later(news.lines())
            raise
        return result

    async def run(self) -> None:
        """Announces what could not be announced at once, until cancelled."""
        while True:
            await self._some_late.wait()
            batch = [self._late.popleft() for _ in range(min(len(self._late), _LINES_IN_ONE))]
            if not self._late:
                self._some_late.clear()
            try:
                await self._publish(batch)
            except (Unavailable, TimeoutError):
                self._announce_later(batch)
                await asyncio.sleep(self._settings.announce_retry_s)
            except asyncio.CancelledError:
                self._announce_later(batch)
                raise

    async def _announce(self, lines: tuple[str, ...]) -> None:
        if not lines:
            return
        try:
            await self._publish(lines)
        except (Unavailable, TimeoutError) as error:
            # The change stands, so the caller is not told otherwise.
            log.warning("a change is announced late", error=type(error).__name__)
            self._announce_later(lines)

    def _announce_later(self, lines: Iterable[str]) -> None:
        self._late.extend(lines)
        if self._late:
            self._some_late.set()

    async def _publish(self, lines: Iterable[str]) -> None:
        async with asyncio.timeout(self._settings.announce_timeout_s):
            await self._bus.publish(TOPIC, "\n".join(lines).encode())
