"""Presence over its embedded engines: users with friends, edges that report and remember, a clock that stands still."""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import cast

import pytest

from discovery.errors import Aborted, Unavailable
from hither.directory.v1.directory_service_pb2 import (
    FindBlocksRequest,
    FindBlocksResponse,
    ListFriendIdsRequest,
    ListFriendIdsResponse,
)
from hither.presence.v1 import presence_service_pb2 as pb
from hither.presence.v1.presence_pb2 import PresenceAudience, PresenceEvent, PresenceStatus
from hither.sessions.v1.sessions_pb2 import Connection
from hither.sessions.v1.sessions_service_pb2 import LookupConnectionsRequest, LookupConnectionsResponse
from services.ports.privacy_store import PrivacyRow, PrivacyStore
from services.presence.service import Presence
from services.presence.settings import PresenceSettings
from services.storage.memory.bus import MemoryBus
from services.storage.memory.cache import MemoryCache
from tests.support.clock import ManualClock
from tests.support.mesh import FakeMesh

ONLINE = PresenceStatus.PRESENCE_STATUS_ONLINE
AWAY = PresenceStatus.PRESENCE_STATUS_AWAY
OFFLINE = PresenceStatus.PRESENCE_STATUS_OFFLINE
NOBODY = PresenceAudience.PRESENCE_AUDIENCE_NOBODY
FRIENDS = PresenceAudience.PRESENCE_AUDIENCE_FRIENDS
EVERYONE = PresenceAudience.PRESENCE_AUDIENCE_EVERYONE
GATHER_S = 1.0
SETTINGS = PresenceSettings(offline_after_s=GATHER_S)
"""Who has gone is told of as soon as anything else."""
Told = tuple[str, str, int]
"""Who was told, of whom, and which status."""


class FakeDirectory:
    """Friends, and how often they were asked for."""

    def __init__(self) -> None:
        self.friends: defaultdict[str, set[str]] = defaultdict(set)
        self.asked: list[str] = []
        self.blocks: set[frozenset[str]] = set()
        self.blocks_asked: list[str] = []
        self.is_down = False

    async def FindBlocks(self, request: FindBlocksRequest, context: object) -> FindBlocksResponse:
        self.blocks_asked += request.other_ids
        if self.is_down:
            raise Unavailable("away")
        blocked = [other for other in request.other_ids if frozenset({request.user_id, other}) in self.blocks]
        return FindBlocksResponse(blocked_ids=blocked)

    async def ListFriendIds(self, request: ListFriendIdsRequest, context: object) -> ListFriendIdsResponse:
        self.asked.append(request.user_id)
        if self.is_down:
            raise Unavailable("away")
        return ListFriendIdsResponse(friend_ids=sorted(self.friends[request.user_id]))


class FakeSessions:
    """The live connections."""

    def __init__(self) -> None:
        self.connections: list[Connection] = []

    async def LookupConnections(self, request: LookupConnectionsRequest, context: object) -> LookupConnectionsResponse:
        asked = set(request.user_ids)
        return LookupConnectionsResponse(connections=[one for one in self.connections if one.user_id in asked])

    async def RemoveConnections(self, request: object, context: object) -> None:
        """Nothing is gone here."""


class FakePrivacyStore:
    """The part of services.ports.privacy_store.PrivacyStore that presence uses; can be away."""

    def __init__(self) -> None:
        self.rows: dict[str, PrivacyRow] = {}
        self.is_down = False

    async def privacy(self, user_ids: Collection[str]) -> Mapping[str, PrivacyRow]:
        if self.is_down:
            raise Unavailable("away")
        return {user_id: self.rows.get(user_id, PrivacyRow(user_id)) for user_id in user_ids}

    async def put_privacy(self, row: PrivacyRow, expected_version: int | None = None) -> int:
        before = (await self.privacy([row.user_id]))[row.user_id]
        if expected_version not in (None, before.version):
            raise Aborted("another version")
        self.rows[row.user_id] = replace(row, version=before.version + 1)
        return before.version + 1


class CountingBus(MemoryBus):
    """Knows who is subscribed to what; can be away, and can lose news, of which it tells when it is asked to."""

    def __init__(self) -> None:
        super().__init__()
        self.is_down = False
        self.loses_news = False
        self.published: list[tuple[str, bytes]] = []

    def subscriptions(self, topic: str) -> int:
        return self._topics.count(topic)

    def topics(self) -> set[str]:
        return set(self._topics)

    async def publish(self, topic: str, payload: bytes) -> None:
        if self.is_down:
            raise Unavailable("away")
        self.published.append((topic, payload))
        if not self.loses_news:
            await super().publish(topic, payload)

    def come_back(self) -> None:
        """Loses nothing any more, and tells everybody that there was a gap."""
        self.loses_news = False
        for topic in self.topics():
            self._topics.missed(topic)


class CountingCache(MemoryCache):
    """Knows how many keys were asked for at once; can be away, and can be lost."""

    def __init__(self, clock: ManualClock) -> None:
        super().__init__(clock)
        self.asked: list[int] = []
        self.is_down = False

    async def get(self, keys: Sequence[str]) -> Sequence[bytes | None]:
        if self.is_down:
            raise Unavailable("away")
        self.asked.append(len(keys))
        return await super().get(keys)

    async def forget(self, *user_ids: str) -> None:
        await self.delete([f"presence:{user_id}" for user_id in user_ids])


class World:
    """What the instances of presence share."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.cache = CountingCache(self.clock)
        self.bus = CountingBus()
        self.directory = FakeDirectory()
        self.privacy = FakePrivacyStore()
        self.sessions = FakeSessions()
        self.mesh = FakeMesh()
        self.mesh.serve(self.directory)
        self.mesh.serve(self.sessions)
        self._seen = 0

    def befriend(self, user_id: str, *friend_ids: str) -> None:
        for friend_id in friend_ids:
            self.directory.friends[user_id].add(friend_id)
            self.directory.friends[friend_id].add(user_id)

    def part(self, one: str, other: str) -> None:
        self.directory.friends[one].discard(other)
        self.directory.friends[other].discard(one)

    async def block(self, one: str, other: str) -> None:
        self.part(one, other)
        self.directory.blocks.add(frozenset({one, other}))
        await self.announce(one, other)

    async def announce(self, one: str, other: str) -> None:
        await self.bus.publish("directory.changes", f"friends {one} {other}".encode())

    def events(self) -> list[tuple[str, PresenceEvent]]:
        """Who was told what since the last call, once for each user however many devices."""
        users = {one.connection_id: one.user_id for one in self.sessions.connections}
        deliveries = self.mesh.edges["edge"].deliveries()
        new, self._seen = deliveries[self._seen :], len(deliveries)
        found: list[tuple[str, PresenceEvent]] = []
        for delivery in new:
            assert delivery.type == "presence"
            event = PresenceEvent.FromString(delivery.payload)
            assert delivery.conflation_key == f"presence:{event.user_id}"
            found += [(user, event) for user in sorted({users[target.connection_id] for target in delivery.targets})]
        return found

    def told(self) -> list[Told]:
        """As events, without the times."""
        return [(user, event.user_id, event.status) for user, event in self.events()]


class Desk:
    """One instance of presence, called as edges and clients do; `settle` does all that is due."""

    def __init__(self, world: World, settings: PresenceSettings = SETTINGS) -> None:
        self.world = world
        store = cast("PrivacyStore", world.privacy)
        self.presence = Presence(world.mesh.mesh, world.cache, world.bus, store, world.clock, settings)
        self.servicer = self.presence.servicer

    async def start(self) -> None:
        """The part of run() that is not settle()."""
        friends = self.presence._friends
        await self.world.bus.subscribe("directory.changes", friends.changed, friends.missed)
        await self.world.bus.subscribe("presence.privacy", self.presence._privacy.take_announcement)

    async def report(self, *reports: pb.DeviceReport) -> None:
        await self.servicer.ReportDevices(pb.ReportDevicesRequest(reports=reports), None)

    async def connect(self, user_id: str, device_id: str = "phone") -> pb.DeviceReport:
        """A new connection; the report renews it when it is reported again."""
        number = len(self.world.sessions.connections) + 1
        self.world.sessions.connections.append(
            Connection(user_id=user_id, device_id=device_id, edge_id="edge", connection_id=number)
        )
        report = pb.DeviceReport(
            user_id=user_id, device_id=device_id, connected=True, connection_id=number, edge_id="edge"
        )
        await self.report(report)
        return report

    async def disconnect(self, connected: pb.DeviceReport) -> None:
        gone = pb.DeviceReport()
        gone.CopyFrom(connected)
        gone.connected = False
        await self.report(gone)

    async def set_presence(
        self, user_id: str, status: PresenceStatus.ValueType, device_id: str = "phone", text: str | None = None
    ) -> None:
        request = pb.SetPresenceRequest(user_id=user_id, device_id=device_id, status=status, text=text)
        await self.servicer.SetPresence(request, None)

    async def watch(self, user_id: str, *watched_ids: str, device_id: str = "phone") -> list[pb.FriendPresence]:
        request = pb.WatchPresenceRequest(user_id=user_id, device_id=device_id, user_ids=watched_ids)
        return list((await self.servicer.WatchPresence(request, None)).presences)

    async def let_know(
        self,
        user_id: str,
        presence: PresenceAudience.ValueType = PresenceAudience.PRESENCE_AUDIENCE_UNSPECIFIED,
        last_seen: PresenceAudience.ValueType = PresenceAudience.PRESENCE_AUDIENCE_UNSPECIFIED,
    ) -> None:
        request = pb.UpdatePrivacyRequest(user_id=user_id, presence=presence, last_seen=last_seen)
        await self.servicer.UpdatePrivacy(request, None)

    async def friends_of(self, user_id: str, page_size: int = 0, page_token: str = "") -> pb.ListFriendPresenceResponse:
        request = pb.ListFriendPresenceRequest(user_id=user_id, page_size=page_size, page_token=page_token)
        return await self.servicer.ListFriendPresence(request, None)

    async def settle(self) -> None:
        for _ in range(2):
            await self.presence._publishing.step()
            await self.presence._friends.step()
            await self.presence._telling.step()

    async def gather(self) -> None:
        """Lets a gathering pass, with what follows from it."""
        await self.settle()
        self.world.clock.advance(GATHER_S)
        await self.settle()

    async def arrive(self, *user_ids: str) -> Sequence[pb.DeviceReport]:
        """All connect, and whatever their friends learn of that is told and forgotten."""
        reports = [await self.connect(user_id) for user_id in user_ids]
        await self.gather()
        self.world.events()
        return reports


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
async def desk(world: World) -> Desk:
    desk = Desk(world)
    await desk.start()
    return desk
