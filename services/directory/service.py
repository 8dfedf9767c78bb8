"""The directory as a service: its servicer, and the work that goes on behind it."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import structlog

from discovery.clock import Clock
from discovery.errors import Aborted, ResourceExhausted, Unavailable
from discovery.ids import Snowflakes
from services.directory.accounts import SignIn
from services.directory.changes import Changes
from services.directory.passwords import Passwords
from services.directory.ports import DirectoryStore, Tables
from services.directory.servicer import DirectoryServicer
from services.directory.settings import DirectorySettings
from services.directory.tokens import TokenIssuer
from services.ports.bus import Bus

if TYPE_CHECKING:
    from discovery.mesh import Mesh

log = structlog.get_logger(__name__)


class Directory:
    """Who there is, and who knows whom.

    `servicer` answers from the start; run() must run for late announcements and for pruning. The directory calls no
    other service, so it makes nothing of the mesh, which every service is given.
    """

    def __init__(
        self,
        mesh: "Mesh",
        store: DirectoryStore,
        bus: Bus,
        issuer: TokenIssuer,
        snowflakes: Snowflakes,
        clock: Clock,
        settings: DirectorySettings,
    ) -> None:
        self._store = store
        self._clock = clock
        self._settings = settings
        self._changes = Changes(store, bus, settings)
        self._passwords = Passwords(settings)
        sign_in = SignIn(store, self._passwords, issuer, clock, settings)
        self.servicer = DirectoryServicer(store, self._changes, self._passwords, sign_in, snowflakes, clock, settings)

    async def run(self) -> None:
        """Works in the background until cancelled; ends with an ExceptionGroup if part of the work dies.

        Passwords are not hashed any more once it has ended.
        """
        try:
            async with asyncio.TaskGroup() as work:
                work.create_task(self._changes.run(), name="directory-announcing")
                work.create_task(self._prune_again_and_again(), name="directory-pruning")
        finally:
            self.close()

    def close(self) -> None:
        """Lets the hashing threads go; for who never called run()."""
        self._passwords.close()

    async def prune(self) -> int:
        """Forgets the answers and sessions that are past keeping, in small transactions; tells how many."""
        now_ms, settings = self._clock.now_ms(), self._settings
        answers_before_ms = now_ms - settings.answers_kept_s * 1000
        sessions_before_ms = now_ms - settings.expired_sessions_kept_s * 1000
        return await self._prune_all(
            lambda tables: tables.answers.prune(answers_before_ms, settings.prune_batch)
        ) + await self._prune_all(lambda tables: tables.sessions.prune(sessions_before_ms, settings.prune_batch))

    async def _prune_all(self, prune_some: Callable[[Tables], Awaitable[int]]) -> int:
        gone = 0
        while True:
            batch = await self._store.write(prune_some)
            gone += batch
            if batch < self._settings.prune_batch:
                return gone

    async def _prune_again_and_again(self) -> None:
        while True:
            try:
                await self.prune()
            except (Unavailable, ResourceExhausted, Aborted) as error:
                log.warning("pruning is put off", reason=error.reason)
            await asyncio.sleep(self._settings.prune_interval_s)
