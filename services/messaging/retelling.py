"""Who may not have been told of what is newest in their inbox, though a connection of theirs may be open.

A connected device finds a gap when the next event comes; if none comes it would not know that it missed the last one. So
where the connections could not be looked up, or an edge did not take a batch, the newest event of each user is told again
until it is known that every live connection took it. One event is enough: the edge sees the gap before it and reads the
inbox. Bounded: one event for each user, and of too many users the ones who wait for longest learn by their next sync.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import NoReturn

from services.delivery import UserEvent
from services.messaging import metrics
from services.messaging.settings import MessagingSettings
from services.messaging.supervision import pause_s

_MOST_EVENTS_A_BATCH = 1024

Tell = Callable[[Sequence[UserEvent]], Awaitable[object]]
"""Tells the events; what it is not sure of is offered again before it returns."""


class Retelling:
    """The newest untold event of each user."""

    def __init__(self, settings: MessagingSettings) -> None:
        self._settings = settings
        self._events: dict[str, UserEvent] = {}
        self._news = asyncio.Event()

    def offer(self, event: UserEvent) -> None:
        """The user may not have been told of this event of the inbox."""
        before = self._events.pop(event.user_id, None)
        self._events[event.user_id] = event if before is None or before.pos < event.pos else before
        while len(self._events) > self._settings.most_untold:
            del self._events[next(iter(self._events))]
            metrics.UNDELIVERED.labels("too many untold").inc()
        self._news.set()

    async def run(self, tell: Tell) -> NoReturn:
        """Tells again until cancelled, ever more patiently while it does not help."""
        failures = 1
        while True:
            await self._news.wait()
            await asyncio.sleep(pause_s(failures, self._settings))
            batch = [self._events.pop(user_id) for user_id in list(self._events)[:_MOST_EVENTS_A_BATCH]]
            if not self._events:
                self._news.clear()
            await tell(batch)
            metrics.RETOLD.inc(len(batch))
            still = sum(event.user_id in self._events for event in batch)
            failures = failures + 1 if still == len(batch) else 1
