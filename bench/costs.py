"""`python -m bench.costs`: what one message, connection and location update costs each process and each engine.

Everything runs on this machine: the real servers of the tests (one node each, small heaps, the JVMs with their first compiler
only), each service and an edge in a process of its own, and the load. What idles is measured first and taken off. The figures
go to `services/planning/costs.json`, which `hither plan` reads. With loads as small as these, batches hold an item or two: what
one costs is more than it is where many come at once.
"""

import asyncio
import contextlib
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import ExitStack, asynccontextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import redis.asyncio
import uvloop
from cassandra.cluster import Cluster
from cassandra.concurrent import execute_concurrent_with_args

from bench.latency import LatencyBench
from bench.peer import Peer, connect_peers, disconnect
from bench.processes import machine, rss_bytes
from bench.server import RAISED_LIMITS
from hither_client import RestClient
from tests.support.apart import RunningCluster, Servers
from tests.support.servers.cassandra import CassandraServer
from tests.support.servers.etcd import EtcdCluster
from tests.support.servers.kafka import KafkaServer
from tests.support.servers.postgresql import PostgresqlServer
from tests.support.servers.redis import RedisServer

RESULTS = Path(__file__).parent / "results" / "latest.json"
OUT = Path(__file__).parents[1] / "services" / "planning" / "costs.json"

_SERVICES = ("directory", "sessions", "messaging", "presence")
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_PASSWORD = "correct horse battery"
_USERS = 100
_CONNECTIONS = 2000
_PER_S = 100.0
_IDLE_S = 20.0
_WARM_S = 15.0
_MEASURE_S = 30.0
_HOLD_S = 60.0
_PING_S = 30.0
_SETTLE_S = 5.0
_POINTS = 100_000
_ROWS = 40_000
_PIPELINE = 50


@dataclass(frozen=True, slots=True)
class Cost:
    """What one of `what` costs at `where`. A figure that was not measured, or does not exist there, is zero."""

    what: str
    where: str
    cpu_us: float = 0.0
    disk_bytes: float = 0.0
    memory_bytes: float = 0.0
    source: str = "bench.costs"
    """Which benchmark measured it."""


@dataclass(slots=True)
class Measured:
    """What was found so far."""

    costs: list[Cost] = field(default_factory=list)
    idle_share: dict[str, float] = field(default_factory=dict)
    """CPU of a part that has nothing to do; 1.0 is one core."""


class Parts:
    """The processes of the cluster and the engines, by name, and what they have used."""

    def __init__(self, cluster: RunningCluster, servers: Servers) -> None:
        names = {name: name.removesuffix("-1") for name in cluster.processes if name.endswith("-1")}
        self.pids = {part: cluster.processes[name].pid for name, part in names.items()} | {
            "kafka": servers.kafka.pid,
            "cassandra": servers.cassandra.pid,
            "postgresql": servers.postgresql.pid,
            "redis": servers.redis.pid,
            "etcd": servers.etcd.nodes[0].pid,
        }

    def cpu_s(self) -> dict[str, float]:
        """CPU time of each, with its children."""
        return {name: _cpu_with_children_s(pid) for name, pid in self.pids.items()}

    def rss(self) -> dict[str, int]:
        """Resident memory of the processes that are Hither's."""
        return {name: rss_bytes(self.pids[name]) for name in ("edge", *_SERVICES)}


@dataclass(frozen=True, slots=True)
class Usage:
    """Usage within a block: filled in when it ends."""

    cpu_s: dict[str, float] = field(default_factory=dict)


@asynccontextmanager
async def _using(parts: Parts, idle_share: Mapping[str, float]) -> AsyncIterator[Usage]:
    """What the block makes the parts use, beyond what they use anyway."""
    usage = Usage()
    before, begun_s = parts.cpu_s(), time.monotonic()
    yield usage
    elapsed_s = time.monotonic() - begun_s
    for name, after_s in parts.cpu_s().items():
        usage.cpu_s[name] = max(0.0, after_s - before[name] - idle_share.get(name, 0.0) * elapsed_s)


async def measure(folder: Path) -> dict[str, Any]:
    """Everything, one thing after the other."""
    found = Measured()
    with ExitStack() as stack:
        servers = Servers(
            stack.enter_context(EtcdCluster(folder / "etcd", 1)),
            stack.enter_context(KafkaServer(folder / "kafka")),
            stack.enter_context(CassandraServer(folder / "cassandra")),
            stack.enter_context(PostgresqlServer()),
            stack.enter_context(RedisServer(folder / "redis")),
        )
        settings = {**RAISED_LIMITS, "HITHER_PROCESS_PARTITIONS": "16"}
        cluster = RunningCluster(folder / "data", servers, settings, [(name,) for name in _SERVICES], edges=1)
        try:
            await cluster.start()
            parts = Parts(cluster, servers)
            await _idle(parts, found)
            await _connections(cluster, servers, parts, found)
            sent = await _messages(cluster, servers, parts, found)
        finally:
            await cluster.kill()
        await _redis_of_updates(servers, parts, found)
        await asyncio.to_thread(_history_rows, servers, found)
        keyspace = cluster.settings["HITHER_ENGINES_MESSAGES"].rpartition("/")[2]
        servers.cassandra.stop()  # it writes its tables to disk before it ends
        tables = _tables(folder / "cassandra" / "data")
    _add_disk(found, tables, keyspace, sent)
    found.costs.append(delivery())
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "commit": _commit(),
        "machine": machine(),
        "load": {"messages_per_s": _PER_S, "connections": _CONNECTIONS, "text_bytes": 100},
        "idle_share": {name: round(share, 4) for name, share in found.idle_share.items()},
        "costs": [{key: _rounded(value) for key, value in asdict(cost).items()} for cost in found.costs],
    }


async def _idle(parts: Parts, found: Measured) -> None:
    _say("nothing to do")
    await asyncio.sleep(_SETTLE_S)
    async with _using(parts, {}) as usage:
        await asyncio.sleep(_IDLE_S)
    found.idle_share = {name: used_s / _IDLE_S for name, used_s in usage.cpu_s.items()}
    found.costs += [Cost("process", name, memory_bytes=rss) for name, rss in parts.rss().items()]


async def _connections(cluster: RunningCluster, servers: Servers, parts: Parts, found: Measured) -> None:
    _say(f"{_CONNECTIONS} connections")
    users = [f"idle{number}" for number in range(_CONNECTIONS + 100)]
    tokens = await _tokens(cluster, users)
    first = await connect_peers([cluster.url], tokens[:100], _ignore)  # loads what is loaded once
    await asyncio.sleep(_SETTLE_S)
    memory, redis_bytes, database_bytes = parts.rss(), _redis_bytes(servers), _database_bytes(cluster)
    async with _using(parts, found.idle_share) as connecting:
        peers = await connect_peers([cluster.url], tokens[100:], _ignore)
        await asyncio.sleep(_SETTLE_S)  # presence gathers for a second
    grown = {name: after - memory[name] for name, after in parts.rss().items()}
    grown["redis"] = _redis_bytes(servers) - redis_bytes
    disk = {"postgresql": _database_bytes(cluster) - database_bytes}
    for name, used_s in connecting.cpu_s.items():
        found.costs.append(Cost("connect", name, used_s / len(peers) * 1e6, disk.get(name, 0) / len(peers)))
    async with _using(parts, found.idle_share) as holding:
        await _hold(first + peers)
    for name, used_s in holding.cpu_s.items():
        cpu_us = used_s / len(first + peers) / _HOLD_S * 1e6
        found.costs.append(Cost("connection_s", name, cpu_us, memory_bytes=max(0, grown.get(name, 0)) / len(peers)))
    if lost := sum(peer.lost for peer in first + peers):
        raise RuntimeError(f"{lost} connections were lost")
    disconnect(first + peers)
    await asyncio.sleep(_SETTLE_S)


async def _hold(peers: list[Peer]) -> None:
    """Keeps the connections for a minute; each pings twice in it, spread over the time."""
    begun_s = time.monotonic()
    for number in range(round(2 * len(peers) * _HOLD_S / (2 * _PING_S))):
        due_s = begun_s + number * _PING_S / len(peers)
        if (wait_s := due_s - time.monotonic()) > 0:
            await asyncio.sleep(wait_s)
        peers[number % len(peers)].send(b'{"type":"ping","timestamp":"2026-01-01T00:00:00Z"}')
    await asyncio.sleep(max(0.0, begun_s + _HOLD_S - time.monotonic()))


async def _messages(cluster: RunningCluster, servers: Servers, parts: Parts, found: Measured) -> int:
    """Returns how many were sent in all."""
    _say(f"{_PER_S:g} messages a second")
    users = [f"talker{number}" for number in range(_USERS)]
    async with RestClient(cluster.url) as rest:
        for user in users:
            await rest.sign_up(user, user, _PASSWORD)
    seeded = random.Random(1)
    texts = ["".join(seeded.choices("abcdefghijklmnopqrstuvwxyz 01234", k=100)).encode() for _ in range(1000)]
    bench = LatencyBench([cluster.url], users, await _tokens(cluster, users), [parts.pids["edge"]], texts)
    await bench.open()
    try:
        await bench.introduce()
        warm = await bench.offer(_PER_S, warm_up_s=0, measure_s=_WARM_S, drain_s=20)
        log_bytes = _log_bytes(servers)
        async with _using(parts, found.idle_share) as usage:
            run = await bench.offer(_PER_S, warm_up_s=0, measure_s=_MEASURE_S, drain_s=20)
        log_bytes = _log_bytes(servers) - log_bytes
    finally:
        await bench.close()
    if run.refused or not run.sent == run.acked == run.delivered:
        raise RuntimeError(f"{run.sent} sent, {run.acked} acked, {run.delivered} delivered, {run.refused} refused")
    disk = {"kafka": log_bytes / run.sent}
    for name, used_s in usage.cpu_s.items():
        found.costs.append(Cost("message", name, used_s / run.sent * 1e6, disk.get(name, 0.0)))
    _say(f"ack p99 {run.ack_ms['p99']:.0f} ms, recipient p99 {run.delivery_ms['p99']:.0f} ms")
    return len(users) + warm.sent + run.sent


async def _redis_of_updates(servers: Servers, parts: Parts, found: Measured) -> None:
    _say("location updates at Redis")
    value = b"%-60s" % b"a fix"
    async with redis.asyncio.Redis(port=servers.redis.port) as client:
        memory = _redis_bytes(servers)
        await client.config_resetstat()
        set_s = await _pipelined(client, parts, lambda pipe, n: pipe.set(f"location:user{n}", value, ex=600))
        found.costs.append(Cost("fix", "redis", set_s / _POINTS * 1e6, 0.0, (_redis_bytes(servers) - memory) / _POINTS))
        alone_s = await _pipelined(client, parts, lambda pipe, n: pipe.publish(f"location:user{n}", value))
        found.costs.append(Cost("publish", "redis", alone_s / _POINTS * 1e6))
        async with client.pubsub() as follower:
            await follower.psubscribe("location:*")
            reading = asyncio.create_task(_read(follower))
            followed_s = await _pipelined(client, parts, lambda pipe, n: pipe.publish(f"location:user{n}", value))
            reading.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await reading
        found.costs.append(Cost("publish_delivery", "redis", max(0.0, followed_s - alone_s) / _POINTS * 1e6))


async def _pipelined(client: Any, parts: Parts, add: Callable[[Any, int], object]) -> float:
    """CPU seconds of Redis for so many commands."""
    before_s = _cpu_with_children_s(parts.pids["redis"])
    for start in range(0, _POINTS, _PIPELINE):
        pipe = client.pipeline(transaction=False)
        for number in range(start, start + _PIPELINE):
            add(pipe, number)
        await pipe.execute()
    return _cpu_with_children_s(parts.pids["redis"]) - before_s


async def _read(follower: Any) -> None:
    async for _ in follower.listen():
        pass


def _history_rows(servers: Servers, found: Measured) -> None:
    _say("location history at Cassandra")
    cluster = Cluster(["127.0.0.1"], port=servers.cassandra.port, protocol_version=4)
    try:
        session = cluster.connect()
        session.execute(
            "CREATE KEYSPACE costs WITH replication = {'class': 'SimpleStrategy', 'replication_factor': 1}", timeout=30
        )
        session.execute(
            """CREATE TABLE costs.location_history (user_id text, day date, time timestamp, lat double, lng double,
            accuracy float, PRIMARY KEY ((user_id, day), time)) WITH CLUSTERING ORDER BY (time DESC)
            AND default_time_to_live = 604800 AND compaction = {'class': 'TimeWindowCompactionStrategy',
            'compaction_window_unit': 'DAYS', 'compaction_window_size': 1}""",
            timeout=30,
        )
        insert = session.prepare(
            "INSERT INTO costs.location_history (user_id, day, time, lat, lng, accuracy) VALUES (?, ?, ?, ?, ?, ?)"
        )
        seeded, day, start = random.Random(1), date(2026, 1, 1), 1_767_225_600_000
        rows = [
            (f"user{n % 500}", day, start + n // 500 * 30_000, seeded.uniform(-90, 90), seeded.uniform(-180, 180), 5.0)
            for n in range(_ROWS)
        ]
        execute_concurrent_with_args(session, insert, rows[: _ROWS // 4], concurrency=64)
        before_s, begun_s = _cpu_with_children_s(servers.cassandra.pid), time.monotonic()
        execute_concurrent_with_args(session, insert, rows[_ROWS // 4 :], concurrency=64)
        idle_s = found.idle_share["cassandra"] * (time.monotonic() - begun_s)
        used_s = _cpu_with_children_s(servers.cassandra.pid) - before_s - idle_s
    finally:
        cluster.shutdown()
    found.costs.append(Cost("history_row", "cassandra", used_s / (_ROWS - _ROWS // 4) * 1e6))


def _add_disk(found: Measured, tables: Mapping[str, Mapping[str, int]], keyspace: str, sent: int) -> None:
    """What Cassandra has written of the messages and the history, to the rows of the costs that they belong to."""
    disk = {
        "message": sum(tables[keyspace].values()) / sent,
        "history_row": tables["costs"]["location_history"] / _ROWS,
    }
    found.costs[:] = [
        Cost(cost.what, cost.where, cost.cpu_us, disk[cost.what], cost.memory_bytes)
        if cost.where == "cassandra" and cost.what in disk
        else cost
        for cost in found.costs
    ]


def delivery() -> Cost:
    """What an event to one more connection costs an edge, as `python -m bench` measured it last."""
    results = json.loads(RESULTS.read_text())
    cpu_us = results["fanout"]["server_us_per_delivery"]
    return Cost("delivery", "edge", cpu_us, source=f"bench, fan-out, {results['date'][:10]}")


def _tables(folder: Path) -> dict[str, dict[str, int]]:
    """Bytes of each table by keyspace and name."""
    return {
        keyspace.name: {
            table.name.partition("-")[0]: _bytes_in(table, "*.db") for table in keyspace.iterdir() if table.is_dir()
        }
        for keyspace in folder.iterdir()
        if keyspace.is_dir()
    }


async def _tokens(cluster: RunningCluster, users: list[str]) -> list[str]:
    return (await cluster.run("token", *users, "--device", "bench")).split()


def _log_bytes(servers: Servers) -> int:
    return _bytes_in(Path(f"/proc/{servers.kafka.pid}/cwd").resolve() / "data", "*.log")


def _bytes_in(folder: Path, pattern: str) -> int:
    return sum(path.stat().st_size for path in folder.rglob(pattern))


def _redis_bytes(servers: Servers) -> int:
    info = servers.redis.ask("INFO", "memory")
    assert isinstance(info, dict)
    return int(info["used_memory"])


def _database_bytes(cluster: RunningCluster) -> int:
    address = cluster.settings["HITHER_ENGINES_DEVICES"].replace("postgresql+asyncpg", "postgresql")
    asked = ["psql", "-X", "-A", "-t", "-d", address, "-c", "SELECT pg_database_size(current_database())"]
    return int(subprocess.run(asked, capture_output=True, text=True, check=True, timeout=30).stdout)


def _cpu_with_children_s(pid: int) -> float:
    """CPU time of a process, its children that live, and its children that have ended."""
    total = 0.0
    for one in (pid, *map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            fields = Path(f"/proc/{one}/stat").read_text().rpartition(")")[2].split()
            total += sum(int(ticks) for ticks in fields[11:15]) / _TICKS_PER_S
    return total


def _ignore(_peer: Peer, _data: bytes) -> None:
    """Whatever comes: the connection is idle."""


def _rounded(value: object) -> object:
    return round(value, 2) if isinstance(value, float) else value


def _commit() -> str:
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        asked = ["git", "rev-parse", "--short", "HEAD"]
        return subprocess.run(asked, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    return ""


def _say(text: str) -> None:
    print(f"-- {text}", file=sys.stderr, flush=True)


def main() -> None:
    """See the module."""
    with tempfile.TemporaryDirectory(prefix="hither-costs-") as name:
        result = uvloop.run(measure(Path(name)))
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_text(json.dumps(result, indent=1) + "\n")
    for cost in result["costs"]:
        print(f"{cost['what']:18}{cost['where']:12}{cost['cpu_us']:10.1f} us {cost['disk_bytes']:8.0f} B on disk "
              f"{cost['memory_bytes']:8.0f} B of memory")  # fmt: skip


if __name__ == "__main__":
    main()
