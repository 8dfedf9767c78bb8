"""SessionsService: takes each request apart, has it done, and puts the answer together."""

from google.protobuf.timestamp_pb2 import Timestamp

from discovery.clock import Clock
from discovery.rpc.call import current_call
from hither.sessions.v1 import sessions_service_pb2 as pb
from hither.sessions.v1.sessions_pb2 import Device, LiveLocation
from hither.sessions.v1.sessions_service_pb2_grpc import SessionsServiceServicer
from services.paging import decode_token, encode_token
from services.ports.device_store import CursorMove, DeviceRow, DeviceStore
from services.ports.live_session_store import LiveSessionRow
from services.sessions.connections import Connections
from services.sessions.live_lease import Wish
from services.sessions.live_sessions import LiveSessions
from services.sessions.registry import ConnectionRegistry
from services.sessions.settings import SessionsSettings


class SessionsServicer(SessionsServiceServicer):
    """See hither/sessions/v1/sessions_service.proto for what each method does and refuses."""

    def __init__(
        self,
        connections: Connections,
        registry: ConnectionRegistry,
        devices: DeviceStore,
        live: LiveSessions,
        clock: Clock,
        settings: SessionsSettings,
    ) -> None:
        self._connections = connections
        self._registry = registry
        self._devices = devices
        self._live = live
        self._clock = clock
        self._settings = settings

    async def RegisterConnection(
        self, request: pb.RegisterConnectionRequest, context: object
    ) -> pb.RegisterConnectionResponse:
        """See the contract."""
        return pb.RegisterConnectionResponse(cursor=await self._connections.register(request.connection))

    async def RenewConnections(
        self, request: pb.RenewConnectionsRequest, context: object
    ) -> pb.RenewConnectionsResponse:
        """See the contract."""
        replaced = await self._connections.renew(request.connections)
        return pb.RenewConnectionsResponse(replaced_connection_ids=replaced)

    async def RemoveConnections(
        self, request: pb.RemoveConnectionsRequest, context: object
    ) -> pb.RemoveConnectionsResponse:
        """See the contract."""
        await self._connections.remove(request.connections)
        return pb.RemoveConnectionsResponse()

    async def LookupConnections(
        self, request: pb.LookupConnectionsRequest, context: object
    ) -> pb.LookupConnectionsResponse:
        """See the contract."""
        return await self._registry.live(request.user_ids)

    async def AdvanceCursors(self, request: pb.AdvanceCursorsRequest, context: object) -> pb.AdvanceCursorsResponse:
        """See the contract."""
        moves = [CursorMove(move.user_id, move.device_id, move.pos) for move in request.advances]
        return pb.AdvanceCursorsResponse(previous=await self._devices.advance(moves))

    async def ListDevices(self, request: pb.ListDevicesRequest, context: object) -> pb.ListDevicesResponse:
        """See the contract."""
        list_name = f"devices/{request.user_id}"
        size = request.page_size or self._settings.page_size
        after = decode_token(list_name, request.page_token, 1)
        rows = await self._devices.list_devices(request.user_id, after[0] if after else "", size + 1)
        live = await self._registry.of_user(request.user_id)
        page = rows[:size]
        return pb.ListDevicesResponse(
            devices=[self._device(row, row.device_id in live) for row in page],
            next_page_token=encode_token(list_name, page[-1].device_id) if len(rows) > size else "",
        )

    async def RemoveDevice(self, request: pb.RemoveDeviceRequest, context: object) -> pb.RemoveDeviceResponse:
        """See the contract."""
        await self._connections.remove_device(request.user_id, request.device_id)
        return pb.RemoveDeviceResponse()

    async def StartLiveLocation(
        self, request: pb.StartLiveLocationRequest, context: object
    ) -> pb.StartLiveLocationResponse:
        """See the contract."""
        wish = Wish(
            conversation_id=request.conversation_id,
            user_id=current_call().caller.user_id,
            duration_ms=request.duration_s * 1000,
            opaque=request.opaque,
            request_id=request.request_id,
        )
        row = await self._live.start(wish)
        return pb.StartLiveLocationResponse(session_id=row.session_id, expires_at=_timestamp(row.expires_ms))

    async def RenewLiveLocation(
        self, request: pb.RenewLiveLocationRequest, context: object
    ) -> pb.RenewLiveLocationResponse:
        """See the contract."""
        user_id = current_call().caller.user_id
        row = await self._live.renew(request.session_id, user_id, request.duration_s * 1000)
        return pb.RenewLiveLocationResponse(session_id=row.session_id, expires_at=_timestamp(row.expires_ms))

    async def StopLiveLocation(
        self, request: pb.StopLiveLocationRequest, context: object
    ) -> pb.StopLiveLocationResponse:
        """See the contract."""
        await self._live.stop(request.session_id, current_call().caller.user_id)
        return pb.StopLiveLocationResponse()

    async def GetLiveLocations(
        self, request: pb.GetLiveLocationsRequest, context: object
    ) -> pb.GetLiveLocationsResponse:
        """See the contract."""
        rows = await self._live.active_in(request.conversation_id)
        return pb.GetLiveLocationsResponse(live_locations=map(_live_location, rows))

    def _device(self, row: DeviceRow, connected: bool) -> Device:
        seen_ms = self._clock.now_ms() if connected else row.last_seen_ms
        return Device(device_id=row.device_id, connected=connected, last_seen=_timestamp(seen_ms), cursor=row.cursor)


def _live_location(row: LiveSessionRow) -> LiveLocation:
    return LiveLocation(
        session_id=row.session_id,
        conversation_id=row.conversation_id,
        user_id=row.user_id,
        expires_at=_timestamp(row.expires_ms),
        opaque=row.opaque,
    )


def _timestamp(milliseconds: int) -> Timestamp:
    return Timestamp(seconds=milliseconds // 1000, nanos=milliseconds % 1000 * 1_000_000)
