"""What Hither itself decides when a place comes in, without sockets, JSON and the mesh: from the bus to the events of friends.

The service's own classes over engines in memory; events are made and thrown away. What is measured is the budget's "nearby
update".
"""

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, cast

from bench.city.streets import Streets, acquaint
from discovery.clock import SystemClock
from hither.sessions.v1.sessions_pb2 import Connection
from services.delivery import Delivery, UserEvent
from services.following import Following
from services.location.names import Names
from services.location.precision import Fix
from services.location.records import Record, Records, encode, topic_of
from services.location.rules import KnownRules
from services.location.screens import Screens
from services.location.settings import LocationSettings
from services.location.showing import Showing
from services.location.viewers import Viewers
from services.location.views import Views
from services.ports.location_history import LocationHistory
from services.ports.privacy_store import GrantRow, PrivacyRow, PrivacyStore
from services.ports.view_log import ViewLog
from services.storage.memory.bus import MemoryBus
from services.storage.memory.cache import MemoryCache

PEOPLE: Final = 801
_CITY_S_A_ROUND: Final = 5.0


@dataclass(frozen=True, slots=True)
class Decided:
    """Means of one update of a user of whose friends `friends` are connected to this instance: microseconds of CPU, and events."""

    where: str
    friends: int
    at_once: int
    """Updates that came in one turn of the loop."""
    us: float
    events: float


class _Open:
    """A privacy store in which everybody shows everything to friends."""

    async def privacy(self, user_ids: Collection[str]) -> Mapping[str, PrivacyRow]:
        return {user_id: PrivacyRow(user_id, shares_location=True, version=1) for user_id in user_ids}

    async def grants_for(self, viewer_id: str, owner_ids: Collection[str]) -> Mapping[str, GrantRow]:
        return {}


class _Counting:
    """A Delivery that throws events away."""

    def __init__(self) -> None:
        self.events = 0

    async def to_connections(
        self, events: Sequence[UserEvent], connections: Mapping[str, Sequence[Connection]]
    ) -> frozenset[str]:
        self.events += len(events)
        return frozenset()


class Town:
    """One instance, to which all of its people are connected."""

    def __init__(self, friends: int, side_m: float) -> None:
        clock, settings = SystemClock(), LocationSettings()
        self._names = [f"walker{number}" for number in range(PEOPLE)]
        self._circles = acquaint(PEOPLE, friends)
        self._city = Streets(PEOPLE, side_m=side_m)
        self._clock = clock
        self._bus = MemoryBus()
        self._delivery = _Counting()
        self._viewers = Viewers(settings.viewer_lifetime_s, settings.most_viewers)
        self._following = Following(self._bus, topic_of, lambda *it: self._showing.take_news(*it), lambda _: None)
        self._showing = Showing(
            self._following,
            Records(cache := MemoryCache(clock), cast(LocationHistory, None), clock),
            Screens(cache, clock),
            KnownRules(cast(PrivacyStore, _Open()), settings.engine_timeout_s),
            Names(self._names_of, clock, settings.most_names, settings.names_s),
            Views(cast(ViewLog, None), clock, settings),
            self._viewers,
            cast(Delivery, self._delivery),
            clock,
            settings,
        )
        self._turn = 0

    async def settle(self) -> None:
        """Everybody comes, follows all friends, and has been somewhere."""
        await self._following.subscribe(self._names)
        for name, its in zip(self._names, self._circles, strict=True):
            friends = [self._names[other] for other in its.tolist()]
            added = self._following.follow(name, friends, friends)
            self._showing.introduce(name, added)
        for name in self._names:
            await self._publish(name, 0)
        await self._showing.step()
        await self.update(PEOPLE)

    async def update(self, count: int) -> None:
        """So many people report a place, one after the other, and friends are told."""
        for _ in range(count):
            if self._turn % PEOPLE == 0:
                self._city.advance(_CITY_S_A_ROUND)
                self._places = list(zip(self._city.lat.tolist(), self._city.lng.tolist(), strict=True))
            await self._publish(self._names[self._turn % PEOPLE], self._turn)
            self._turn += 1
        await self._showing.step()

    @property
    def events(self) -> int:
        """How many were made."""
        return self._delivery.events

    async def _publish(self, name: str, number: int) -> None:
        lat, lng = self._places[number % PEOPLE] if self._turn else (self._city.lat[number], self._city.lng[number])
        fix = Fix(float(lat) + number * 1e-9, float(lng), self._clock.now_ms())
        await self._bus.publish(topic_of(name), encode(Record(name, fix, fix, 1)))

    async def _names_of(self, user_ids: Sequence[str]) -> Mapping[str, str]:
        return {user_id: user_id for user_id in user_ids}


async def decide(where: str, friends: int, side_m: float, at_once: int, updates: int) -> Decided:
    """Measures so many updates, `at_once` in one turn."""
    town = Town(friends, side_m)
    await town.settle()
    events, begun_s = town.events, time.process_time()
    rounds = updates // at_once
    for _ in range(rounds):
        await town.update(at_once)
    used_s = time.process_time() - begun_s
    done = rounds * at_once
    return Decided(where, friends, at_once, used_s / done * 1e6, (town.events - events) / done)
