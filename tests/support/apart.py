"""Runs Hither apart: every service and edge in a process of its own, on real servers, with the face of one Hither."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx

from tests.support.runner import HitherProcess, run_hither, websocket_url
from tests.support.servers.cassandra import CassandraServer
from tests.support.servers.etcd import EtcdCluster
from tests.support.servers.kafka import KafkaServer
from tests.support.servers.postgresql import PostgresqlServer
from tests.support.servers.process import free_port
from tests.support.servers.redis import RedisServer

SERVICES = ("directory", "sessions", "messaging", "presence", "location", "push")
TWO_OF_EACH = tuple((service,) for service in SERVICES for _ in range(2))
"""Twelve processes, each of one service."""
TWO_OF_ALL = (SERVICES, SERVICES)
"""Two processes, each of all services."""
EDGES = 2
PARTITIONS = 16


@dataclass(frozen=True, slots=True)
class Servers:
    """The engines and the registry, for as many clusters as the run starts. They share a Redis: ids of different clusters
    must differ.
    """

    etcd: EtcdCluster
    kafka: KafkaServer
    cassandra: CassandraServer
    postgresql: PostgresqlServer
    redis: RedisServer

    def settings(self) -> dict[str, str]:
        """The settings of a new cluster on these servers, with data of its own."""
        name = f"c{uuid4().hex[:12]}"
        return {
            "HITHER_PROCESS_PARTITIONS": str(PARTITIONS),
            "HITHER_MESH_REGISTRY": f"etcd://{','.join(self.etcd.endpoints)}",
            "HITHER_ENGINES_LOG": f"kafka://{self.kafka.address}?prefix={name}.",
            "HITHER_ENGINES_MESSAGES": (cassandra := f"cassandra://127.0.0.1:{self.cassandra.port}/{name}"),
            "HITHER_ENGINES_HISTORY": cassandra,
            "HITHER_ENGINES_DIRECTORY": (database := self.postgresql.new_database()),
            "HITHER_ENGINES_DEVICES": database,
            "HITHER_ENGINES_PRIVACY": database,
            "HITHER_ENGINES_PUSH": database,
            "HITHER_ENGINES_CACHE": self.redis.url,
            "HITHER_ENGINES_BUS": self.redis.url,
        }


@contextmanager
def running_servers(folder: Path) -> Iterator[Servers]:
    """All of them, with their data in this folder (PostgreSQL's: in one of its own) and gone at the end. Raises ServerMissing and
    ServerFailed.
    """
    with ExitStack() as stack:
        yield Servers(
            stack.enter_context(EtcdCluster(folder / "etcd")),
            stack.enter_context(KafkaServer(folder / "kafka")),
            stack.enter_context(CassandraServer(folder / "cassandra")),
            stack.enter_context(PostgresqlServer()),
            stack.enter_context(RedisServer(folder / "redis")),
        )


class RunningCluster:
    """A cluster of processes: `processes` by name, such as "messaging-1" and "edge-2". Also behaves as one RunningHither."""

    def __init__(
        self, data: Path, servers: Servers, settings: Mapping[str, str], layout: Sequence[Sequence[str]], edges: int
    ) -> None:
        self.data = data
        self.settings = {**servers.settings(), **settings}
        self.processes: dict[str, HitherProcess] = {}
        self.urls: list[str] = []
        self._turns: Iterator[str] = iter(())
        self._ports: dict[str, int] = {}
        self._operators_ports: dict[str, int] = {}
        self._keepers: list[HitherProcess] = []
        self._folder = data.parent / f"{data.name}-logs"
        self._folder.mkdir()
        for services in layout:
            self.add_services(services)
        for number in range(1, edges + 1):
            self._ports[f"edge-{number}"] = 0
            self.processes[f"edge-{number}"] = self._process(f"edge-{number}", "edge")

    @property
    def url(self) -> str:
        """Of the first edge."""
        return self.urls[0]

    @property
    def websocket_url(self) -> str:
        """Where WebSocket clients connect: at another edge each time, so that who talks to each other is on several."""
        return websocket_url(next(self._turns))

    def add_services(self, services: Sequence[str]) -> str:
        """One more process of these services, not started yet; its name."""
        kind = services[0] if len(services) == 1 else "services"
        name = next(name for number in range(1, 100) if (name := f"{kind}-{number}") not in self.processes)
        self.processes[name] = self._process(name, "serve", *services)
        return name

    def add_bus_server(self, url: str) -> None:
        """One more process, which keeps the Redis at this URL among those of the bus; not started yet."""
        log = self._folder / f"bus-server-{len(self._keepers) + 1}.log"
        command = ("bus-server", url, "--data", str(self.data))
        self._keepers.append(HitherProcess(command, log, self.settings, " announced"))

    async def start(self) -> None:
        """Starts all processes: the keepers of the bus's servers first, then the services."""
        for keeper in self._keepers:
            await keeper.start()
        edges = [name for name in self.processes if name in self._ports]
        await self._start_all([name for name in self.processes if name not in self._ports])
        self.urls = await self._start_all(edges)
        self._turns = cycle(self.urls)

    async def start_one(self, name: str) -> str:
        """Starts a process (again); returns where it is ready. An edge keeps its port."""
        if name not in self._ports:
            return await self.processes[name].start()
        url = await self.processes[name].start("--port", str(self._ports[name]))
        self._ports[name] = int(url.rpartition(":")[2])
        return url

    async def kill(self) -> None:
        """kill -9 for all."""
        await asyncio.gather(*(process.kill() for process in (*self.processes.values(), *self._keepers)))

    async def terminate(self) -> int:
        """SIGTERM for all, the edges first; the highest exit status."""
        statuses = []
        for of_edges in (True, False):
            ending = [process for name, process in self.processes.items() if (name in self._ports) is of_edges]
            statuses += await asyncio.gather(*(process.terminate() for process in ending))
        statuses += await asyncio.gather(*(keeper.terminate() for keeper in self._keepers))
        return max(statuses)

    async def token(self, user_id: str, device_id: str) -> str:
        """A token as an operator makes one."""
        return (await self.run("token", user_id, "--device", device_id)).strip()

    async def run(self, *arguments: str) -> str:
        """Output of another `hither` command on the same data. Fails if it does."""
        return await run_hither((*arguments, "--data", str(self.data)), self.settings)

    async def health(self, name: str) -> dict[str, Any]:
        """What /readyz of a process of services says."""
        async with httpx.AsyncClient() as http:
            answer = await http.get(f"http://127.0.0.1:{self._operators_ports[name]}/readyz")
        return answer.json()  # type: ignore[no-any-return]

    def log(self) -> str:
        """The ends of all logs."""
        return "\n".join(f"--- {name}\n{process.log()}" for name, process in self.processes.items())

    async def _start_all(self, names: Sequence[str]) -> list[str]:
        return list(await asyncio.gather(*(self.start_one(name) for name in names)))

    def _process(self, name: str, *arguments: str) -> HitherProcess:
        command = (*arguments, "--data", str(self.data))
        port = self._operators_ports[name] = free_port()
        settings = {**self.settings, "HITHER_TELEMETRY_METRICS_PORT": str(port)}
        return HitherProcess(command, self._folder / f"{name}.log", settings)


@asynccontextmanager
async def running_cluster(
    data: Path,
    servers: Servers,
    settings: Mapping[str, str] | None = None,
    layout: Sequence[Sequence[str]] = TWO_OF_ALL,
    edges: int = EDGES,
) -> AsyncIterator[RunningCluster]:
    """A started cluster; its processes are killed at the end."""
    cluster = RunningCluster(data, servers, settings or {}, layout, edges)
    try:
        await cluster.start()
        yield cluster
    finally:
        await cluster.kill()
