"""Nearby friends over embedded engines: friends with places, edges that report and remember, a clock that stands still."""

from collections import defaultdict
from collections.abc import Awaitable, Callable
from typing import cast

from discovery.errors import Unavailable
from hither.directory.v1 import directory_service_pb2 as directory
from hither.location.v1 import location_pb2
from hither.location.v1 import location_service_pb2 as pb
from hither.sessions.v1.sessions_pb2 import Connection
from hither.sessions.v1.sessions_service_pb2 import LookupConnectionsRequest, LookupConnectionsResponse
from services.location.live_service import Live
from services.location.nearby_service import Nearby
from services.location.servicer import LocationServicer
from services.location.settings import LocationSettings
from services.ports.cache import Cache
from services.storage.memory.bus import MemoryBus
from services.storage.memory.cache import MemoryCache
from tests.support.clock import ManualClock
from tests.support.memory_privacy import MemoryHistory, MemoryPrivacyStore, MemoryViewLog
from tests.support.mesh import FakeMesh

HIDDEN = location_pb2.LOCATION_PRECISION_HIDDEN
CITY = location_pb2.LOCATION_PRECISION_CITY
KILOMETRE = location_pb2.LOCATION_PRECISION_KILOMETRE
EXACT = location_pb2.LOCATION_PRECISION_EXACT
LEFT, STOPPED, EXPIRED = "LEFT", "STOPPED", "EXPIRED"

BERLIN = 52.52, 13.405
NEAR = 52.53, 13.405
"""0.69 miles from BERLIN."""
FAR = 52.70, 13.405
"""12.4 miles from BERLIN."""

Event = location_pb2.FriendLocationUpdateEvent | location_pb2.FriendLocationGoneEvent
Told = tuple[str, str, str]
"""Who was told, of whom, and "near" or why not any more."""


class FakeDirectory:
    """Friends and names; `fails` names methods that are away."""

    def __init__(self) -> None:
        self.friends: defaultdict[str, set[str]] = defaultdict(set)
        self.fails: set[str] = set()
        self.meanwhile: Callable[[], Awaitable[None]] | None = None
        """Happens once, while names are asked for."""

    async def ListFriendIds(
        self, request: directory.ListFriendIdsRequest, context: object
    ) -> directory.ListFriendIdsResponse:
        if "ListFriendIds" in self.fails:
            raise Unavailable("away")
        return directory.ListFriendIdsResponse(friend_ids=sorted(self.friends[request.user_id]))

    async def FindNames(self, request: directory.FindNamesRequest, context: object) -> directory.FindNamesResponse:
        if "FindNames" in self.fails:
            raise Unavailable("away")
        assert len(request.user_ids) <= 200
        if self.meanwhile is not None:
            happening, self.meanwhile = self.meanwhile, None
            await happening()
        return directory.FindNamesResponse(
            names=(directory.UserName(user_id=one, name=one.title()) for one in request.user_ids)
        )


class FakeSessions:
    """The live connections."""

    def __init__(self) -> None:
        self.connections: list[Connection] = []

    async def LookupConnections(self, request: LookupConnectionsRequest, context: object) -> LookupConnectionsResponse:
        return LookupConnectionsResponse(
            connections=[one for one in self.connections if one.user_id in request.user_ids]
        )

    async def RemoveConnections(self, request: object, context: object) -> None:
        """Nothing is gone here."""


class FragileBus(MemoryBus):
    """Can be away."""

    def __init__(self) -> None:
        super().__init__()
        self.is_down = False

    def subscriptions(self, topic: str) -> int:
        return self._topics.count(topic)

    def topics(self) -> set[str]:
        return set(self._topics)

    async def publish(self, topic: str, payload: bytes) -> None:
        if self.is_down:
            raise Unavailable("away")
        await super().publish(topic, payload)


class World:
    """What the instances of location share."""

    def __init__(self, settings: LocationSettings | None = None) -> None:
        self.settings = settings or LocationSettings()
        self.clock = ManualClock()
        self.cache = MemoryCache(self.clock)
        self.bus = FragileBus()
        self.privacy = MemoryPrivacyStore()
        self.history = MemoryHistory()
        self.view_log = MemoryViewLog()
        self.directory = FakeDirectory()
        self.sessions = FakeSessions()
        self.mesh = FakeMesh()
        self.mesh.serve(self.directory)
        self.mesh.serve(self.sessions)
        self._seen = 0

    async def befriend(self, user_id: str, *friend_ids: str) -> None:
        for friend_id in friend_ids:
            self.directory.friends[user_id].add(friend_id)
            self.directory.friends[friend_id].add(user_id)
            await self.announce(user_id, friend_id)

    async def part(self, one: str, other: str) -> None:
        self.directory.friends[one].discard(other)
        self.directory.friends[other].discard(one)
        await self.announce(one, other)

    async def announce(self, one: str, other: str) -> None:
        await self.bus.publish("directory.changes", f"friends {one} {other}".encode())

    def events(self) -> list[tuple[str, Event]]:
        """Who was told what since the last call, once for each user however many devices."""
        users = {one.connection_id: one.user_id for one in self.sessions.connections}
        deliveries = self.mesh.edges["edge"].deliveries()
        new, self._seen = deliveries[self._seen :], len(deliveries)
        found: list[tuple[str, Event]] = []
        for delivery in new:
            event: Event
            if delivery.type == "friend_location_gone":
                event = location_pb2.FriendLocationGoneEvent.FromString(delivery.payload)
            else:
                event = location_pb2.FriendLocationUpdateEvent.FromString(delivery.payload)
            assert delivery.conflation_key == f"nearby:{event.friend_id}"
            found += [(user, event) for user in sorted({users[target.connection_id] for target in delivery.targets})]
        return found

    def told(self) -> list[Told]:
        """As events, in short."""
        return [
            (user, event.friend_id, location_pb2.GoneReason.Name(event.reason).removeprefix("GONE_REASON_"))
            if isinstance(event, location_pb2.FriendLocationGoneEvent)
            else (user, event.friend_id, "near")
            for user, event in self.events()
        ]


class Desk:
    """One instance of location, called as edges and clients do; `settle` does all that is due."""

    def __init__(self, world: World, cache: Cache | None = None) -> None:
        self.world = world
        self.nearby = Nearby(
            world.mesh.mesh, cache or world.cache, world.bus, world.privacy, world.history, world.view_log, world.clock,
            world.settings,
        )  # fmt: skip
        self.servicer = LocationServicer(self.nearby, cast(Live, None))
        self._reports: dict[int, pb.ViewerReport] = {}

    async def start(self) -> None:
        """The part of run() that is not settle()."""
        friends = self.nearby._friends
        await self.world.bus.subscribe("directory.changes", friends.changed, friends.missed)

    async def report(self, *reports: pb.ViewerReport) -> None:
        await self.servicer.ReportViewers(pb.ReportViewersRequest(reports=reports), None)

    async def connect(self, user_id: str) -> pb.ViewerReport:
        """A new connection; the report renews it when it is reported again."""
        number = len(self.world.sessions.connections) + 1
        self.world.sessions.connections.append(
            Connection(user_id=user_id, device_id=f"d{number}", edge_id="edge", connection_id=number)
        )
        report = pb.ViewerReport(user_id=user_id, connected=True, connection_id=number, edge_id="edge")
        self._reports[number] = report
        await self.report(report)
        return report

    async def pass_time(self, seconds: int, **moving: tuple[float, float]) -> None:
        """Time goes by, with the edge reporting whoever is connected; these users tell every 20 s where they are."""
        while seconds > 0:
            self.world.clock.advance(min(seconds, 20))
            seconds -= 20
            if self._reports:
                await self.report(*self._reports.values())
            for user_id, place in moving.items():
                await self.move(user_id, place, after_s=0)
            await self.settle()

    async def disconnect(self, connected: pb.ViewerReport) -> None:
        gone = pb.ViewerReport()
        gone.CopyFrom(connected)
        gone.connected = False
        del self._reports[connected.connection_id]
        await self.report(gone)

    async def share(
        self,
        user_id: str,
        enabled: bool = True,
        precision: location_pb2.LocationPrecision.ValueType = location_pb2.LOCATION_PRECISION_UNSPECIFIED,
    ) -> None:
        request = pb.UpdateLocationSharingRequest(user_id=user_id, enabled=enabled, default_precision=precision)
        await self.servicer.UpdateLocationSharing(request, None)

    async def grant(
        self,
        user_id: str,
        friend_id: str,
        precision: location_pb2.LocationPrecision.ValueType,
        duration_s: int = 0,
    ) -> None:
        request = pb.PutLocationGrantRequest(
            user_id=user_id, friend_id=friend_id, precision=precision, duration_s=duration_s
        )
        await self.servicer.PutLocationGrant(request, None)

    async def revoke(self, user_id: str, friend_id: str) -> None:
        await self.servicer.RemoveLocationGrant(
            pb.RemoveLocationGrantRequest(user_id=user_id, friend_id=friend_id), None
        )

    async def move(
        self, user_id: str, place: tuple[float, float], after_s: float = 5.0, **hints: float
    ) -> pb.UpdateLocationResponse:
        """The user is there, some seconds later: nobody is in two places at once."""
        self.world.clock.advance(after_s)
        request = pb.UpdateLocationRequest(user_id=user_id, lat=place[0], lng=place[1], **hints)  # type: ignore[arg-type]
        return await self.servicer.UpdateLocation(request, None)

    async def near(
        self, user_id: str, radius: float = 0, page_size: int = 0, page_token: str = ""
    ) -> pb.ListNearbyFriendsResponse:
        request = pb.ListNearbyFriendsRequest(
            user_id=user_id, radius=radius, page_size=page_size, page_token=page_token
        )
        return await self.servicer.ListNearbyFriends(request, None)

    async def near_ids(self, user_id: str, radius: float = 0) -> list[str]:
        return [friend.friend_id for friend in (await self.near(user_id, radius)).friends]

    async def settle(self) -> None:
        for _ in range(2):
            await self.nearby.step()

    async def arrive(self, *user_ids: str, place: tuple[float, float] = BERLIN) -> None:
        """All share, connect and are there; whatever they are told of that is forgotten."""
        for user_id in user_ids:
            await self.share(user_id)
            await self.connect(user_id)
            await self.move(user_id, place)
        await self.settle()
        self.world.events()
