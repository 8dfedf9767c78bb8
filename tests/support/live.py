"""Live-location sessions in memory, and the services that they ask and tell, for tests of one process."""

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

from discovery.clock import Clock
from discovery.errors import HitherError, PermissionDenied
from hither.directory.v1.directory_service_pb2 import ResolveConversationRequest, ResolveConversationResponse
from hither.location.v1.location_service_pb2 import EndLiveLocationRequest, EndLiveLocationResponse
from hither.messaging.v1.messaging_service_pb2 import PostMessageRequest, PostMessageResponse
from hither.sessions.v1.sessions_pb2 import Connection, LiveLocation
from hither.sessions.v1.sessions_service_pb2 import (
    GetLiveLocationsRequest,
    GetLiveLocationsResponse,
    LookupConnectionsRequest,
    LookupConnectionsResponse,
)
from services.ports.live_session_store import Ending, LiveSessionRow


class MemoryLiveSessions:
    """services.ports.live_session_store.LiveSessionStore, of as many processes as share it."""

    def __init__(self) -> None:
        self.rows: dict[str, LiveSessionRow] = {}
        self.fails: HitherError | None = None

    async def add(self, row: LiveSessionRow) -> LiveSessionRow:
        self._check()
        return self.rows.setdefault(row.session_id, row)

    async def replace(self, before: LiveSessionRow, after: LiveSessionRow) -> bool:
        self._check()
        stands = self.rows.get(before.session_id)
        if stands is None or stands.version != before.version:
            return False
        self.rows[before.session_id] = replace(after, version=before.version + 1)
        return True

    async def find(self, session_id: str) -> LiveSessionRow | None:
        self._check()
        return self.rows.get(session_id)

    async def active_in(self, conversation_id: str, limit: int) -> Sequence[LiveSessionRow]:
        self._check()
        rows = [row for _, row in sorted(self.rows.items()) if row.conversation_id == conversation_id]
        return [row for row in rows if row.ending is Ending.NONE][:limit]

    async def open_in(self, partition: int, after_session_id: str, limit: int) -> Sequence[LiveSessionRow]:
        self._check()
        rows = [row for _, row in sorted(self.rows.items()) if row.partition == partition and not row.told]
        return [row for row in rows if row.session_id > after_session_id][:limit]

    async def purge(self, before_ms: int, limit: int) -> int:
        self._check()
        old = [name for name, row in self.rows.items() if row.told and row.keep_until_ms < before_ms][:limit]
        for name in old:
            del self.rows[name]
        return len(old)

    async def close(self) -> None:
        """Nothing to let go of."""

    def _check(self) -> None:
        if self.fails is not None:
            raise self.fails


class FakeDirectory:
    """Members by conversation; `fails` is what everybody gets while it is set."""

    def __init__(self) -> None:
        self.members: defaultdict[str, list[str]] = defaultdict(list)
        self.fails: HitherError | None = None
        self.asked = 0

    async def ResolveConversation(
        self, request: ResolveConversationRequest, context: object
    ) -> ResolveConversationResponse:
        self.asked += 1
        if self.fails is not None:
            raise self.fails
        members = self.members[request.conversation_id]
        if request.sender_id not in members:
            raise PermissionDenied(reason="NOT_A_MEMBER")
        return ResolveConversationResponse(member_ids=members)


class FakeMessaging:
    """Keeps what was posted, each client id once."""

    def __init__(self) -> None:
        self.posted: dict[tuple[str, str, str], PostMessageRequest] = {}
        self.fails: HitherError | None = None

    async def PostMessage(self, request: PostMessageRequest, context: object) -> PostMessageResponse:
        if self.fails is not None:
            raise self.fails
        self.posted.setdefault((request.conversation_id, request.sender_id, request.client_id), request)
        return PostMessageResponse(message_id=1, seq=len(self.posted))


class FakeLocation:
    """Remembers which sessions it was told have ended."""

    def __init__(self) -> None:
        self.ended: list[EndLiveLocationRequest] = []
        self.heard = asyncio.Event()
        self.fails: HitherError | None = None

    async def EndLiveLocation(self, request: EndLiveLocationRequest, context: object) -> EndLiveLocationResponse:
        if self.fails is not None:
            raise self.fails
        self.ended.append(request)
        self.heard.set()
        return EndLiveLocationResponse()


class FakeSessions:
    """Live locations that go on, and connections. `looked_up` counts the questions after live locations."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.going_on: dict[str, LiveLocation] = {}
        self.connections: list[Connection] = []
        self.fails: HitherError | None = None
        self.looked_up = 0

    def start(self, session_id: str, user_id: str, lasts_s: float = 3600, opaque: bool = False) -> str:
        """The user shares from now on."""
        live = LiveLocation(
            session_id=session_id, conversation_id=session_id.partition("~")[0], user_id=user_id, opaque=opaque
        )
        live.expires_at.FromMilliseconds(self._clock.now_ms() + round(lasts_s * 1000))
        self.going_on[session_id] = live
        return session_id

    def connect(self, user_id: str, connection_id: int, device_id: str = "phone", edge_id: str = "edge") -> None:
        """The device has this connection now, and no other."""
        self.disconnect(user_id, device_id)
        self.connections.append(
            Connection(user_id=user_id, device_id=device_id, edge_id=edge_id, connection_id=connection_id)
        )

    def disconnect(self, user_id: str, device_id: str = "phone") -> None:
        """The device has no connection."""
        self.connections = [one for one in self.connections if (one.user_id, one.device_id) != (user_id, device_id)]

    async def GetLiveLocations(self, request: GetLiveLocationsRequest, context: object) -> GetLiveLocationsResponse:
        self.looked_up += 1
        if self.fails is not None:
            raise self.fails
        now_ms = self._clock.now_ms()
        found = [live for live in self.going_on.values() if live.conversation_id == request.conversation_id]
        return GetLiveLocationsResponse(
            live_locations=[live for live in found if live.expires_at.ToMilliseconds() > now_ms]
        )

    async def LookupConnections(self, request: LookupConnectionsRequest, context: object) -> LookupConnectionsResponse:
        if self.fails is not None:
            raise self.fails
        found = [one for one in self.connections if one.user_id in request.user_ids]
        return LookupConnectionsResponse(connections=found)
