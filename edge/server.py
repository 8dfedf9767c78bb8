"""The edge as a whole: its public port, its connections and its background work, from start to drain."""

import asyncio
import random
import resource
from contextlib import suppress
from types import TracebackType
from typing import Final, Self

import structlog
from prometheus_client import REGISTRY, CollectorRegistry
from starlette.types import ASGIApp

from edge.front import Door
from edge.gateway import Gateway
from edge.hub import Hub
from edge.metrics import EdgeMetrics
from edge.registrar import Registrar
from edge.relay import Relay
from edge.session import CloseCode
from edge.settings import EdgeSettings
from edge.socket import Shell

log = structlog.get_logger(__name__)

_SPARE_FILES: Final = 256
"""File descriptors that are not for clients: engines, logs, other processes."""
_POLL_S: Final = 0.02
_BREATH: Final = 200
"""Connections between two breaths of the loop while many are told something."""
_SOMAXCONN: Final = "/proc/sys/net/core/somaxconn"


class EdgeServer:
    """`async with EdgeServer(...) as edge`: attaches the edge to the mesh (so enter it before `mesh.serve`) and binds the port;
    `run` accepts clients; `drain` sends them elsewhere; leaving drops whoever is left.

    `app` answers everything that is no WebSocket. `port` 0 takes a free one. `registry` gets the edge's metrics.
    """

    def __init__(
        self,
        gateway: Gateway,
        app: ASGIApp,
        *,
        host: str,
        port: int,
        registry: CollectorRegistry = REGISTRY,
    ) -> None:
        settings, clock = gateway.settings, gateway.clock
        self.metrics = EdgeMetrics()
        self._gateway = gateway
        self._settings = settings
        self._host = host
        self._port = port
        self._registry = registry
        self._hub = Hub(settings, self.metrics, clock)
        self._relay = Relay(gateway, settings.edge_calls_in_flight)
        self._registrar = Registrar(
            gateway.mesh, settings, self.metrics, clock, self._hub.open_connections, self._replaced, self._hub.late
        )
        shell = Shell(settings, self.metrics, clock, self._hub, self._relay, self._registrar)
        most = affordable_connections(settings)
        self._door = Door(shell, gateway.edge_id, gateway.authenticate_device, app, most)
        self._server: asyncio.Server | None = None
        self._address = ""
        self.serving = asyncio.Event()
        """Set once `run` accepts clients."""
        self.metrics.calls_in_flight = lambda: self._relay.in_flight

    @property
    def address(self) -> str:
        """Where clients connect, as host:port; known once entered."""
        assert self._address  # entered
        return self._address

    @property
    def connections(self) -> int:
        """Open WebSocket connections."""
        return len(self._hub.members)

    async def __aenter__(self) -> Self:
        """Binds the port; raises OSError if it is taken. Nobody is accepted before `run`."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            self._door,
            self._host,
            self._port,
            backlog=self._settings.backlog,
            reuse_port=self._settings.reuse_port or None,
            start_serving=False,
        )
        host, port = self._server.sockets[0].getsockname()[:2]
        self._address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        self._gateway.mesh.attach_edge(self._gateway.edge_id, self._hub.deliver)
        self._registry.register(self.metrics)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Drops everybody who is still connected."""
        assert self._server is not None  # entered
        self._server.close()
        self._door.shut()
        self._door.abort_http()
        for member in self._hub.members:
            member.abort()
        self._registry.unregister(self.metrics)
        self._gateway.mesh.detach_edge(self._gateway.edge_id)
        await asyncio.sleep(0)  # lets the transports tell their protocols

    async def run(self) -> None:
        """Serves clients until cancelled; raises what ended a part of it that should have gone on."""
        assert self._server is not None  # entered
        async with asyncio.TaskGroup() as group:
            group.create_task(self._relay.run(), name="edge relay")
            group.create_task(self._hub.run(), name="edge clock")
            group.create_task(self._registrar.run(), name="edge registrar")
            await asyncio.sleep(0)  # the relay takes calls from here on
            await self._server.start_serving()
            self.serving.set()
            log.info("edge.serving", address=self.address, edge_id=self._gateway.edge_id, connections=self._door.most)

    async def drain(self, window_s: float) -> None:
        """Sends all clients elsewhere while `run` goes on: no new connection, then `reconnect` to each, with waits spread over
        the window. A connection closes with 4001 once every answer that is due has been sent, at the latest when
        the window ends. Returns when all are gone and the registry has been told, a little after the window at most.
        """
        assert self._server is not None  # entered
        self._server.close()
        self._door.shut()
        clock = self._gateway.clock
        until_s = clock.monotonic_s() + window_s
        await self._send_away(window_s)
        while self._hub.members and clock.monotonic_s() < until_s:
            await self._close(only_quiet=True)
            await asyncio.sleep(_POLL_S)
        await self._close(only_quiet=False)
        until_s = max(until_s, clock.monotonic_s() + self._settings.close_timeout_s + 0.5)
        while self._hub.members or self._door.http_connections:
            if clock.monotonic_s() >= until_s:
                break
            await asyncio.sleep(_POLL_S)  # nobody tells when uvicorn has answered its last request
        await self._registrar.settle()

    async def _send_away(self, window_s: float) -> None:
        for index, member in enumerate(self._hub.members):
            after_ms = round(random.uniform(0, window_s) * 1000)  # noqa: S311 (spreads load, guards nothing)
            caller = member.session.caller
            member.session.drain(after_ms, self._gateway.issue_resume(caller) if caller is not None else "")
            member.pump()
            if index % _BREATH == _BREATH - 1:
                await asyncio.sleep(0)

    async def _close(self, *, only_quiet: bool) -> None:
        for index, member in enumerate(self._hub.members):
            if member.session.quiet or not only_quiet:
                member.session.end_drain()
                member.pump()
            if index % _BREATH == _BREATH - 1:
                await asyncio.sleep(0)

    def _replaced(self, connection_id: int) -> None:
        self._hub.evict(connection_id, CloseCode.REPLACED, "the device has connected elsewhere, or was removed")


def affordable_connections(settings: EdgeSettings) -> int:
    """The connections that the process's limits allow, at most `max_connections`. Raises the soft limit of open files as
    far as it may, and warns by name of a limit that is too low.
    """
    wanted = settings.max_connections + _SPARE_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        raised = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        with suppress(ValueError, OSError):  # the kernel may allow less than it says
            resource.setrlimit(resource.RLIMIT_NOFILE, (raised, hard))
            soft = raised
    _check_backlog(settings.backlog)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return settings.max_connections
    fewer = max(1, soft - _SPARE_FILES)
    log.warning("edge.limit", limit="RLIMIT_NOFILE (ulimit -n)", value=soft, needed=wanted, max_connections=fewer)
    return fewer


def _check_backlog(backlog: int) -> None:
    try:
        with open(_SOMAXCONN) as file:
            allowed = int(file.read())
    except (OSError, ValueError):
        return
    if allowed < backlog:
        log.warning("edge.limit", limit="net.core.somaxconn", value=allowed, needed=backlog)
