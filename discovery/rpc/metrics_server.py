"""/metrics, /healthz and /readyz for a process that has no public port: uvicorn on a port of its own.

For its operator only: on loopback unless told otherwise, without credentials, and with nothing that is anybody's secret.
"""

import asyncio
import json
from collections.abc import Callable
from types import TracebackType
from typing import Final, Self

import structlog
import uvicorn
from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, CollectorRegistry, generate_latest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from discovery.health import HealthReport

MOST_CONNECTIONS: Final = 16
"""Connections at a time; one more is hung up on."""

REQUEST_TIMEOUT_S: Final = 10.0
"""How long a connection may be silent at first, and how long a request may take to come."""

_KEEP_ALIVE_S: Final = 65
"""Longer than the pauses of most who scrape, so that they need not connect anew."""

_JSON: Final = "application/json"

log = structlog.get_logger(__name__)

Health = Callable[[], HealthReport]
"""Called in the event loop: it must not wait."""


class MetricsServer:
    """`async with MetricsServer(health, "127.0.0.1", 9464) as server:` serves until the block ends. Port 0 takes a free one.
    Raises OSError if the port is taken.
    """

    def __init__(self, health: Health, host: str, port: int, registry: CollectorRegistry = REGISTRY) -> None:
        self._host = host
        self._port = port
        self._config = uvicorn.Config(
            _app(health, registry),
            http="httptools",
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            timeout_keep_alive=_KEEP_ALIVE_S,
        )
        self._state = ServerState()
        self._server: asyncio.Server | None = None
        self.address = ""
        """Where it listens, as host:port, once entered."""

    async def __aenter__(self) -> Self:
        """Listens."""
        self._config.load()
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: _Connection(self._config, self._state, {}), self._host, self._port
        )
        host, port = self._server.sockets[0].getsockname()[:2]
        self.address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        log.info("metrics.serving", address=self.address)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Hangs up."""
        assert self._server is not None  # entered
        self._server.close()
        for connection in list(self._state.connections):
            if connection.transport is not None:
                connection.transport.abort()
        for task in list(self._state.tasks):
            task.cancel()
        await asyncio.gather(*self._state.tasks, return_exceptions=True)


class _Connection(HttpToolsProtocol):
    """uvicorn's protocol, with the limits that it has not: connections, and time for a request."""

    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        """See asyncio.Protocol."""
        super().connection_made(transport)
        if len(self.connections) > MOST_CONNECTIONS:
            transport.abort()
        else:
            self._arm()

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio.Protocol."""
        super().connection_lost(exc)
        self._disarm()

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        self._arm()

    def on_message_complete(self) -> None:
        """All of it is here."""
        self._disarm()
        super().on_message_complete()

    def _arm(self) -> None:
        self._disarm()
        self._timer = self.loop.call_later(REQUEST_TIMEOUT_S, self.transport.abort)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _app(health: Health, registry: CollectorRegistry) -> Starlette:
    async def metrics(_request: Request) -> Response:
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    async def healthz(_request: Request) -> Response:
        return Response(b'{"status":"alive"}', media_type=_JSON)

    async def readyz(_request: Request) -> Response:
        report = health()
        return Response(json.dumps(report.shown()), report.status, media_type=_JSON)

    return Starlette(routes=[Route("/metrics", metrics), Route("/healthz", healthz), Route("/readyz", readyz)])
