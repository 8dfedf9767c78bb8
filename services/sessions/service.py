"""The sessions service of one process: its servicer, and the evictions behind it."""

from discovery.clock import Clock
from discovery.mesh import Mesh
from services.delivery import Delivery
from services.ports.cache import Cache
from services.ports.device_store import DeviceStore
from services.sessions.connections import Connections
from services.sessions.evictions import Evictions
from services.sessions.registry import ConnectionRegistry
from services.sessions.servicer import SessionsServicer
from services.sessions.settings import SessionsSettings


class Sessions:
    """Which devices users have, and who holds their connections. `servicer` answers from the start; replaced connections
    are closed while run() runs.
    """

    def __init__(
        self,
        mesh: Mesh,
        cache: Cache,
        devices: DeviceStore,
        clock: Clock,
        settings: SessionsSettings = SessionsSettings(),  # noqa: B008 - frozen
    ) -> None:
        self._evictions = Evictions(Delivery(mesh), settings)
        registry = ConnectionRegistry(cache, settings.connection_ttl_s)
        connections = Connections(registry, devices, self._evictions, clock, settings)
        self.servicer = SessionsServicer(connections, registry, devices, clock, settings)

    async def run(self) -> None:
        """Works in the background until cancelled; ends with an ExceptionGroup if part of the work dies."""
        await self._evictions.run()
