"""Redis for tests, alone, watched by Sentinels, or as a Cluster: keeps nothing over a restart, as a cache may."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import redis
from redis.crc import key_slot

from tests.support.servers.process import ServerFailed, ServerMissing, ServerProcess, free_port

_BINARY = Path("/usr/bin/redis-server")
_SENTINEL_BINARY = Path("/usr/bin/redis-sentinel")
_POLL_S = 0.05
_AGREE_S = 60.0
_SLOTS = 16_384


class RedisServer(ServerProcess):
    """A redis-server on 127.0.0.1. Raises ServerMissing where Debian's redis-server is not installed."""

    def __init__(self, folder: Path, *options: str, port: int | None = None) -> None:
        if not _BINARY.exists():
            raise ServerMissing(f"{_BINARY} is missing: install Debian's redis-server")
        self.port = port or free_port()
        self.address = f"127.0.0.1:{self.port}"
        self.url = f"redis://{self.address}/0"
        command = f"{_BINARY} --bind 127.0.0.1 --port {self.port} --save  --appendonly no --dir {folder}".split(" ")
        super().__init__([*command, *options], folder, self.answers)

    def ask(self, *command: str | bytes) -> object:
        """One command over a connection of its own, for tests that look behind an adapter."""
        return _ask(self.port, *command)

    def role(self) -> str:
        """ "master", "slave", or "" if it does not answer."""
        try:
            answer = self.ask("ROLE")
        except redis.RedisError:
            return ""
        return answer[0].decode() if isinstance(answer, list) else ""

    def answers(self) -> bool:
        """Whether it is there."""
        return _answers_ping(self.port)


class _Group:
    """Servers that start and stop together. `with` starts them, or raises ServerFailed, and kills what is left of them."""

    def __init__(self, processes: Sequence[ServerProcess]) -> None:
        self._processes = processes

    def __enter__(self) -> Self:
        """Starts all."""
        try:
            self.start()
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Ends all. Their data are of no use to anybody."""
        self.kill()

    def start(self) -> None:
        """Starts all, and returns when they agree."""
        for process in self._processes:
            process.launch()
        for process in self._processes:
            process.wait_ready()
        self.agree()

    def kill(self) -> None:
        """kill -9 for all."""
        for process in self._processes:
            process.kill()

    def agree(self) -> None:
        """Returns when they know each other, and have the roles that they want."""


class BusServers(_Group):
    """Three servers that know nothing of each other."""

    def __init__(self, folder: Path) -> None:
        self.servers = [RedisServer(folder / str(port), port=port) for port in _free_ports(3)]
        super().__init__(self.servers)

    def recover(self) -> None:
        """Starts what a test ended, and has all forget everything."""
        for server in self.servers:
            server.resume()
            if not server.answers():
                server.kill()
                server.start()
            server.ask("FLUSHALL")


class SentinelSet(_Group):
    """A primary and a replica that take turns, and three Sentinels, which notice within a second that the primary is away."""

    NAME = "hither"

    def __init__(self, folder: Path) -> None:
        if not _SENTINEL_BINARY.exists():
            raise ServerMissing(f"{_SENTINEL_BINARY} is missing: install Debian's redis-sentinel")
        ports = _free_ports(5)
        quick = ("--repl-diskless-sync-delay", "0", "--repl-timeout", "5")
        first = RedisServer(folder / "0", *quick, port=ports[0])
        second = RedisServer(folder / "1", *quick, "--replicaof", "127.0.0.1", str(first.port), port=ports[1])
        self.servers = [first, second]
        self.sentinels = [_sentinel(folder / f"sentinel-{port}", port, first.port) for port in ports[2:]]
        self._sentinel_ports = ports[2:]
        self.hosts = ",".join(f"127.0.0.1:{port}" for port in ports[2:])
        self.url = f"redis+sentinel://{self.hosts}/{self.NAME}"
        super().__init__([*self.servers, *self.sentinels])

    def start(self) -> None:
        """See _Group. What they are to watch is there first: they look at it once in ten seconds."""
        for server in self.servers:
            server.start()
        _until(lambda: len(_replicas_of(self.servers[0])) == 1, "the replica")
        for sentinel in self.sentinels:
            sentinel.start()
        self.agree()

    def primary(self) -> RedisServer:
        """The one that the Sentinels call so."""
        port = int(_masters(self._sentinel_ports[0])[self.NAME]["port"])
        return next(server for server in self.servers if server.port == port)

    def ask(self, *command: str | bytes) -> object:
        """One command to the primary."""
        return self.primary().ask(*command)

    def agree(self) -> None:
        """See _Group."""
        _until(lambda: all(self._sees_all(port) for port in self._sentinel_ports), "the Sentinels")
        _until(self._replicates, "the replica")

    def recover(self) -> None:
        """Starts what a test ended, and returns when all is as it was, whoever is the primary now."""
        for server in self.servers:
            server.resume()
            if not server.answers():
                server.kill()
                server.start()
        primary = self.primary()
        for server in self.servers:
            if server is not primary and server.role() == "master":
                server.ask("REPLICAOF", "127.0.0.1", str(primary.port))  # the Sentinels would, after ten seconds
        self.agree()

    def _sees_all(self, port: int) -> bool:
        state = _masters(port).get(self.NAME, {})
        counts = state.get("num-slaves"), state.get("num-other-sentinels"), state.get("flags")
        return counts == ("1", "2", "master")

    def _replicates(self) -> bool:
        answer = self.primary().ask("ROLE")
        return isinstance(answer, list) and answer[0] == b"master" and len(answer[2]) == 1


class RedisCluster(_Group):
    """Three primaries of a third of the slots each, and a replica of the first."""

    def __init__(self, folder: Path) -> None:
        ports = _free_ports(8)
        self.servers = [
            RedisServer(
                folder / str(port),
                *("--cluster-enabled", "yes", "--cluster-port", str(bus_port), "--cluster-node-timeout", "1000"),
                *("--cluster-require-full-coverage", "no", "--repl-diskless-sync-delay", "0"),
                port=port,
            )
            for port, bus_port in zip(ports[:4], ports[4:], strict=True)
        ]
        self._bus_ports = ports[4:]
        self.url = "redis+cluster://" + ",".join(server.address for server in self.servers[:3])
        super().__init__(self.servers)

    def primaries(self) -> list[RedisServer]:
        """Those that are there."""
        return [server for server in self.servers if server.role() == "master"]

    def held_by(self, server: RedisServer, keys: Sequence[str]) -> list[str]:
        """Those of the keys whose slots the primary has."""
        own, shards = server.ask("CLUSTER", "MYID"), server.ask("CLUSTER", "SLOTS")
        assert isinstance(shards, list)
        ranges = [range(begin, end + 1) for begin, end, primary, *_ in shards if primary[2] == own]
        return [key for key in keys if any(key_slot(key.encode()) in one for one in ranges)]

    def replicated(self) -> RedisServer:
        """The primary that has a replica."""
        return next(server for server in self.primaries() if _replicas_of(server))

    def take_over(self) -> None:
        """Has the replica become the primary, in order."""
        before = self.replicated()
        replica = next(server for server in self.servers if server.role() == "slave")
        replica.ask("CLUSTER", "FAILOVER")
        _until(lambda: (replica.role(), before.role()) == ("master", "slave"), "the Cluster")

    def agree(self) -> None:
        """See _Group. The first time this makes a Cluster of them."""
        if not _knows_all(self.servers[0], 4):
            self._meet()
        _until(lambda: all(_is_whole(server) for server in self.servers), "the Cluster")
        _until(lambda: sorted(server.role() for server in self.servers) == ["master"] * 3 + ["slave"], "the replica")

    def recover(self) -> None:
        """Starts what a test ended, and returns when all is as it was, whoever is the primary now."""
        for server in self.servers:
            if not server.answers():
                server.kill()
                server.start()
        self.agree()

    def _meet(self) -> None:
        first, *others = self.servers
        for server, bus_port in zip(others, self._bus_ports[1:], strict=True):
            first.ask("CLUSTER", "MEET", "127.0.0.1", str(server.port), str(bus_port))
        bounds = [0, _SLOTS // 3, 2 * _SLOTS // 3, _SLOTS]
        for server, begin, end in zip(self.servers[:3], bounds, bounds[1:], strict=False):
            server.ask("CLUSTER", "ADDSLOTSRANGE", str(begin), str(end - 1))
        _until(lambda: all(_knows_all(server, 4) for server in self.servers), "the Cluster's servers")
        owner = first.ask("CLUSTER", "MYID")
        assert isinstance(owner, bytes)
        self.servers[3].ask("CLUSTER", "REPLICATE", owner)


def _sentinel(folder: Path, port: int, primary_port: int) -> ServerProcess:
    folder.mkdir(parents=True, exist_ok=True)
    name = SentinelSet.NAME
    lines = [
        "bind 127.0.0.1",
        f"port {port}",
        f"dir {folder}",
        f"sentinel monitor {name} 127.0.0.1 {primary_port} 2",
        f"sentinel down-after-milliseconds {name} 1000",
        f"sentinel failover-timeout {name} 3000",
    ]
    (folder / "sentinel.conf").write_text("\n".join(lines) + "\n")
    command = [str(_SENTINEL_BINARY), str(folder / "sentinel.conf")]
    return ServerProcess(command, folder, lambda: _answers_ping(port))


def _masters(port: int) -> dict[str, dict[str, str]]:
    answer = _ask(port, "SENTINEL", "MASTERS")
    assert isinstance(answer, list)
    rows = [[item.decode() for item in row] for row in answer]
    return {row[1]: dict(zip(row[::2], row[1::2], strict=True)) for row in rows}


def _answers_ping(port: int) -> bool:
    try:
        return _ask(port, "PING") == b"PONG"
    except redis.RedisError:
        return False


def _replicas_of(server: RedisServer) -> list[bytes]:
    answer = server.ask("ROLE")
    assert isinstance(answer, list)
    replicas: list[bytes] = answer[2]
    return replicas


def _knows_all(server: RedisServer, count: int) -> bool:
    info = _cluster_info(server)
    return info.get("cluster_known_nodes") == str(count)


def _is_whole(server: RedisServer) -> bool:
    info = _cluster_info(server)
    return info.get("cluster_state") == "ok" and info.get("cluster_slots_ok") == str(_SLOTS)


def _cluster_info(server: RedisServer) -> dict[str, str]:
    answer = _ask(server.port, "CLUSTER", "INFO")
    assert isinstance(answer, bytes)
    return dict(line.split(":", 1) for line in answer.decode().split("\r\n") if ":" in line)


def _until(holds: Callable[[], bool], who: str) -> None:
    end_s = time.monotonic() + _AGREE_S
    while not holds():
        if time.monotonic() > end_s:
            raise ServerFailed(f"{who} did not agree in {_AGREE_S} s")
        time.sleep(_POLL_S)


def _free_ports(count: int) -> list[int]:
    found: list[int] = []
    while len(found) < count:
        port = free_port()
        if port not in found:
            found.append(port)
    return found


def _ask(port: int, *command: str | bytes) -> object:
    """The answer as the server gave it. Raises RedisError."""
    connection = redis.Connection(port=port, socket_timeout=5, protocol=2)  # type: ignore[no-untyped-call]
    try:
        connection.send_command(*command)  # type: ignore[no-untyped-call]
        answer: object = connection.read_response()
        return answer
    finally:
        connection.disconnect()  # type: ignore[no-untyped-call]
