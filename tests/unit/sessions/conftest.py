"""The sessions service over its embedded engines, with edges that remember and a clock that stands still."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from hither.push.v1.push_service_pb2 import ForgetDeviceRequest, ForgetDeviceResponse
from hither.sessions.v1 import sessions_service_pb2 as pb
from hither.sessions.v1.sessions_pb2 import Connection, Device
from services.sessions.service import Sessions
from services.sessions.settings import SessionsSettings
from services.storage.memory.bus import MemoryBus
from services.storage.memory.cache import MemoryCache
from services.storage.sqlite.devices import SqliteDeviceStore
from tests.support.clock import ManualClock
from tests.support.live import MemoryLiveSessions
from tests.support.mesh import FakeMesh


def connection(edge_id: str, connection_id: int, device_id: str = "phone", user_id: str = "ann") -> Connection:
    return Connection(user_id=user_id, device_id=device_id, edge_id=edge_id, connection_id=connection_id)


class Forgetful:
    """The part of push that sessions needs."""

    def __init__(self) -> None:
        self.forgotten: list[tuple[str, str]] = []
        self.failure: Exception | None = None

    async def ForgetDevice(self, request: ForgetDeviceRequest, context: object) -> ForgetDeviceResponse:
        """See the contract."""
        if self.failure is not None:
            raise self.failure
        self.forgotten.append((request.user_id, request.device_id))
        return ForgetDeviceResponse()


class SessionsDesk:
    """Calls the service as its callers do."""

    def __init__(self, devices: SqliteDeviceStore, settings: SessionsSettings) -> None:
        self.clock = ManualClock()
        self.mesh = FakeMesh()
        self.push = Forgetful()
        self.mesh.serve(self.push)
        self.devices = devices
        self.cache = MemoryCache(self.clock)
        self.sessions = Sessions(
            self.mesh.mesh, self.cache, devices, MemoryLiveSessions(), MemoryBus(), self.clock, settings
        )
        self.servicer = self.sessions.servicer

    async def register(self, one: Connection) -> int:
        response = await self.servicer.RegisterConnection(pb.RegisterConnectionRequest(connection=one), None)
        return response.cursor

    async def renew(self, *some: Connection) -> list[int]:
        response = await self.servicer.RenewConnections(pb.RenewConnectionsRequest(connections=some), None)
        return list(response.replaced_connection_ids)

    async def remove(self, *some: Connection) -> None:
        await self.servicer.RemoveConnections(pb.RemoveConnectionsRequest(connections=some), None)

    async def lookup(self, *user_ids: str) -> list[Connection]:
        response = await self.servicer.LookupConnections(pb.LookupConnectionsRequest(user_ids=user_ids), None)
        return list(response.connections)

    async def list_devices(self, page_size: int = 0, page_token: str = "") -> pb.ListDevicesResponse:
        request = pb.ListDevicesRequest(user_id="ann", page_size=page_size, page_token=page_token)
        return await self.servicer.ListDevices(request, None)

    async def device(self, device_id: str) -> Device:
        page = await self.list_devices()
        return {device.device_id: device for device in page.devices}[device_id]

    async def remove_device(self, device_id: str) -> None:
        await self.servicer.RemoveDevice(pb.RemoveDeviceRequest(user_id="ann", device_id=device_id), None)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteDeviceStore]:
    store = await SqliteDeviceStore.open(tmp_path / "devices.db")
    yield store
    await store.close()


@pytest.fixture
def desk(store: SqliteDeviceStore) -> SessionsDesk:
    return SessionsDesk(store, SessionsSettings(most_devices=3))
