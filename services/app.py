"""Wires a process: engines, services, mesh and edge; and takes it down again in order.

A process is some of the services, an edge, or both: `run_whole` is all of it on embedded engines, the others are what runs
apart. The only room that knows both the services and the engines. It decides nothing that a message could notice.
"""

import asyncio
import gc
import ipaddress
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict
from functools import partial
from importlib.metadata import version
from pathlib import Path

import structlog
from prometheus_client import REGISTRY

from discovery.clock import Clock, SystemClock
from discovery.health import HealthReport
from discovery.ids import Snowflakes
from discovery.membership import OtherPartitions
from discovery.mesh import Mesh
from discovery.registry.port import Registry
from discovery.rpc.call import Caller, Role
from discovery.rpc.dispatcher import Dispatcher
from discovery.rpc.metrics_server import MetricsServer
from discovery.rpc.server import RpcServer
from discovery.rpc.tls import TlsError, open_credentials
from discovery.rpc.tokens import ResumeTokens, TokenVerifier
from edge.gateway import Gateway
from edge.http import build_app
from edge.server import EdgeServer
from services.catalogue import NAMES, HandsOver, Service, TellsHealth, Wiring, make_service
from services.config import Config, ConfigError
from services.data_directory import DataDirectory, Running
from services.directory.tokens import TokenIssuer
from services.edge_processes import EdgeCommand, EdgeProcesses, shared_port
from services.engine_health import EngineHealth
from services.engines import open_engines
from services.messaging.service import SERVICE as MESSAGING
from services.registries import EMBEDDED, open_registry

log = structlog.get_logger(__name__)

_PARTITIONS_WHOLE = 4
PARTITIONS_APART = 256
_PROCESS_TOKEN_S = 3600
_SYSTEM_CLOCK = SystemClock()

Announce = Callable[[str], None]
"""Told once where the process can be reached, when all is ready."""
Serve = Callable[[Mesh, RpcServer], Awaitable[None]]
"""Opens a process to its callers, and returns when it is time to stop."""


async def run_whole(
    config: Config,
    announce: Announce,
    edges: int = 0,
    config_file: Path | None = None,
    clock: Clock = _SYSTEM_CLOCK,
) -> None:
    """Runs everything until SIGTERM or SIGINT, then drains. `announce` gets the public URL.

    With `edges`, that many processes beside this one are the edge, and this one serves them the registry; they read the same
    environment, and `config_file`. `clock` is what services, edge and embedded engines go by; the mesh and its leases always go
    by the machine's.

    Raises ConfigError for settings that are not safe, DataDirectoryBusy if another process holds the data, and whatever
    ended a part that should have gone on.
    """
    data = DataDirectory(Path(config.process.data))
    with data.exclusively():
        process = _Process(config, data, config.process.partitions or data.partitions() or _PARTITIONS_WHOLE, clock)
        _refuse_plaintext_off_loopback(config)
        front = partial(process.serve_with_edges, edges, config_file) if edges else process.serve_with_edge
        await process.run(NAMES, partial(front, announce))


async def run_services(names: Sequence[str], config: Config, announce: Announce) -> None:
    """Runs these services (of NAMES) until SIGTERM or SIGINT, then hands over and drains. `announce` gets the gRPC address.

    Raises as run_whole does. Any number of processes may share a data directory: they take the keys from it.
    """
    embedded = [engine for engine, url in asdict(config.engines).items() if url == EMBEDDED]
    if embedded:
        # Their files and memory are one process's: another one of the cluster would see other data.
        raise ConfigError(f"engines: {', '.join(embedded)}: services that run apart need engines that they can share")
    process = _apart(config)
    await process.run(names, partial(process.serve_alone, announce))


async def run_edge(config: Config, announce: Announce, with_parent: bool = False) -> None:
    """Runs an edge until SIGTERM or SIGINT, then drains. `announce` gets the public URL. Raises as run_whole does.

    `with_parent` also ends it when standard input does.
    """
    _refuse_plaintext_off_loopback(config)
    process = _apart(config)
    if with_parent:
        await process.stop_with_parent()
    await process.run((), partial(process.serve_with_edge, announce))


def _apart(config: Config) -> "_Process":
    if config.mesh.registry == EMBEDDED:
        raise ConfigError(
            "mesh: processes that run apart find each other in a registry: say --registry etcd://HOST:PORT"
        )
    data = DataDirectory(Path(config.process.data))
    return _Process(config, data, config.process.partitions or data.partitions() or PARTITIONS_APART, _SYSTEM_CLOCK)


class _Process:
    """Some services, an edge, or both, in one process."""

    def __init__(self, config: Config, data: DataDirectory, partitions: int, clock: Clock) -> None:
        self._config = config
        self._data = data
        self._partitions = partitions
        self._clock = clock
        self._verifier = TokenVerifier(data.keys.verify_pem, data.cluster, self._clock)
        self._services: dict[str, Service] = {}
        self._engine_health = EngineHealth(self._clock)
        self._stop = asyncio.Event()
        try:
            self._credentials = open_credentials(config.tls)
        except TlsError as error:
            raise ConfigError(f"tls: {error}") from error
        # Without certificates, tokens say which process calls; they need the key that signs them.
        signing = b"" if self._credentials else data.keys.signing_pem
        self._token = ProcessToken(TokenIssuer(signing, data.cluster, self._clock), self._clock) if signing else None

    async def run(self, names: Sequence[str], serve: Serve) -> None:
        """Makes the services, has `serve` serve until SIGTERM or SIGINT, then drains. Raises what ended a part before that."""
        config, data = self._config, self._data
        try:
            data.fix_partitions(self._partitions)
        except ValueError as error:
            raise ConfigError(str(error)) from error
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, self._stop.set)
        log.info("starting", version=version("hither"), cluster=data.cluster, settings=config.shown())
        async with (
            open_registry(config.mesh, data.cluster, _SYSTEM_CLOCK, self._token, self._credentials) as registry,
            open_engines(config, data, self._partitions, registry, self._engine_health, self._clock) as engines,
            self._joined(names, registry) as mesh,
        ):
            snowflakes = Snowflakes(mesh.instance_number, self._clock)
            wiring = Wiring(mesh, engines, data, snowflakes, config, self._clock)
            self._services = {name: await make_service(name, wiring) for name in names}
            async with (
                self._in_sight(mesh, names),
                self._make_server(mesh, registry) as server,
                _at_work({name: service.run for name, service in self._services.items()}),
            ):
                await serve(mesh, server)
                log.info("draining", window_s=config.process.drain_s)
                await self._hand_over(server)
                await server.drain(config.process.drain_s)
        log.info("stopped")

    @asynccontextmanager
    async def _in_sight(self, mesh: Mesh, names: Sequence[str]) -> AsyncIterator[None]:
        """What the process sees of the mesh stands in its metrics, and its spans go where they are wanted, while the block
        runs.
        """
        with mesh.ring_metrics.shown_in(REGISTRY), mesh.stream_metrics.shown_in(REGISTRY):
            if not self._config.telemetry.otlp_endpoint:
                yield
                return
            from discovery.rpc.exporting import Origin, exporting_spans  # a fifth of a second that few processes need

            async with exporting_spans(
                self._config.telemetry, Origin(_kind(names), mesh.instance_id, version("hither"))
            ):
                yield

    async def serve_alone(self, announce: Announce, mesh: Mesh, server: RpcServer) -> None:
        """Serves the services until it is time to stop."""
        telemetry = self._config.telemetry
        async with MetricsServer(self._health, telemetry.metrics_host, telemetry.metrics_port):
            await self._open(mesh, server)
            announce(server.address)
            await self._stop.wait()

    async def serve_with_edge(self, announce: Announce, mesh: Mesh, server: RpcServer) -> None:
        """Serves clients too, until it is time to stop; then sends them elsewhere."""
        async with self._make_edge(mesh) as edge:
            await self._open(mesh, server)
            async with _at_work({"edge": edge.run}):
                await edge.serving.wait()
                url = f"http://{edge.address}"
                self._announce(url, server)
                announce(url)
                await self._stop.wait()
                self._data.retract()
                await edge.drain(self._config.process.drain_s)

    async def serve_with_edges(
        self, count: int, config_file: Path | None, announce: Announce, mesh: Mesh, server: RpcServer
    ) -> None:
        """Serves the services and, from processes beside this one, clients, until it is time to stop; then stops the edges."""
        process = self._config.process
        await self._open(mesh, server)
        telemetry = self._config.telemetry
        async with (
            MetricsServer(self._health, telemetry.metrics_host, telemetry.metrics_port),
            shared_port(process.host, process.port) as port,
        ):
            command = EdgeCommand(
                registry=f"grpc://{server.address}",
                host=process.host,
                port=port,
                data=self._data.path,
                behind_tls_proxy=process.behind_tls_proxy,
                config_file=config_file,
                drain_s=process.drain_s,
            )
            edges = EdgeProcesses(command, count)
            async with _at_work({"edges": edges.run}):
                await edges.ready.wait()
                url = f"http://{process.host}:{port}"
                self._announce(url, server)
                announce(url)
                await self._stop.wait()
                self._data.retract()

    async def stop_with_parent(self) -> None:
        """From now on the end of standard input means that it is time to stop."""
        self._parent, _ = await asyncio.get_running_loop().connect_read_pipe(lambda: _UntilEnd(self._stop), sys.stdin)

    async def _open(self, mesh: Mesh, server: RpcServer) -> None:
        """Lets the mesh call this process."""
        await mesh.serve(self._config.mesh.advertise or server.address)
        gc.collect()
        gc.freeze()  # what was made at start stays: the collector need not look at it again and again

    def _announce(self, url: str, server: RpcServer) -> None:
        """Lets operators on this machine find the process, if it is the one that holds the data."""
        if self._services:
            self._data.announce(Running(os.getpid(), url, server.address))

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

    @asynccontextmanager
    async def _joined(self, names: Sequence[str], registry: Registry) -> AsyncIterator[Mesh]:
        mesh = self._make_mesh(names, registry)
        try:
            await mesh.__aenter__()
        except OtherPartitions as error:
            raise ConfigError(f"process: partitions: {error}") from error
        async with AsyncExitStack() as stack:
            stack.push_async_exit(mesh)
            yield mesh

    def _make_mesh(self, names: Sequence[str], registry: Registry) -> Mesh:
        return Mesh(
            registry,
            Dispatcher(),
            partitions=self._partitions,
            service_name=_kind(names),
            clock=_SYSTEM_CLOCK,
            token=self._token,
            credentials=self._credentials,
            version=version("hither"),
            weight=self._config.mesh.weight,
            region=self._config.mesh.region,
            zone=self._config.mesh.zone,
        )

    def _make_server(self, mesh: Mesh, registry: Registry) -> RpcServer:
        settings = self._config.mesh
        # A registry in this process's memory is served to the edges beside it.
        held = registry if settings.registry == EMBEDDED else None
        return RpcServer(mesh, self._verifier, settings.listen, credentials=self._credentials, registry=held)

    def _make_edge(self, mesh: Mesh) -> EdgeServer:
        config, clock = self._config, self._clock
        resume = ResumeTokens(self._data.keys.resume_key, self._data.cluster, clock)
        gateway = Gateway(mesh, self._verifier, resume, _edge_id(mesh), config.edge, clock)
        app = build_app(gateway, config.http, partial(self._health_at, mesh), REGISTRY, clock)
        return EdgeServer(gateway, app, host=config.process.host, port=config.process.port)

    def _health_at(self, mesh: Mesh) -> HealthReport:
        """An edge is ready for clients when somebody can take their messages."""
        reachable = "" if mesh.view.of(MESSAGING).serving else "no messaging instance serves"
        own = self._health()
        return HealthReport({**own.parts, "mesh": reachable}, own.engines)

    def _health(self) -> HealthReport:
        return HealthReport(
            {
                name: "; ".join(str(problem) for problem in service.health())
                for name, service in self._services.items()
                if isinstance(service, TellsHealth)
            },
            self._engine_health.problems(),
        )


def _kind(names: Sequence[str]) -> str:
    """What a process of these services is called."""
    if len(names) <= 1:
        return names[0] if names else "edge"
    return "hither" if len(names) == len(NAMES) else "services"


def _edge_id(mesh: Mesh) -> str:
    return mesh.instance_id if mesh.instance_id.startswith("edge-") else f"edge-{mesh.instance_id}"


class ProcessToken:
    """The SERVICE token with which a process calls others: one for an hour, a new one when half of it is over."""

    def __init__(self, issuer: TokenIssuer, clock: Clock) -> None:
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


class _UntilEnd(asyncio.Protocol):
    """Reads what nobody writes, until its end."""

    def __init__(self, ended: asyncio.Event) -> None:
        self._ended = ended

    def connection_lost(self, exc: Exception | None) -> None:
        """The other end is closed."""
        self._ended.set()


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
