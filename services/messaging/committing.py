"""Commits how far a projection has come: in order, one at a time, the newest only.

A commit is allowed to be late (records are then applied again, to no effect), never early: who offers a place has
written everything before it, and it is flushed first.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import NoReturn

from services.messaging.settings import MessagingSettings
from services.messaging.supervision import Status
from services.ports.log import Committed, Log


class Committer:
    """The commits of one projection over one partition. `flush` makes durable what the projection wrote."""

    def __init__(
        self,
        log: Log,
        flush: Callable[[], Awaitable[None]],
        group: str,
        topic: str,
        status: Status,
        settings: MessagingSettings,
    ) -> None:
        self._log = log
        self._flush = flush
        self._group = group
        self._topic = topic
        self._status = status
        self._settings = settings
        self._offered: Committed | None = None
        self._news = asyncio.Event()

    async def read(self) -> Committed:
        """How far the projection had come when it last committed."""
        async with asyncio.timeout(self._settings.engine_timeout_s):
            return await self._log.committed(self._group, self._topic, self._status.partition)

    def offer(self, committed: Committed) -> None:
        """Has it committed soon; replaces what was offered before and is not committed yet."""
        self._offered = committed
        self._news.set()

    async def run(self) -> NoReturn:
        """Commits what is offered until cancelled; raises when a commit fails."""
        while True:
            await self._news.wait()
            self._news.clear()
            await self.commit_offered()
            if self._settings.commit_interval_s > 0:
                await asyncio.sleep(self._settings.commit_interval_s)

    async def commit_offered(self) -> None:
        """Commits at once what is offered and not committed yet, if something is. Raises when the commit fails."""
        committed, self._offered = self._offered, None
        if committed is None:
            return
        async with asyncio.timeout(self._settings.engine_timeout_s):
            await self._flush()
            await self._log.commit(self._group, self._topic, self._status.partition, committed)
        self._status.committed()
