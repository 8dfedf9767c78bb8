"""The sessions service of one process: its servicer, the evictions behind it, and the watch over the cache."""

import asyncio

from discovery.clock import Clock
from discovery.mesh import Mesh
from services.delivery import Delivery
from services.ports.cache import Cache
from services.ports.device_store import DeviceStore
from services.sessions.connections import Connections
from services.sessions.evictions import Evictions
from services.sessions.ownership import Ownership
from services.sessions.registry import ConnectionRegistry
from services.sessions.servicer import SessionsServicer
from services.sessions.settings import SessionsSettings

SERVICE = "hither.sessions.v1.SessionsService"


class Sessions:
    """Which devices users have, and who holds their connections. `servicer` answers from the start; replaced connections
    are closed, and a lost cache is filled again, while run() runs.
    """

    def __init__(
        self,
        mesh: Mesh,
        cache: Cache,
        devices: DeviceStore,
        clock: Clock,
        settings: SessionsSettings = SessionsSettings(),  # noqa: B008 - frozen
    ) -> None:
        self._mesh = mesh
        self._evictions = Evictions(Delivery(mesh), settings)
        self._registry = ConnectionRegistry(cache, Ownership(mesh.partition_of), clock, settings)
        connections = Connections(self._registry, devices, self._evictions, clock, settings)
        self.servicer = SessionsServicer(connections, self._registry, devices, clock, settings)

    async def run(self) -> None:
        """Works in the background until cancelled; ends with an ExceptionGroup if part of the work dies."""
        async with asyncio.TaskGroup() as work:
            work.create_task(self._evictions.run(), name="sessions-evictions")
            work.create_task(self._registry.run(), name="sessions-registry")
            work.create_task(self._follow_ownership(), name="sessions-ownership")

    async def _follow_ownership(self) -> None:
        async for owned in self._mesh.watch_owned(SERVICE):
            self._registry.follow(owned)
