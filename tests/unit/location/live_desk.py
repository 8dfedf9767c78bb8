"""One process of the live part of the location service, and the world around it."""

from dataclasses import dataclass
from typing import cast

from google.protobuf.message import Message

from discovery.rpc.call import Call, Caller, Role, serve_call
from hither.edge.v1.deliver_pb2 import Delivery
from hither.location.v1 import location_pb2
from hither.location.v1 import location_service_pb2 as pb
from services.location.live_service import Live
from services.location.live_settings import LiveSettings
from services.location.nearby_service import Nearby
from services.location.servicer import LocationServicer
from services.ports.cache import Cache
from services.ports.location_history import LocationHistory
from services.storage.memory.bus import MemoryBus
from services.storage.memory.cache import MemoryCache
from tests.support.clock import ManualClock
from tests.support.live import FakeDirectory, FakeSessions
from tests.support.mesh import FakeMesh

EVENTS: dict[str, type[Message]] = {
    "live_location": location_pb2.LiveLocationEvent,
    "live_location_ended": location_pb2.LiveLocationEndedEvent,
    "live_location_stale": location_pb2.LiveLocationStaleEvent,
}
ANN, BEN = 1, 2
"""The connections of the phones of ann and ben."""


class World:
    """What outlives processes: the cache, the other services, the edges. Ann and ben are connected, ann shares."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.cache: Cache = MemoryCache(self.clock)
        self.bus = MemoryBus()
        self.mesh = FakeMesh()
        self.directory = FakeDirectory()
        self.sessions = FakeSessions(self.clock)
        self.mesh.serve(self.directory)
        self.mesh.serve(self.sessions)
        self.directory.members["g.1"] = ["ann", "ben", "cleo"]
        self.sessions.connect("ann", ANN)
        self.sessions.connect("ben", BEN)
        self.anns = self.sessions.start("g.1~a", "ann")


@dataclass(frozen=True)
class Told:
    """An event that a connection was told."""

    type: str
    event: Message
    key: str


class Desk:
    """A process; calls come from users' phones."""

    def __init__(
        self, world: World, settings: LiveSettings | None = None, history: LocationHistory | None = None
    ) -> None:
        self.world = world
        self.live = Live(world.mesh.mesh, world.cache, world.bus, world.clock, settings or LiveSettings(), history)
        self.servicer = LocationServicer(cast(Nearby, None), self.live)

    async def move(
        self, lat: float, user_id: str = "ann", session_id: str = "g.1~a", ciphertext: bytes = b"", settle: bool = True
    ) -> None:
        _as(user_id)
        request = pb.UpdateLiveLocationRequest(session_id=session_id, lat=lat, lng=-lat, ciphertext=ciphertext)
        await self.servicer.UpdateLiveLocation(request, None)
        if settle:
            await self.live.step()

    async def watch(self, user_id: str = "ben", device_id: str = "phone") -> list[location_pb2.LiveLocationView]:
        _as(user_id, device_id)
        request = pb.WatchLiveLocationRequest(conversation_id="g.1")
        return list((await self.servicer.WatchLiveLocation(request, None)).sessions)

    async def unwatch(self, user_id: str = "ben", device_id: str = "phone") -> None:
        _as(user_id, device_id)
        await self.servicer.UnwatchLiveLocation(pb.UnwatchLiveLocationRequest(conversation_id="g.1"), None)

    async def end(
        self,
        session_id: str = "g.1~a",
        reason: location_pb2.EndReason.ValueType = location_pb2.EndReason.END_REASON_STOPPED,
    ) -> None:
        self.world.sessions.going_on.pop(session_id, None)
        await self.servicer.EndLiveLocation(pb.EndLiveLocationRequest(session_id=session_id, reason=reason), None)
        await self.live.step()

    async def news(self, line: str) -> None:
        """The directory tells of a change."""
        self.live._members.changed("directory.changes", line.encode())
        await self.live.step()

    async def wait(self, seconds: float) -> None:
        """Time passes, and what is due is done."""
        self.world.clock.advance(seconds)
        await self.live.step()

    def told(self, connection_id: int = BEN, edge_id: str = "edge") -> list[Told]:
        """What the connection was told so far."""
        deliveries = self.world.mesh.edges[edge_id].deliveries()
        return [_told(one) for one in deliveries if any(t.connection_id == connection_id for t in one.targets)]

    def lats(self, connection_id: int = BEN, edge_id: str = "edge") -> list[float]:
        """The latitudes among it."""
        events = [told.event for told in self.told(connection_id, edge_id)]
        return [event.lat for event in events if isinstance(event, location_pb2.LiveLocationEvent)]

    def types(self, connection_id: int = BEN) -> list[str]:
        """The kinds of event among it."""
        return [told.type for told in self.told(connection_id)]


def _told(delivery: Delivery) -> Told:
    return Told(delivery.type, EVENTS[delivery.type].FromString(delivery.payload), delivery.conflation_key)


def _as(user_id: str, device_id: str = "phone") -> None:
    serve_call(Call("/test", Caller(Role.USER, user_id, device_id), float("inf"), ""))
