"""SessionsService: takes each request apart, has it done, and puts the answer together."""

from google.protobuf.timestamp_pb2 import Timestamp

from discovery.clock import Clock
from discovery.errors import Unimplemented
from hither.sessions.v1 import sessions_service_pb2 as pb
from hither.sessions.v1.sessions_pb2 import Device
from hither.sessions.v1.sessions_service_pb2_grpc import SessionsServiceServicer
from services.paging import decode_token, encode_token
from services.ports.device_store import CursorMove, DeviceRow, DeviceStore
from services.sessions.connections import Connections
from services.sessions.registry import ConnectionRegistry
from services.sessions.settings import SessionsSettings


class SessionsServicer(SessionsServiceServicer):
    """See hither/sessions/v1/sessions_service.proto for what each method does and refuses."""

    def __init__(
        self,
        connections: Connections,
        registry: ConnectionRegistry,
        devices: DeviceStore,
        clock: Clock,
        settings: SessionsSettings,
    ) -> None:
        self._connections = connections
        self._registry = registry
        self._devices = devices
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
        """Not built yet."""
        raise Unimplemented("Live locations are not built yet.", reason="NOT_BUILT")

    async def StopLiveLocation(
        self, request: pb.StopLiveLocationRequest, context: object
    ) -> pb.StopLiveLocationResponse:
        """Not built yet."""
        raise Unimplemented("Live locations are not built yet.", reason="NOT_BUILT")

    def _device(self, row: DeviceRow, connected: bool) -> Device:
        seen_ms = self._clock.now_ms() if connected else row.last_seen_ms
        last_seen = Timestamp()
        last_seen.FromMilliseconds(seen_ms)
        return Device(device_id=row.device_id, connected=connected, last_seen=last_seen, cursor=row.cursor)
