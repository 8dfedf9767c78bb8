"""Nearby friends in one process: put together, and kept going.

The way of a fix: `updating` checks it, keeps it as a record and publishes it -> each instance that `following` has subscribed takes
the news -> `showing` decides who may see what of it (`nearness`, `rules`, `precision`) and tells them. `sharing` takes what users
decide, `listing` answers who asks, `views` remembers who was shown what.
"""

import asyncio
from collections.abc import Mapping, Sequence

import structlog

from discovery.clock import Clock
from discovery.errors import HitherError
from discovery.mesh import Mesh
from hither.directory.v1.directory_service_pb2 import FindNamesRequest, ListFriendIdsRequest
from hither.directory.v1.directory_service_pb2_grpc import DirectoryServiceStub
from hither.location.v1.location_service_pb2 import ViewerReport
from services.delivery import Delivery
from services.following import CHANGES_TOPIC, Following, FriendLists, Question
from services.location.listing import Listing, most_relevant
from services.location.names import Names
from services.location.records import Records, topic_of
from services.location.rules import KnownRules
from services.location.screens import Screens
from services.location.settings import LocationSettings
from services.location.sharing import Sharing
from services.location.showing import Showing
from services.location.updating import Trail, Updating
from services.location.viewers import Link, Viewers
from services.location.views import Views
from services.ports.bus import Bus, Subscription
from services.ports.cache import Cache
from services.ports.location_history import LocationHistory
from services.ports.privacy_store import PrivacyStore
from services.ports.view_log import ViewLog

SERVICE = "hither.location.v1.LocationService"

_log = structlog.get_logger("hither.location")


class Nearby:
    """Friends nearby. Its parts answer from the start; viewers are told while run() runs."""

    def __init__(
        self,
        mesh: Mesh,
        cache: Cache,
        bus: Bus,
        privacy: PrivacyStore,
        history: LocationHistory,
        view_log: ViewLog,
        clock: Clock,
        settings: LocationSettings = LocationSettings(),  # noqa: B008 - frozen
    ) -> None:
        self._mesh = mesh
        self._bus = bus
        self._clock = clock
        self.settings = settings
        self.view_log = view_log
        self._directory = mesh.stub(DirectoryServiceStub)
        self._viewers = Viewers(settings.viewer_lifetime_s, settings.most_viewers)
        self._expired_s = clock.monotonic_s()
        self._rules = KnownRules(privacy, settings.engine_timeout_s)
        records = Records(cache, history, clock)
        names = Names(self._names_of, clock, settings.most_names, settings.names_s)
        self.views = Views(view_log, clock, settings)
        self._following = Following(bus, topic_of, self._take_news, self._take_gap)
        self._showing = Showing(
            self._following,
            records,
            Screens(cache, clock),
            self._rules,
            names,
            self.views,
            self._viewers,
            Delivery(mesh),
            clock,
            settings,
        )
        self._friends = FriendLists(
            self._friends_of, self._viewers.is_here, self._follow, self._showing.sever, self._tidy, clock, settings
        )
        self.trail = Trail(history, settings)
        self.updating = Updating(privacy, self._rules, records, bus, self._showing, self.trail, clock, settings)
        self.sharing = Sharing(privacy, records, bus, self._friends_of, clock, settings)
        self.listing = Listing(privacy, self._rules, records, self._friends_of, names, self.views, clock, settings)

    def now_ms(self) -> int:
        """The wall clock."""
        return self._clock.now_ms()

    def report(self, reports: Sequence[ViewerReport]) -> None:
        """Takes over what an edge reports, in order. Raises ResourceExhausted (OVERLOADED); then what comes after in the reports was
        not taken over.
        """
        now_s = self._clock.monotonic_s()
        for one in reports:
            link = Link(one.edge_id, one.connection_id)
            if not one.connected:
                if self._viewers.disconnect(one.user_id, link):
                    self._left(one.user_id)
            elif self._viewers.connect(one.user_id, link, now_s):
                self._arrived(one.user_id)
            else:
                self._showing.renewed(one.user_id)

    async def run(self) -> None:
        """Works in the background until cancelled; ends with an ExceptionGroup if part of the work dies."""
        changes = await self._bus.subscribe(CHANGES_TOPIC, self._friends.changed, self._friends.missed)
        try:
            async with asyncio.TaskGroup() as work:
                work.create_task(self._friends.run(), name="nearby-friends")
                work.create_task(self._showing.run(), name="nearby-showing")
                work.create_task(self.trail.run(), name="nearby-trail")
                work.create_task(self.views.run(), name="nearby-views")
                work.create_task(self._expire(), name="nearby-viewers")
                work.create_task(self._follow_ownership(), name="nearby-ownership")
        finally:
            await self._unsubscribe(changes)

    async def step(self) -> None:
        """Does once what run() does again and again."""
        self._expire_viewers()
        await self._friends.step()
        await self._showing.step()
        await self.trail.step()
        await self.views.step()

    def _arrived(self, user_id: str) -> None:
        if self._following.knows(user_id):
            self._showing.greet(user_id)
        else:
            self._friends.ask_soon(user_id)

    def _left(self, user_id: str) -> None:
        self._friends.left(user_id)
        self._showing.forget_viewer(user_id)

    async def _expire(self) -> None:
        while True:
            await asyncio.sleep(self.settings.tick_s)
            self._expire_viewers()

    def _expire_viewers(self) -> None:
        now_s = self._clock.monotonic_s()
        if now_s - self._expired_s > self.settings.viewer_lifetime_s / 2:
            self._viewers.forgive(now_s)  # this process stood still, and nobody could report anything to it
        self._expired_s = now_s
        for user_id in self._viewers.expire(now_s):
            self._left(user_id)

    async def _follow_ownership(self) -> None:
        async for owned in self._mesh.watch_owned(SERVICE):
            for user_id in self._viewers.users():
                if self._mesh.partition_of(user_id) not in owned:
                    self._viewers.drop(user_id)
                    self._left(user_id)

    async def _follow(self, question: Question, friend_ids: Sequence[str]) -> None:
        user_id = question.user_id
        grants = await self._rules.grants_for(user_id, friend_ids)
        followed = most_relevant(friend_ids, grants, self.settings.most_followed, self._clock.now_ms())
        async with asyncio.timeout(self.settings.engine_timeout_s):
            await self._following.subscribe([user_id, *followed])
        if question.is_stale or not self._viewers.is_here(user_id):
            return
        is_new = not self._following.knows(user_id)
        added = self._following.follow(user_id, friend_ids, followed)
        if is_new or added:
            self._showing.introduce(user_id, added)
        self._showing.look_at(user_id)

    async def _tidy(self) -> None:
        try:
            async with asyncio.timeout(self.settings.engine_timeout_s):
                await self._following.close_idle(self._showing.forget_owner)
        except (HitherError, TimeoutError) as error:
            _log.warning("unsubscribing.failed", error=str(error))

    async def _unsubscribe(self, changes: Subscription) -> None:
        try:
            async with asyncio.timeout(self.settings.engine_timeout_s):
                await changes.close()
                await self._following.close()
        except (HitherError, TimeoutError) as error:  # the bus is away, and the subscriptions with it
            _log.warning("unsubscribing.failed", error=str(error))

    def _take_news(self, topic: str, payload: bytes) -> None:
        self._showing.take_news(topic, payload)

    def _take_gap(self, topic: str) -> None:
        self._showing.take_gap(topic)

    async def _friends_of(self, user_id: str) -> Sequence[str]:
        request = ListFriendIdsRequest(user_id=user_id)
        response = await self._directory.ListFriendIds(request, timeout=self.settings.friends_timeout_s)
        return response.friend_ids

    async def _names_of(self, user_ids: Sequence[str]) -> Mapping[str, str]:
        request = FindNamesRequest(user_ids=user_ids)
        response = await self._directory.FindNames(request, timeout=self.settings.friends_timeout_s)
        return {found.user_id: found.name for found in response.names}
