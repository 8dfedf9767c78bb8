"""Wires a process: engines, services, mesh and edge; and takes it down again in order.

A process is some of the services, an edge, or both: `run_whole` is all of it on embedded engines, the others are what runs
apart. The only room that knows both the services and the engines. It decides nothing that a message could notice.
"""

import asyncio
import gc
import ipaddress
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from importlib.metadata import version
from pathlib import Path

import structlog
from prometheus_client import REGISTRY

from discovery.clock import SystemClock
from discovery.ids import Snowflakes
from discovery.mesh import Mesh
from discovery.registry.port import Registry
from discovery.rpc.call import Caller, Role
from discovery.rpc.dispatcher import Dispatcher
from discovery.rpc.server import RpcServer
from discovery.rpc.tokens import ResumeTokens, TokenVerifier
from edge.gateway import Gateway
from edge.health import HealthReport
from edge.http import build_app
from edge.server import EdgeServer
from services.catalogue import NAMES, HandsOver, Service, TellsHealth, Wiring, make_service
from services.config import Config, ConfigError
from services.data_directory import DataDirectory, Running
from services.directory.tokens import TokenIssuer
from services.engines import Engines, open_engines
from services.registries import EMBEDDED, open_registry

log = structlog.get_logger(__name__)

_PARTITIONS_WHOLE = 4
PARTITIONS_APART = 256
_PROCESS_TOKEN_S = 3600


Announce = Callable[[str], None]
"""Told once where the process can be reached, when all is ready."""


async def run_whole(config: Config, announce: Announce) -> None:
    """Runs everything until SIGTERM or SIGINT, then drains. `announce` gets the public URL.

    Raises ConfigError for settings that are not safe, DataDirectoryBusy if another process holds the data, and whatever
    ended a part that should have gone on.
    """
    data = DataDirectory(Path(config.process.data))
    with data.exclusively():
        process = _Process(config, data, config.process.partitions or _PARTITIONS_WHOLE)
        await process.run(NAMES, with_edge=True, announce=announce)


async def run_services(names: Sequence[str], config: Config, announce: Announce) -> None:
    """Runs these services (of NAMES) until SIGTERM or SIGINT, then hands over and drains. `announce` gets the gRPC address.

    Raises as run_whole does. Any number of processes may share a data directory: they take the keys from it.
    """
    await _apart(config).run(names, with_edge=False, announce=announce)


async def run_edge(config: Config, announce: Announce) -> None:
    """Runs an edge until SIGTERM or SIGINT, then drains. `announce` gets the public URL. Raises as run_whole does."""
    await _apart(config).run((), with_edge=True, announce=announce)


def _apart(config: Config) -> "_Process":
    if config.mesh.registry == EMBEDDED:
        raise ConfigError(
            "mesh: processes that run apart find each other in a registry: say --registry etcd://HOST:PORT"
        )
    data = DataDirectory(Path(config.process.data))
    return _Process(config, data, config.process.partitions or PARTITIONS_APART)


class _Process:
    """Some services, an edge, or both, in one process."""

    def __init__(self, config: Config, data: DataDirectory, partitions: int) -> None:
        self._config = config
        self._data = data
        self._partitions = partitions
        self._clock = SystemClock()
        self._verifier = TokenVerifier(data.keys.verify_pem, data.cluster, self._clock)
        self._services: dict[str, Service] = {}

    async def run(self, names: Sequence[str], *, with_edge: bool, announce: Announce) -> None:
        """Serves until SIGTERM or SIGINT, then drains. Raises what ended a part before that."""
        config, data = self._config, self._data
        if with_edge:
            _refuse_plaintext_off_loopback(config)
        try:
            data.fix_partitions(self._partitions)
        except ValueError as error:
            raise ConfigError(str(error)) from error
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        log.info("starting", version=version("hither"), cluster=data.cluster, settings=config.shown())
        async with (
            open_engines(config, data, self._partitions) as engines,
            open_registry(config.mesh, data.cluster, self._clock) as registry,
        ):
            await self._join(names, engines, registry, with_edge, announce, stop)
        log.info("stopped")

    async def _join(
        self,
        names: Sequence[str],
        engines: Engines,
        registry: Registry,
        with_edge: bool,
        announce: Announce,
        stop: asyncio.Event,
    ) -> None:
        mesh_settings = self._config.mesh
        async with Mesh(
            registry,
            Dispatcher(),
            partitions=self._partitions,
            service_name="+".join(names) if 0 < len(names) < len(NAMES) else "hither" if names else "edge",
            clock=self._clock,
            token=self._process_token(),
            version=version("hither"),
            weight=mesh_settings.weight,
        ) as mesh:
            snowflakes = Snowflakes(mesh.instance_number, self._clock)
            wiring = Wiring(mesh, engines, self._data, snowflakes, self._config, self._clock)
            self._services = {name: await make_service(name, wiring) for name in names}
            async with (
                RpcServer(mesh, self._verifier, mesh_settings.listen) as server,
                _at_work({name: service.run for name, service in self._services.items()}),
            ):
                if with_edge:
                    await self._serve_with_edge(mesh, server, announce, stop)
                else:
                    await mesh.serve(mesh_settings.advertise or server.address)
                    _settle_memory()
                    announce(server.address)
                    await stop.wait()
                log.info("draining", window_s=self._config.process.drain_s)
                await self._hand_over(server)
                await server.drain(self._config.process.drain_s)

    async def _serve_with_edge(self, mesh: Mesh, server: RpcServer, announce: Announce, stop: asyncio.Event) -> None:
        """Serves clients until `stop` is set, then sends them elsewhere."""
        async with self._make_edge(mesh) as edge:
            await mesh.serve(self._config.mesh.advertise or server.address)
            async with _at_work({"edge": edge.run}):
                await edge.serving.wait()
                url = f"http://{edge.address}"
                if self._services:
                    self._data.announce(Running(os.getpid(), url, server.address))
                _settle_memory()
                announce(url)
                await stop.wait()
                self._data.retract()
                await edge.drain(self._config.process.drain_s)

    async def _hand_over(self, server: RpcServer) -> None:
        """Tells everyone to call elsewhere, and finishes what the partitions of this process still hold."""
        await server.retire()
        try:
            async with asyncio.timeout(self._config.process.drain_s):
                for service in self._services.values():
                    if isinstance(service, HandsOver):
                        await service.handed_over()
        except TimeoutError:
            # Nothing is lost by it: the new owners apply again what was not committed here.
            log.warning("handing over took too long", limit_s=self._config.process.drain_s)

    def _process_token(self) -> Callable[[], str] | None:
        """Tokens for calls to other processes, if the key that signs them is here; certificates do without."""
        if not self._data.keys.signing_pem:
            return None
        issuer = TokenIssuer(self._data.keys.signing_pem, self._data.cluster, self._clock)
        return ProcessToken(issuer, self._clock)

    def _make_edge(self, mesh: Mesh) -> EdgeServer:
        config, clock = self._config, self._clock
        resume = ResumeTokens(self._data.keys.resume_key, self._data.cluster, clock)
        gateway = Gateway(mesh, self._verifier, resume, f"edge-{mesh.instance_id}", config.edge, clock)
        app = build_app(gateway, config.http, self._health, REGISTRY, clock)
        return EdgeServer(gateway, app, host=config.process.host, port=config.process.port)

    def _health(self) -> HealthReport:
        return HealthReport(
            {
                name: "; ".join(str(problem) for problem in service.health())
                for name, service in self._services.items()
                if isinstance(service, TellsHealth)
            }
        )


class ProcessToken:
    """The SERVICE token with which a process calls others: one for an hour, a new one when half of it is over."""

    def __init__(self, issuer: TokenIssuer, clock: SystemClock) -> None:
        self._issuer = issuer
        self._clock = clock
        self._token = ""
        self._renew_s = 0.0

    def __call__(self) -> str:
        """A token that is good for half an hour at least."""
        now_s = self._clock.monotonic_s()
        if not self._token or now_s >= self._renew_s:
            self._token = self._issuer.issue(Caller(Role.SERVICE, service="mesh"), ttl_s=_PROCESS_TOKEN_S)
            self._renew_s = now_s + _PROCESS_TOKEN_S / 2
        return self._token


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


def _settle_memory() -> None:
    """What was made at start stays: the collector need not look at it again and again."""
    gc.collect()
    gc.freeze()


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
