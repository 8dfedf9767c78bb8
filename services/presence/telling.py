"""Telling local users of their friends: news as they come, and everybody's present status to who has just connected.

One task tells everything, in this order: the record of a friend is written before the news of it is published, and a greeting
reads the records when its turn comes. So what a user is told last of a friend is never older than what was told before.
What waits is bounded by who is here: of each friend the newest news, for each user one greeting.
"""

import asyncio
from collections.abc import Collection
from dataclasses import dataclass, field

import structlog
from prometheus_client import Counter

from discovery.errors import HitherError
from services.delivery import Delivery, UserEvent
from services.presence.records import Records, is_there, user_of
from services.presence.settings import PresenceSettings
from services.presence.watching import Watching

_TYPE = "presence"
_events = Counter("hither_presence_events", "Presence events handed over for delivery, counted for each user told.")
_failures = Counter("hither_presence_greeting_failures", "Times that friends' records could not be read.")
_log = structlog.get_logger("hither.presence")


@dataclass(slots=True)
class _Greeting:
    """Friends whose present status a user is to be told: these, and (if so) all who are there."""

    friend_ids: set[str] = field(default_factory=set)
    names_all_present: bool = False


class Telling:
    """Presence events on their way to local users."""

    def __init__(self, records: Records, delivery: Delivery, watching: Watching, settings: PresenceSettings) -> None:
        self._records = records
        self._delivery = delivery
        self._watching = watching
        self._settings = settings
        self._news: dict[str, bytes] = {}
        self._greetings: dict[str, _Greeting] = {}
        self._wake = asyncio.Event()

    def take_news(self, topic: str, payload: bytes) -> None:
        """Takes a serialised PresenceEvent from the Bus."""
        self._news[user_of(topic)] = payload
        self._wake.set()

    def greet(self, user_id: str) -> None:
        """Has the user told which of the followed friends are there."""
        self._greetings.setdefault(user_id, _Greeting()).names_all_present = True
        self._wake.set()

    def introduce(self, user_id: str, friend_ids: Collection[str]) -> None:
        """Has the user told how these friends are, also those who are not there."""
        self._greetings.setdefault(user_id, _Greeting()).friend_ids.update(friend_ids)
        self._wake.set()

    async def run(self) -> None:
        """Tells until cancelled."""
        while True:
            await self._wake.wait()
            if not await self.step():
                await asyncio.sleep(self._settings.friends_retry_s)

    async def step(self) -> bool:
        """Tells all there is; False: not all, the records cannot be read now."""
        self._wake.clear()
        while self._greetings or self._news:
            if self._greetings:
                user_id = next(iter(self._greetings))
                greeting = self._greetings.pop(user_id)
                if not await self._greet(user_id, greeting):
                    return False
            await self._tell_news()
        return True

    async def _greet(self, user_id: str, greeting: _Greeting) -> bool:
        friends: Collection[str] = greeting.friend_ids
        if greeting.names_all_present:
            friends = self._watching.followed_by(user_id)
        if not friends:
            return True
        try:
            async with asyncio.timeout(self._settings.engine_timeout_s):
                found = await self._records.read(list(friends))
        except (HitherError, TimeoutError) as error:
            _failures.inc()
            _log.warning("greeting.failed", error=str(error))
            self.introduce(user_id, greeting.friend_ids)
            if greeting.names_all_present:
                self.greet(user_id)
            return False
        told = [event for event in found if is_there(event) or event.user_id in greeting.friend_ids]
        # Looked at after the reading: a friendship may have ended meanwhile.
        told = [event for event in told if self._watching.may_tell(user_id, event.user_id)]
        await self._deliver([_event(user_id, event.user_id, event.SerializeToString()) for event in told])
        return True

    async def _tell_news(self) -> None:
        events: list[UserEvent] = []
        while self._news and len(events) < self._settings.events_at_once:
            friend_id = next(iter(self._news))
            payload = self._news.pop(friend_id)
            events += [_event(watcher, friend_id, payload) for watcher in self._watching.watchers_of(friend_id)]
        await self._deliver(events)

    async def _deliver(self, events: list[UserEvent]) -> None:
        if events:
            _events.inc(len(events))
            await self._delivery.to_users(events)


def _event(user_id: str, friend_id: str, payload: bytes) -> UserEvent:
    return UserEvent(user_id, _TYPE, payload, conflation_key=f"presence:{friend_id}")
