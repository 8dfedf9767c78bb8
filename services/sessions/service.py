"""The sessions service of one process: its servicer, the evictions behind it, the watch over the cache and over what is shared."""

import asyncio

import structlog

from discovery.clock import Clock
from discovery.errors import HitherError
from discovery.mesh import Mesh
from services.delivery import Delivery
from services.ports.bus import Bus, Subscription
from services.ports.cache import Cache
from services.ports.device_store import DeviceStore
from services.ports.live_session_store import LiveSessionStore
from services.sessions.connections import Connections
from services.sessions.evictions import Evictions
from services.sessions.live_keeper import LiveKeeper
from services.sessions.live_sessions import LiveSessions
from services.sessions.live_telling import LiveTelling
from services.sessions.live_tending import LiveTending
from services.sessions.ownership import Ownership
from services.sessions.push_forgetting import PushForgetting
from services.sessions.registry import ConnectionRegistry
from services.sessions.servicer import SessionsServicer
from services.sessions.settings import SessionsSettings

CHANGES_TOPIC = "directory.changes"
"""Where the directory tells whose memberships and friendships have changed."""
SERVICE = "hither.sessions.v1.SessionsService"

_BUS_TIMEOUT_S = 2.0
_log = structlog.get_logger("hither.sessions")


class Sessions:
    """Which devices users have, and who holds their connections. `servicer` answers from the start; replaced connections
    are closed, and a lost cache is filled again, while run() runs.
    """

    def __init__(
        self,
        mesh: Mesh,
        cache: Cache,
        devices: DeviceStore,
        live_sessions: LiveSessionStore,
        bus: Bus,
        clock: Clock,
        settings: SessionsSettings = SessionsSettings(),  # noqa: B008 - frozen
    ) -> None:
        self._mesh = mesh
        self._bus = bus
        self._evictions = Evictions(Delivery(mesh), settings)
        self._registry = ConnectionRegistry(cache, Ownership(mesh.partition_of), clock, settings)
        forget_push = PushForgetting(mesh, settings.push_timeout_s).forget
        connections = Connections(self._registry, devices, self._evictions, forget_push, clock, settings)
        telling = LiveTelling(mesh, settings.live_call_timeout_s)
        tending = LiveTending(live_sessions, telling, clock, settings.live_recheck_s)
        self._keeper = LiveKeeper(live_sessions, tending.tend, mesh.partition_of, clock, settings)
        live = LiveSessions(live_sessions, telling, tending, self._keeper, mesh.partition_of, clock)
        self.servicer = SessionsServicer(connections, self._registry, devices, live, clock, settings)

    async def run(self) -> None:
        """Works in the background until cancelled; ends with an ExceptionGroup if part of the work dies."""
        changes = await self._bus.subscribe(CHANGES_TOPIC, self._keeper.changed, self._keeper.gap)
        try:
            async with asyncio.TaskGroup() as work:
                work.create_task(self._evictions.run(), name="sessions-evictions")
                work.create_task(self._registry.run(), name="sessions-registry")
                work.create_task(self._keeper.run(), name="sessions-live")
                work.create_task(self._follow_ownership(), name="sessions-ownership")
        finally:
            await self._unsubscribe(changes)

    async def _unsubscribe(self, changes: Subscription) -> None:
        try:
            async with asyncio.timeout(_BUS_TIMEOUT_S):
                await changes.close()
        except (HitherError, TimeoutError) as error:  # the bus is away, and the subscription with it
            _log.warning("unsubscribing.failed", error=str(error))

    async def _follow_ownership(self) -> None:
        async for owned in self._mesh.watch_owned(SERVICE):
            self._registry.follow(owned)
            self._keeper.follow(owned)
