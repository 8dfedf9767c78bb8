"""Wires a whole Hither into one process: engines, services, mesh and edge; and takes it down again in order.

The only room that knows both the services and the engines. It decides nothing that a message could notice.
"""

import asyncio
import gc
import ipaddress
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Protocol

import structlog
from prometheus_client import REGISTRY

from discovery.clock import SystemClock
from discovery.ids import Snowflakes
from discovery.mesh import Mesh
from discovery.registry.embedded import EmbeddedRegistry
from discovery.rpc.dispatcher import Dispatcher
from discovery.rpc.server import RpcServer
from discovery.rpc.tls import TlsError, open_credentials
from discovery.rpc.tokens import ResumeTokens, TokenVerifier
from edge.gateway import Gateway
from edge.health import HealthReport
from edge.http import build_app
from edge.server import EdgeServer
from services.config import Config, ConfigError
from services.data_directory import DataDirectory, Running
from services.directory.service import Directory
from services.directory.tokens import TokenIssuer
from services.location.service import Location
from services.messaging.service import Messaging
from services.ports.bus import Bus
from services.ports.cache import Cache
from services.presence.service import Presence
from services.push.service import Push
from services.sessions.service import Sessions
from services.storage.memory.bus import MemoryBus
from services.storage.memory.cache import MemoryCache
from services.storage.sql.directory import SqlDirectoryStore, sqlite_url
from services.storage.sqlite.devices import SqliteDeviceStore
from services.storage.sqlite.log import SqliteLog
from services.storage.sqlite.messages import SqliteMessageStore

log = structlog.get_logger(__name__)

_LOOPBACK = "127.0.0.1"


class Service(Protocol):
    """What the process needs of a service: its servicer, and the background work that it owns."""

    @property
    def servicer(self) -> object:
        """Answers the service's RPCs."""

    async def run(self) -> None:
        """Works until cancelled; raises when a part of it dies."""


@dataclass(frozen=True, slots=True)
class Engines:
    """The embedded engines, open."""

    log: SqliteLog
    messages: SqliteMessageStore
    devices: SqliteDeviceStore
    directory: SqlDirectoryStore
    cache: Cache
    bus: Bus


async def run_whole(config: Config, announce: Callable[[str], None]) -> None:
    """Runs everything until SIGTERM or SIGINT, then drains. `announce` gets the public URL once all is ready.

    Raises ConfigError for settings that are not safe, DataDirectoryBusy if another process holds the data, and whatever
    ended a part that should have gone on.
    """
    _refuse_plaintext_off_loopback(config)
    data = DataDirectory(Path(config.process.data))
    with data.exclusively():
        try:
            data.fix_partitions(config.process.partitions)
        except ValueError as error:
            raise ConfigError(str(error)) from error
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        log.info("starting", version=version("hither"), cluster=data.cluster, settings=config.shown())
        async with _engines(config, data) as engines:
            await _Whole(config, data, engines).run(announce, stop)
    log.info("stopped")


@asynccontextmanager
async def _engines(config: Config, data: DataDirectory) -> AsyncIterator[Engines]:
    async with AsyncExitStack() as stack:
        log_ = await SqliteLog.open(data.database("log"))
        stack.push_async_callback(log_.close)
        messages = await SqliteMessageStore.open(data.database("messages"))
        stack.push_async_callback(messages.close)
        devices = await SqliteDeviceStore.open(data.database("devices"))
        stack.push_async_callback(devices.close)
        directory = await SqlDirectoryStore.open(sqlite_url(data.database("directory")))
        stack.push_async_callback(directory.close)
        cache = MemoryCache(SystemClock(), config.process.cache_keys)
        stack.push_async_callback(cache.close)
        bus = MemoryBus()
        stack.push_async_callback(bus.close)
        yield Engines(log_, messages, devices, directory, cache, bus)


class _Whole:
    """One process that is every service and an edge."""

    def __init__(self, config: Config, data: DataDirectory, engines: Engines) -> None:
        self._config = config
        self._data = data
        self._engines = engines
        self._clock = SystemClock()
        self._verifier = TokenVerifier(data.keys.verify_pem, data.cluster, self._clock)
        try:
            self._credentials = open_credentials(config.tls)
        except TlsError as error:
            raise ConfigError(f"tls: {error}") from error

    async def run(self, announce: Callable[[str], None], stop: asyncio.Event) -> None:
        """Serves until `stop` is set, then drains. Raises what ended a part before that."""
        config, clock = self._config, self._clock
        registry = EmbeddedRegistry(clock)
        async with Mesh(
            registry,
            Dispatcher(),
            partitions=config.process.partitions,
            service_name="hither",
            clock=clock,
            credentials=self._credentials,
            version=version("hither"),
        ) as mesh:
            services = self._make_services(mesh)
            for name, service in services.items():
                mesh.dispatcher.add(service.servicer, f"hither.{name}.v1.{name.title()}Service")
            edge = self._make_edge(mesh, services)
            address = f"{_LOOPBACK}:{config.process.grpc_port}"
            async with RpcServer(mesh, self._verifier, address, credentials=self._credentials) as server:
                await mesh.serve(server.address)
                async with (
                    edge,
                    _at_work({**{name: service.run for name, service in services.items()}, "edge": edge.run}),
                ):
                    await edge.serving.wait()
                    url = f"http://{edge.address}"
                    self._data.announce(Running(os.getpid(), url, server.address))
                    gc.collect()
                    gc.freeze()  # what was made at start stays: the collector need not look at it again and again
                    announce(url)
                    await stop.wait()
                    log.info("draining", window_s=config.process.drain_s)
                    self._data.retract()
                    await edge.drain(config.process.drain_s)
                    await server.drain(config.process.drain_s)
        await registry.close()

    def _make_services(self, mesh: Mesh) -> dict[str, Service]:
        config, engines, clock = self._config, self._engines, self._clock
        issuer = TokenIssuer(self._data.keys.signing_pem, self._data.cluster, clock)
        snowflakes = Snowflakes(mesh.instance_number, clock)
        return {
            "directory": Directory(mesh, engines.directory, engines.bus, issuer, snowflakes, clock, config.directory),
            "sessions": Sessions(mesh, engines.cache, engines.devices, clock, config.sessions),
            "messaging": Messaging(
                mesh, engines.log, engines.messages, engines.bus, snowflakes, clock, config.messaging
            ),
            "presence": Presence(mesh, engines.cache, engines.bus, clock, config.presence),
            "location": Location(),
            "push": Push(),
        }

    def _make_edge(self, mesh: Mesh, services: Mapping[str, Service]) -> EdgeServer:
        config, clock = self._config, self._clock
        resume = ResumeTokens(self._data.keys.resume_key, self._data.cluster, clock)
        gateway = Gateway(mesh, self._verifier, resume, f"edge-{mesh.instance_id}", config.edge, clock)
        messaging = services["messaging"]
        assert isinstance(messaging, Messaging)

        def health() -> HealthReport:
            return HealthReport({"messaging": "; ".join(str(problem) for problem in messaging.health())})

        app = build_app(gateway, config.http, health, REGISTRY, clock)
        return EdgeServer(gateway, app, host=config.process.host, port=config.process.port)


@asynccontextmanager
async def _at_work(parts: Mapping[str, Callable[[], Awaitable[None]]]) -> AsyncIterator[None]:
    """Runs the parts for the time of the block. One that ends before is an error that ends the block and the others."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(_forever(name, part), name=name) for name, part in parts.items()]
        yield
        for task in tasks:
            task.cancel()


async def _forever(name: str, part: Callable[[], Awaitable[None]]) -> None:
    await part()
    raise RuntimeError(f"{name} ended by itself")


def _refuse_plaintext_off_loopback(config: Config) -> None:
    host = config.process.host
    if config.process.behind_tls_proxy or host == "localhost":
        return
    try:
        loopback = ipaddress.ip_address(host).is_loopback
    except ValueError:
        loopback = False
    if not loopback:
        raise ConfigError(
            f"{host} is not loopback, and Hither itself speaks no TLS: put a TLS proxy in front and say --behind-tls-proxy"
        )
