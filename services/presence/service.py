"""The presence service of one process: its servicer, and the work in the background for the users that it owns.

The way of a change: an edge reports a device -> `folding` says what that comes to -> `publishing` records and publishes it
after a gathering -> each instance that `watching` has subscribed takes the news -> `telling` hands it to the local
users who follow. `friends` keeps up to date who may follow whom.
"""

import asyncio
from collections.abc import Collection, Sequence
from functools import partial

import structlog

from discovery.clock import Clock
from discovery.errors import HitherError
from discovery.mesh import Mesh
from hither.directory.v1.directory_service_pb2 import FindBlocksRequest, ListFriendIdsRequest
from hither.directory.v1.directory_service_pb2_grpc import DirectoryServiceStub
from hither.sessions.v1.sessions_service_pb2 import LookupConnectionsRequest
from hither.sessions.v1.sessions_service_pb2_grpc import SessionsServiceStub
from services.delivery import Delivery
from services.ports.bus import Bus, Subscription
from services.ports.cache import Cache
from services.ports.privacy_store import PrivacyStore
from services.presence.folding import Folding, Link
from services.presence.friends import CHANGES_TOPIC, Friends
from services.presence.interest import Interests, Remembered
from services.presence.listing import Listing
from services.presence.privacy import PRIVACY_TOPIC, Privacy
from services.presence.publishing import Publishing
from services.presence.records import Records
from services.presence.servicer import PresenceServicer
from services.presence.settings import PresenceSettings
from services.presence.telling import Telling
from services.presence.watching import Watching

SERVICE = "hither.presence.v1.PresenceService"

_log = structlog.get_logger("hither.presence")


class Presence:
    """Who is there, told to friends. `servicer` answers from the start; changes are told while run() runs."""

    def __init__(
        self,
        mesh: Mesh,
        cache: Cache,
        bus: Bus,
        privacy_store: PrivacyStore,
        clock: Clock,
        settings: PresenceSettings = PresenceSettings(),  # noqa: B008 - frozen
    ) -> None:
        self._mesh = mesh
        self._bus = bus
        self._settings = settings
        self._directory = mesh.stub(DirectoryServiceStub)
        self._sessions = mesh.stub(SessionsServiceStub)
        records = Records(cache, settings)
        folding = Folding(
            settings.device_lifetime_s, settings.gather_s, settings.offline_after_s, settings.most_devices
        )
        watching = Watching(bus, self._take_news, self._take_gap, folding.interests, settings.most_followed)
        self._watching = watching
        self._telling = Telling(records, Delivery(mesh), watching, clock, settings)
        recall = Remembered(records, folding, settings).recall
        ask = (self._friends_of, self._blocks_of, recall)
        self._friends = Friends(*ask, folding, watching, self._telling, clock, settings)
        self._privacy = Privacy(privacy_store, records, bus, folding.is_here, settings)
        self._publishing = Publishing(
            folding, records, self._privacy, bus, self._friends, self._find_link, clock, settings
        )
        interests = Interests(
            self._publishing.connected, folding, records, self._friends, watching, self._telling, settings
        )
        listing = Listing(self._friends_of, records)
        self.servicer = PresenceServicer(self._publishing, interests, self._privacy, listing, settings)

    async def run(self) -> None:
        """Works in the background until cancelled; ends with an ExceptionGroup if part of the work dies."""
        changes = await self._bus.subscribe(CHANGES_TOPIC, self._friends.changed, self._friends.missed)
        rules = await self._bus.subscribe(PRIVACY_TOPIC, self._privacy.take_announcement)
        try:
            async with asyncio.TaskGroup() as work:
                work.create_task(self._publishing.run(), name="presence-publishing")
                work.create_task(self._friends.run(), name="presence-friends")
                work.create_task(self._telling.run(), name="presence-telling")
                work.create_task(self._follow_ownership(), name="presence-ownership")
        finally:
            await self._unsubscribe(changes, rules)

    async def _unsubscribe(self, *subscriptions: Subscription) -> None:
        try:
            async with asyncio.timeout(self._settings.engine_timeout_s):
                for subscription in subscriptions:
                    await subscription.close()
                await self._watching.close()
        except (HitherError, TimeoutError) as error:  # the bus is away, and the subscriptions with it
            _log.warning("unsubscribing.failed", error=str(error))

    def _take_news(self, topic: str, payload: bytes) -> None:
        self._telling.take_news(topic, payload)

    def _take_gap(self, topic: str) -> None:
        self._telling.take_gap(topic)

    async def _follow_ownership(self) -> None:
        async for owned in self._mesh.watch_owned(SERVICE):
            self._publishing.drop(partial(self._is_among, owned))

    def _is_among(self, partitions: frozenset[int], user_id: str) -> bool:
        return self._mesh.partition_of(user_id) in partitions

    async def _friends_of(self, user_id: str) -> Sequence[str]:
        request = ListFriendIdsRequest(user_id=user_id)
        response = await self._directory.ListFriendIds(request, timeout=self._settings.friends_timeout_s)
        return response.friend_ids

    async def _blocks_of(self, user_id: str, other_ids: Sequence[str]) -> Collection[str]:
        request = FindBlocksRequest(user_id=user_id, other_ids=other_ids)
        response = await self._directory.FindBlocks(request, timeout=self._settings.friends_timeout_s)
        return response.blocked_ids

    async def _find_link(self, user_id: str, device_id: str) -> Link | None:
        request = LookupConnectionsRequest(user_ids=[user_id])
        response = await self._sessions.LookupConnections(request, timeout=self._settings.engine_timeout_s)
        for connection in response.connections:
            if connection.device_id == device_id:
                return Link(connection.edge_id, connection.connection_id)
        return None
