"""What live locations ask of other services."""

from collections.abc import Sequence

from discovery.mesh import Mesh
from hither.directory.v1.directory_service_pb2 import ResolveConversationRequest
from hither.directory.v1.directory_service_pb2_grpc import DirectoryServiceStub
from hither.sessions.v1.sessions_pb2 import Connection, LiveLocation
from hither.sessions.v1.sessions_service_pb2 import GetLiveLocationsRequest, LookupConnectionsRequest
from hither.sessions.v1.sessions_service_pb2_grpc import SessionsServiceStub


class LivePeers:
    """Calls, each at most `timeout_s` long. They raise what the services raise."""

    def __init__(self, mesh: Mesh, timeout_s: float) -> None:
        self._directory = mesh.stub(DirectoryServiceStub)
        self._sessions = mesh.stub(SessionsServiceStub)
        self._timeout_s = timeout_s

    async def members(self, conversation_id: str, user_id: str) -> frozenset[str]:
        """All members, the user among them. Raises PermissionDenied (NOT_A_MEMBER, BLOCKED) if the user may not act there."""
        request = ResolveConversationRequest(conversation_id=conversation_id, sender_id=user_id)
        response = await self._directory.ResolveConversation(request, timeout=self._timeout_s)
        return frozenset(response.member_ids)

    async def live_locations(self, conversation_id: str) -> Sequence[LiveLocation]:
        """Those of the conversation that go on."""
        request = GetLiveLocationsRequest(conversation_id=conversation_id)
        response = await self._sessions.GetLiveLocations(request, timeout=self._timeout_s)
        return response.live_locations

    async def connection(self, user_id: str, device_id: str) -> Connection | None:
        """The live connection of the device."""
        request = LookupConnectionsRequest(user_ids=[user_id])
        response = await self._sessions.LookupConnections(request, timeout=self._timeout_s)
        found = [connection for connection in response.connections if connection.device_id == device_id]
        return found[0] if found else None
