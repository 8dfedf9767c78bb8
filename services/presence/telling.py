"""Telling local users of their friends: news as they come, and everybody's present status to who has just connected.

One task tells everything, in this order: the record of a friend is written before the news of it is published, and a greeting
reads the records when its turn comes. So what a user is told last of a friend is never older than what was told before.
What waits is bounded by who is here: of each friend the newest news, for each user one greeting.

News say all there is to know, and who may know it. Each watcher is told what the watcher may see of them, if that differs
from what was to be seen before: so nobody learns from the coming of an event that something hidden has changed. News with
older rules than those that were told last come from a former owner and are dropped.

Where the Bus says that news may have been missed, the records are read again, many in one go and no more than one batch at
a time, with news in between; who watches is told those that differ from what was told last. So that is remembered, of each
friend whom somebody watches. A record that is not there need not mean that its user is not: the Cache may have been lost
together with the news. It is looked for again after the time in which the records of all who are there are written anew.
The same happens with everybody's records from time to time, for what was lost together with whoever was to tell it.
"""

import asyncio
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from itertools import islice

import structlog
from prometheus_client import Counter

from discovery.clock import Clock
from discovery.errors import HitherError
from hither.presence.v1.presence_pb2 import PresenceRecord
from services.delivery import Delivery, UserEvent
from services.presence.records import Records, is_recorded, is_there, parse, user_of
from services.presence.settings import PresenceSettings
from services.presence.visibility import Relation, view
from services.presence.watching import Watcher, Watching

_TYPE = "presence"
_events = Counter("hither_presence_events", "Presence events handed over for delivery, counted for each user told.")
_missed = Counter("hither_presence_missed_changes", "Changes that were found in the records after a gap in the news.")
_failures = Counter("hither_presence_greeting_failures", "Times that friends' records could not be read.")
_log = structlog.get_logger("hither.presence")


@dataclass(slots=True)
class _Greeting:
    """Friends whose present status a user is to be told: these, and (if so) all who are there."""

    friend_ids: set[str] = field(default_factory=set)
    names_all_present: bool = False


class Telling:
    """Presence events on their way to local users."""

    def __init__(
        self, records: Records, delivery: Delivery, watching: Watching, clock: Clock, settings: PresenceSettings
    ) -> None:
        self._records = records
        self._delivery = delivery
        self._watching = watching
        self._clock = clock
        self._settings = settings
        self._gaps: dict[str, bool] = {}
        """Friends whose records are to be read again, and whether that is the second look at them."""
        self._doubts: dict[str, float] = {}
        """When to look again at friends who were there and have no record, soonest first."""
        self._news: dict[str, bytes] = {}
        self._shown: dict[str, set[Relation]] = {}
        """Of users with news that wait: who was shown something else meanwhile than what was told last."""
        self._greetings: dict[str, _Greeting] = {}
        self._audited_s = clock.monotonic_s()
        self._wake = asyncio.Event()

    def take_news(self, topic: str, payload: bytes) -> None:
        """Takes a serialised PresenceRecord from the Bus; what cannot be read as one says nothing."""
        user_id = user_of(topic)
        if is_recorded(parse(user_id, payload)):
            self._news[user_id] = payload
            self._wake.set()

    def take_gap(self, topic: str) -> None:
        """Has the watchers told what became of the user, if news of the user were missed."""
        user_id = user_of(topic)
        self._doubts.pop(user_id, None)
        self._gaps[user_id] = False
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
            try:
                async with asyncio.timeout(self._settings.friends_retry_s):
                    await self._wake.wait()
            except TimeoutError:
                pass  # whoever is in doubt may be due, or everybody
            if not await self.step():
                await asyncio.sleep(self._settings.friends_retry_s)

    async def step(self) -> bool:
        """Tells all there is; False: not all, the records cannot be read now."""
        self._wake.clear()
        self._take_up_doubts()
        self._audit()
        while self._greetings or self._news or self._gaps:
            if self._greetings:
                user_id = next(iter(self._greetings))
                greeting = self._greetings.pop(user_id)
                if not await self._greet(user_id, greeting):
                    return False
            await self._tell_news()
            if self._gaps and not await self._look_again():
                return False
        return True

    def _take_up_doubts(self) -> None:
        now_s = self._clock.monotonic_s()
        while self._doubts:
            user_id, due_s = next(iter(self._doubts.items()))
            if due_s > now_s:
                return
            del self._doubts[user_id]
            self._gaps.setdefault(user_id, True)

    def _audit(self) -> None:
        now_s = self._clock.monotonic_s()
        if now_s < self._audited_s + self._settings.audit_s:
            return
        self._audited_s = now_s
        for user_id in self._watching.subscribed():
            if user_id not in self._doubts:
                self._gaps.setdefault(user_id, False)

    async def _look_again(self) -> bool:
        """Reads records of friends whose news may have been missed, and has told what differs."""
        # News that wait may be from before the gap: they are told first, so that nothing is told after what is newer.
        due = ((user_id, is_last) for user_id, is_last in self._gaps.items() if user_id not in self._news)
        looked_at = dict(islice(due, self._settings.records_at_once))
        for user_id in looked_at:
            del self._gaps[user_id]
        found = await self._read(list(looked_at))
        if found is None:
            self._gaps = {**looked_at, **self._gaps}
            self._wake.set()
            return False
        for record in found:
            user_id = record.event.user_id
            told = self._watching.last_told(user_id)
            if told is None and not is_there(record.event):
                continue  # nobody has been told otherwise
            if not is_recorded(record) and not looked_at[user_id]:
                if is_there(parse(user_id, told).event):
                    self._doubts[user_id] = self._clock.monotonic_s() + self._settings.record_ttl_s
                continue
            self._tell_if_new(record, told)
        return True

    def _tell_if_new(self, record: PresenceRecord, told: bytes | None) -> None:
        user_id, payload = record.event.user_id, record.SerializeToString()
        # News that came meanwhile are no older than the record, or others that are will follow.
        if payload != told and user_id not in self._news:
            _missed.inc()
            self._news[user_id] = payload
            self._wake.set()

    async def _read(self, user_ids: list[str]) -> list[PresenceRecord] | None:
        try:
            async with asyncio.timeout(self._settings.engine_timeout_s):
                return await self._records.read(user_ids)
        except (HitherError, TimeoutError) as error:
            _failures.inc()
            _log.warning("records.failed", error=str(error))
            return None

    async def _greet(self, user_id: str, greeting: _Greeting) -> bool:
        friends: Collection[str] = greeting.friend_ids
        if greeting.names_all_present:
            friends = self._watching.followed_by(user_id)
        if not friends:
            return True
        found = await self._read(list(friends))
        if found is None:
            self.introduce(user_id, greeting.friend_ids)
            if greeting.names_all_present:
                self.greet(user_id)
            return False
        told: list[UserEvent] = []
        for record in found:
            self.remember(record)
            # Looked at after the reading: a friendship may have ended meanwhile.
            watcher = self._watching.watcher(user_id, record.event.user_id)
            if watcher is None:
                continue
            seen = view(record, watcher.relation)
            if is_there(seen) or seen.user_id in greeting.friend_ids:
                told.append(_event(watcher, seen.user_id, seen.SerializeToString()))
        await self._deliver(told)
        return True

    def remember(self, record: PresenceRecord) -> None:
        """A record that was read for one watcher. If the others were told otherwise, they are to be told too: or a gap that is
        noticed later would find nothing new.
        """
        told = self._watching.last_told(record.event.user_id)
        if told is None:
            self._watching.remember(record.event.user_id, record.SerializeToString())
        elif is_recorded(record):
            self._tell_if_new(record, told)
            if record.event.user_id in self._news:
                shown = _what_is_new(record, parse(record.event.user_id, told))
                self._shown.setdefault(record.event.user_id, set()).update(shown)

    async def _tell_news(self) -> None:
        events: list[UserEvent] = []
        while self._news and len(events) < self._settings.events_at_once:
            watched_id = next(iter(self._news))
            seen = self._what_to_tell(watched_id, self._news.pop(watched_id))
            events += [
                _event(watcher, watched_id, seen[watcher.relation])
                for watcher in self._watching.watchers_of(watched_id)
                if watcher.relation in seen
            ]
        await self._deliver(events)

    def _what_to_tell(self, watched_id: str, payload: bytes) -> Mapping[Relation, bytes]:
        """What those of each relation are told of the news, if they are told anything."""
        told = self._watching.last_told(watched_id)
        shown = self._shown.pop(watched_id, set())
        record, before = parse(watched_id, payload), parse(watched_id, told)
        if is_recorded(record) and record.privacy_version < before.privacy_version:
            return {}
        self._watching.remember(watched_id, payload)
        new = _what_is_new(record, before)
        return {relation: view(record, relation).SerializeToString() for relation in new | shown}

    async def _deliver(self, events: list[UserEvent]) -> None:
        if events:
            _events.inc(len(events))
            await self._delivery.to_users(events)


def _what_is_new(record: PresenceRecord, before: PresenceRecord) -> set[Relation]:
    """Those who see something else than they did before."""
    return {relation for relation in Relation if view(record, relation) != view(before, relation)}


def _event(watcher: Watcher, watched_id: str, payload: bytes) -> UserEvent:
    return UserEvent(
        watcher.user_id,
        _TYPE,
        payload,
        conflation_key=f"presence:{watched_id}",
        device_ids=watcher.device_ids,
    )
