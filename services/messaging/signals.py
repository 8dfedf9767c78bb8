"""Events that may be lost, on their way to connected devices: the newest of each kind, in batches."""

import asyncio
from collections.abc import Iterable
from typing import NoReturn

import structlog

from services.delivery import UserEvent
from services.messaging import metrics
from services.messaging.inbox_projection import Teller

_MOST_EVENTS_A_BATCH = 1024
_BATCH_TIMEOUT_S = 5.0
_log = structlog.get_logger("hither.messaging")


class Signals:
    """Latest wins for each user and conflation key; at most `most` wait, of more the oldest are dropped."""

    def __init__(self, teller: Teller, most: int) -> None:
        self._teller = teller
        self._most = most
        self._events: dict[tuple[str, str], UserEvent] = {}
        self._news = asyncio.Event()

    def offer(self, events: Iterable[UserEvent]) -> None:
        """Has the events told soon. Each must carry a conflation key."""
        for event in events:
            self._events[event.user_id, event.conflation_key] = event
        while len(self._events) > self._most:
            del self._events[next(iter(self._events))]
            metrics.SIGNALS_DROPPED.inc()
        if self._events:
            self._news.set()

    async def run(self) -> NoReturn:
        """Tells what is offered, until cancelled. What cannot be told is lost."""
        while True:
            await self._news.wait()
            batch = [self._events.pop(key) for key in list(self._events)[:_MOST_EVENTS_A_BATCH]]
            if not self._events:
                self._news.clear()
            try:
                async with asyncio.timeout(_BATCH_TIMEOUT_S):
                    await self._teller.to_users(batch)
            except Exception:  # noqa: BLE001 - these may be lost, and the next ones must still go
                _log.exception("signals.failed")
