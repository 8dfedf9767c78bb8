"""Telling local users which friends come near, move, and go: as news come, as rules change, and as time passes.

One task tells everything, and decides anew from what is known at that time: records, rules, friendships. What is known of a
friend's place may be newer than what the viewer was told, never older. News only mark what is to be looked at again, so what waits
is bounded by who is here. Where rules cannot be read, nobody sees the friend until they can.
"""

import asyncio
import collections
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from heapq import heappop, heappush

import structlog
from prometheus_client import Counter

from discovery.clock import Clock
from discovery.errors import HitherError
from hither.location.v1 import location_pb2
from hither.location.v1.location_pb2 import GoneReason
from services.delivery import Delivery, UserEvent
from services.following import Following
from services.location.circles import Circles
from services.location.names import Names
from services.location.nearness import STOPPED, Shown, Sight, seen
from services.location.plausibility import LIFETIME_MS
from services.location.precision import message_of
from services.location.records import Record, Records, decode, user_of
from services.location.rules import KnownRules
from services.location.screens import Screens
from services.location.settings import LocationSettings
from services.location.viewers import Viewers
from services.location.views import Views
from services.ports.privacy_store import Precision

_KEY = "nearby:"
"""Events about one friend replace each other."""
_NOBODY: frozenset[str] = frozenset()
_MOST_LOOKS = 1000
_events = Counter("hither_nearby_events", "Events about friends nearby that were handed over for delivery.", ["type"])
_failures = Counter(
    "hither_nearby_failures", "Times that places or rules could not be read while friends were told of."
)
_log = structlog.get_logger("hither.location")

Pair = tuple[str, str]
"""(viewer, owner of the place)."""


class Showing:
    """Events for the local users of whom `following` knows."""

    def __init__(
        self,
        following: Following,
        records: Records,
        screens: Screens,
        rules: KnownRules,
        names: Names,
        views: Views,
        viewers: Viewers,
        delivery: Delivery,
        clock: Clock,
        settings: LocationSettings,
    ) -> None:
        self._following = following
        self._records = records
        self._screens = screens
        self._rules = rules
        self._names = names
        self._views = views
        self._here = viewers
        self._delivery = delivery
        self._clock = clock
        self._settings = settings
        self._known: dict[str, Record] = {}
        """The newest record of each user whose news come."""
        self._nowhere: set[str] = set()
        """Users whose news come, and who had no record when one was looked for: it need not be looked for again."""
        self._circles = Circles(following)
        self._shown = Shown()
        self._newcomers: dict[str, set[str]] = {}
        """Local users, and the friends of whom they are not told yet as nothing was read."""
        self._gaps: dict[str, None] = {}
        self._owners: dict[str, None] = {}
        """Whose place or rules changed."""
        self._viewers: dict[str, None] = {}
        """Local users who see others now, since they moved, came, or changed their own rules."""
        self._ghosts: dict[str, Set[str]] = {}
        """Whom newcomers may have been shown by another owner."""
        self._greeted: set[str] = set()
        """Viewers who are told again what they were told."""
        self._missed: set[str] = set()
        """Viewers whom events did not reach."""
        self._taken_over: set[str] = set()
        """Viewers whom another owner may have told something after it was read whom they were shown."""
        self._renewed: set[str] = set()
        """Viewers who are still there."""
        self._timers: list[tuple[int, str]] = []
        """A heap of when something about a user runs out."""
        self._set_timers: set[tuple[int, str]] = set()
        self._expiring: set[str] = set()
        """Users for the end of whose fix a timer is set."""
        self._wake = asyncio.Event()

    # What happens

    def take_news(self, topic: str, payload: bytes) -> None:
        """Takes a record from the Bus."""
        user_id, record = user_of(topic), decode(payload)
        self._rules.hear(user_id, record.version)
        if record.is_forgotten:
            self._unlearn(user_id)
        if record.fix is not None:
            self._learn(record)
        self.look_at(user_id)

    def take_gap(self, topic: str) -> None:
        """News of the user may have been missed."""
        user_id = user_of(topic)
        self._gaps[user_id] = None
        self._nowhere.discard(user_id)
        self._wake.set()

    def introduce(self, user_id: str, friend_ids: Iterable[str]) -> None:
        """The local user follows these friends anew; perhaps none of them, and the user is here anew."""
        self._newcomers.setdefault(user_id, set()).update(friend_ids)
        self._wake.set()

    def greet(self, user_id: str) -> None:
        """A device of the local user has connected: it is told of all who are near."""
        self._greeted.add(user_id)
        self._viewers[user_id] = None
        self._wake.set()

    def renewed(self, user_id: str) -> None:
        """The local user is still connected: what did not arrive before is told now."""
        self._renewed.add(user_id)
        if user_id in self._missed:
            self._missed.discard(user_id)
            self.greet(user_id)

    def look_at(self, user_id: str) -> None:
        """Something about the user may have changed: who may see the user, or whom the user sees."""
        self._owners[user_id] = None
        if self._following.knows(user_id):
            self._viewers[user_id] = None
        self._wake.set()

    def sever(self, one: str, other: str) -> None:
        """The two are friends no longer, or may not be."""
        self._following.sever(one, other)
        self._viewers.update({user_id: None for user_id in (one, other) if self._following.knows(user_id)})
        self._wake.set()

    def forget_viewer(self, user_id: str) -> None:
        """The user is not local any more."""
        self._following.forget(user_id)
        self._shown.forget(user_id)
        self._circles.forget_viewer(user_id)
        self._newcomers.pop(user_id, None)
        self._viewers.pop(user_id, None)
        self._ghosts.pop(user_id, None)
        self._screens.forget(user_id)
        for some in (self._missed, self._greeted, self._taken_over, self._renewed):
            some.discard(user_id)

    def forget_owner(self, user_id: str) -> None:
        """News of the user come no more."""
        self._rules.forget(user_id)
        self._circles.forget(user_id)
        self._nowhere.discard(user_id)
        self._known.pop(user_id, None)
        self._gaps.pop(user_id, None)
        self._owners.pop(user_id, None)

    def record_of(self, user_id: str) -> Record | None:
        """The newest record of a user whose news come."""
        return self._known.get(user_id)

    def is_nowhere(self, user_id: str) -> bool:
        """Whether it is certain that the user, whose news come, has no record."""
        return user_id in self._nowhere

    # The task

    async def run(self) -> None:
        """Tells until cancelled."""
        while True:
            if not await self.step():
                await asyncio.sleep(self._settings.friends_retry_s)
            try:
                async with asyncio.timeout(self._settings.tick_s):
                    await self._wake.wait()
            except TimeoutError:
                continue  # something may have run out

    async def step(self) -> bool:
        """Tells all there is; False: not all, something cannot be read now."""
        self._wake.clear()
        self._take_up_what_ran_out()
        is_whole = True
        try:
            await self._read_what_was_missed()
            await self._read_for_newcomers()
            await self._read_rules()
            await self._look_at_screens()
        except (HitherError, TimeoutError) as error:
            _failures.inc()
            _log.warning("reading.failed", error=str(error))
            is_whole = False
        await self._tell(self._pairs())
        return is_whole

    def _learn(self, record: Record) -> None:
        known = self._known.get(record.user_id)
        if record.fix is None or (known and known.fix and known.fix.time_ms > record.fix.time_ms):
            return
        if not self._following.is_subscribed(record.user_id):
            return
        self._known[record.user_id] = record
        self._nowhere.discard(record.user_id)
        if record.user_id not in self._expiring:
            self._expiring.add(record.user_id)
            self._set_timer(record.fix.time_ms + LIFETIME_MS, record.user_id)
        self._circles.put(record, self._radius(record))

    def _unlearn(self, user_id: str) -> None:
        self._known.pop(user_id, None)
        self._circles.remove(user_id)

    def _set_timer(self, due_ms: int, user_id: str) -> None:
        if (due_ms, user_id) not in self._set_timers:
            self._set_timers.add((due_ms, user_id))
            heappush(self._timers, (due_ms, user_id))

    def _take_up_what_ran_out(self) -> None:
        now_ms = self._clock.now_ms()
        while self._timers and self._timers[0][0] <= now_ms:
            timer = heappop(self._timers)
            self._set_timers.discard(timer)
            user_id = timer[1]
            record = self._known.get(user_id)
            if record is None or record.fix is None:
                self._expiring.discard(user_id)
            elif record.is_live(now_ms):
                self._set_timer(record.fix.time_ms + LIFETIME_MS, user_id)
            else:
                self._expiring.discard(user_id)
                self._unlearn(user_id)
            self.look_at(user_id)

    async def _read_what_was_missed(self) -> None:
        gaps, self._gaps = self._gaps, {}
        missed = [user_id for user_id in gaps if self._following.is_subscribed(user_id)]
        for user_id in missed:
            self._rules.doubt(user_id)
        try:
            found = await self._read_records(missed)
        except BaseException:
            self._gaps = {**gaps, **self._gaps}
            raise
        for user_id in missed:
            if user_id not in found:
                self._unlearn(user_id)
            self.look_at(user_id)

    async def _read_for_newcomers(self) -> None:
        for user_id in list(self._newcomers):
            if user_id not in self._newcomers:
                continue  # has left while others were read for
            friends = self._newcomers[user_id] & self._following.followed_by(user_id)
            unknown = [one for one in (user_id, *friends) if one not in self._known and one not in self._nowhere]
            await self._rules.load_viewer(user_id, friends)
            await self._read_records(unknown)
            if not self._screens.knows(user_id):
                self._taken_over.add(user_id)
                await self._look([user_id])
            for friend_id in friends:
                self._set_timers_of(friend_id)
            if self._following.knows(user_id):
                self._viewers[user_id] = None
            if user_id in self._newcomers:  # perhaps with friends who came meanwhile
                waiting = (self._newcomers[user_id] - friends) & self._following.followed_by(user_id)
                self._newcomers[user_id] = waiting
                if not waiting:
                    del self._newcomers[user_id]

    async def _look_at_screens(self) -> None:
        """Once more, some seconds after a viewer came: the owner before may have gone on for a moment."""
        viewers = list(self._taken_over & self._renewed)
        for start in range(0, len(viewers), _MOST_LOOKS):
            await self._look(viewers[start : start + _MOST_LOOKS])
            self._taken_over.difference_update(viewers[start : start + _MOST_LOOKS])

    async def _look(self, viewer_ids: Sequence[str]) -> None:
        async with asyncio.timeout(self._settings.engine_timeout_s):
            self._haunt(await self._screens.look(viewer_ids))
        self._tidy_screens(viewer_ids)

    def _haunt(self, ghosts: Mapping[str, Set[str]]) -> None:
        """Viewers may have these friends on their screens, as somebody else told them."""
        for viewer_id, friend_ids in ghosts.items():
            if friend_ids and self._following.knows(viewer_id):
                self._ghosts[viewer_id] = self._ghosts.get(viewer_id, _NOBODY) | friend_ids
                self._viewers[viewer_id] = None
                self._wake.set()

    async def _read_rules(self) -> None:
        stale = self._rules.stale()
        for start in range(0, len(stale), self._settings.rules_at_once):
            chunk = stale[start : start + self._settings.rules_at_once]
            await self._rules.reload(chunk)
            for user_id in chunk:
                self._set_timers_of(user_id)
                self.look_at(user_id)

    def _set_timers_of(self, owner_id: str) -> None:
        for ends_ms in self._rules.ends_ms(owner_id):
            self._set_timer(ends_ms, owner_id)

    async def _read_records(self, user_ids: list[str]) -> Set[str]:
        """Those of the users who have a record."""
        if not user_ids:
            return frozenset()
        async with asyncio.timeout(self._settings.engine_timeout_s):
            found, nowhere = await self._records.look(user_ids)
        for record in found.values():
            self._rules.hear(record.user_id, record.version)
            self._learn(record)
        for user_id in nowhere:  # unless news came meanwhile, or were missed
            if self._following.is_subscribed(user_id) and user_id not in self._known and user_id not in self._gaps:
                self._nowhere.add(user_id)
        return found.keys()

    # What is to be told

    def _pairs(self) -> Set[Pair]:
        """Who may have to be told of whom."""
        owners, self._owners = self._owners, {}
        viewers, self._viewers = self._viewers, {}
        pairs = {(viewer_id, owner_id) for owner_id in owners for viewer_id in self._who_may_see(owner_id)}
        for viewer_id in viewers:
            if viewer_id in self._newcomers:
                self._viewers[viewer_id] = None  # told when what is to be known was read
                continue
            pairs.update((viewer_id, owner_id) for owner_id in self._circles.owners_near(viewer_id))
            pairs.update((viewer_id, owner_id) for owner_id in self._shown.by(viewer_id))
            pairs.update((viewer_id, owner_id) for owner_id in self._ghosts.get(viewer_id, ()))
            if viewer_id in self._greeted:
                pairs.update((viewer_id, owner_id) for owner_id in self._screens.unsure(viewer_id))
        return pairs

    def _who_may_see(self, owner_id: str) -> set[str]:
        """Who was shown the user, and the followers near one of the places that may be shown of the user."""
        shown = self._shown.viewers_of(owner_id)
        return shown.union(self._circles.viewers_near(owner_id)) if owner_id in self._known else shown

    async def _tell(self, pairs: Set[Pair]) -> None:
        told, events = self._decide(pairs)
        due = self._screens_due(told)
        owners = {owner_id for (_, owner_id), _ in told}
        names = self._names.known(owners)
        if due or names is None:
            await self._deliver(events)  # who is gone is gone at once, whatever else takes a while
            await self._keep(due)
            names = await self._names.of(owners)
            told, events = self._still_so(told), []
        await self._deliver(events + self._updates(told, names.get))

    def _decide(self, pairs: Set[Pair]) -> tuple[list[tuple[Pair, Sight]], list[UserEvent]]:
        """What is to be told of whom, and the events about those who are gone."""
        told: list[tuple[Pair, Sight]] = []
        gone: list[UserEvent] = []
        now_ms = self._clock.now_ms()
        greeted = self._greeted - self._newcomers.keys()
        self._greeted -= greeted
        self._ghosts, ghosts = {}, self._ghosts
        for viewer_id in greeted:
            ghosts[viewer_id] = ghosts.get(viewer_id, _NOBODY) | self._screens.unsure(viewer_id)
        self._ghosts = {viewer_id: ids for viewer_id, ids in ghosts.items() if viewer_id in self._newcomers}
        for viewer_id, owner_id in sorted(pairs):
            sight = self._sight(viewer_id, owner_id, now_ms)
            if isinstance(sight, Sight):
                before = self._shown.told(viewer_id, owner_id)
                if before is None or viewer_id in greeted or sight.differs(before):
                    told.append(((viewer_id, owner_id), sight))
            elif self._shown.remove(viewer_id, owner_id) or owner_id in ghosts.get(viewer_id, ()):
                self._screens.gone(viewer_id, owner_id)
                gone.append(_gone(viewer_id, owner_id, sight))
        return told, gone

    async def _deliver(self, events: list[UserEvent]) -> None:
        if not events:
            return
        for kind, count in collections.Counter(event.type for event in events).items():
            _events.labels(kind).inc(count)
        connections = self._here.connections({event.user_id for event in events})
        missed = await self._delivery.to_connections(events, connections)
        for event in events:
            if event.user_id in missed and self._following.knows(event.user_id):
                self._missed.add(event.user_id)

    def _still_so(self, told: list[tuple[Pair, Sight]]) -> list[tuple[Pair, Sight]]:
        """Something took a while: what is otherwise by now is looked at again."""
        now_ms, still = self._clock.now_ms(), []
        for pair, sight in told:
            if self._sight(*pair, now_ms) == sight:
                still.append((pair, sight))
            else:
                self.look_at(pair[1])
        return still

    def _updates(self, told: list[tuple[Pair, Sight]], name_of: Callable[[str, str], str]) -> list[UserEvent]:
        events = []
        updates: dict[tuple[str, Precision], location_pb2.FriendLocationUpdateEvent] = {}
        for (viewer_id, owner_id), sight in told:
            self._shown.put(viewer_id, owner_id, sight)
            self._screens.shown(viewer_id, owner_id)
            self._views.note(owner_id, viewer_id, sight.precision)
            update = updates.get((owner_id, sight.precision))
            if update is None:
                update = updates[owner_id, sight.precision] = _update(owner_id, name_of(owner_id, ""), sight)
            update.distance = sight.distance
            events.append(_event(viewer_id, owner_id, "friend_location_update", update.SerializeToString()))
        return events

    def _sight(self, viewer_id: str, owner_id: str, now_ms: int) -> Sight | GoneReason.ValueType:
        if not self._following.may_tell(viewer_id, owner_id):
            return STOPPED
        if owner_id in self._newcomers.get(viewer_id, _NOBODY):
            return STOPPED  # what the owner decided about the viewer is still to be read
        viewer = self._known.get(viewer_id)
        radius_miles = self._radius(viewer) if viewer else 0.0
        precision = self._rules.precision(owner_id, viewer_id, now_ms)
        return seen(viewer, self._known.get(owner_id), precision, radius_miles, now_ms)

    def _radius(self, viewer: Record) -> float:
        return viewer.radius_miles or self._settings.radius_miles

    def _screens_due(self, told: list[tuple[Pair, Sight]]) -> dict[str, Set[str]]:
        """The screens that are to be kept, of those who are about to be shown somebody else, and of those who are still there."""
        renewed, self._renewed = self._renewed, set()
        new = [pair for pair, _ in told if self._shown.told(*pair) is None]
        screens = {
            viewer_id: self._shown.by(viewer_id).union(
                self._screens.unsure(viewer_id), self._ghosts.get(viewer_id, _NOBODY)
            )
            for viewer_id in renewed.union(viewer_id for viewer_id, _ in new)
        }
        for viewer_id, owner_id in new:
            screens[viewer_id].add(owner_id)
        return self._screens.due(screens)

    async def _keep(self, due: dict[str, Set[str]]) -> None:
        if not due:
            return
        try:
            async with asyncio.timeout(self._settings.engine_timeout_s):
                self._haunt(await self._screens.keep(due))
        except (HitherError, TimeoutError) as error:  # tried again when the viewer is reported again
            _log.warning("keeping_shown.failed", error=str(error))
        self._tidy_screens(due)

    def _tidy_screens(self, viewer_ids: Iterable[str]) -> None:
        """Forgets what came to be known of those who left meanwhile."""
        for viewer_id in viewer_ids:
            if not self._following.knows(viewer_id):
                self._screens.forget(viewer_id)


def _update(owner_id: str, name: str, sight: Sight) -> location_pb2.FriendLocationUpdateEvent:
    """What all are told alike who see the owner as exactly; only the distance is each viewer's own."""
    event = location_pb2.FriendLocationUpdateEvent(
        friend_id=owner_id,
        name=name,
        lat=sight.fix.lat,
        lng=sight.fix.lng,
        precision=message_of(sight.precision),
    )
    seconds, rest_ms = divmod(sight.fix.time_ms, 1000)
    event.timestamp.seconds, event.timestamp.nanos = seconds, rest_ms * 1_000_000
    return event


def _gone(viewer_id: str, owner_id: str, reason: GoneReason.ValueType) -> UserEvent:
    event = location_pb2.FriendLocationGoneEvent(friend_id=owner_id, reason=reason)
    return _event(viewer_id, owner_id, "friend_location_gone", event.SerializeToString())


def _event(viewer_id: str, owner_id: str, kind: str, payload: bytes) -> UserEvent:
    return UserEvent(viewer_id, kind, payload, conflation_key=_KEY + owner_id)
