"""What cache and bus have in common: their limits, how each kind of URL is connected to, connections that never retry by
themselves, and one error for all that a driver may raise.

    redis://HOST:PORT[/DB]                         one server; rediss:// with TLS, unix:// by its socket
    redis+sentinel://HOST:PORT,HOST:PORT/NAME[/DB] the server that the Sentinels at these addresses call the primary of NAME
    redis+cluster://HOST:PORT,HOST:PORT            a Cluster, found through any of these servers; for a cache only

USER:PASSWORD@ before the hosts is for the servers, not for the Sentinels. What follows a "?" are the driver's options of a
connection, such as ssl_ca_certs=FILE. rediss+sentinel and rediss+cluster speak TLS, to Sentinels too.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast
from urllib.parse import urlsplit

import structlog
from redis._parsers import AsyncCommandsParser
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.cluster import ClusterNode, RedisCluster
from redis.asyncio.connection import ConnectionPool, SSLConnection, parse_url
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel, SentinelConnectionPool
from redis.backoff import NoBackoff
from redis.exceptions import RedisClusterException, RedisError

from discovery.errors import Unavailable

_log = structlog.get_logger(__name__)
_SENTINEL_PORT = 26379
_REDIS_PORT = 6379
_NODE_CONNECTIONS = 10_000
"""Of a Cluster's server, for the driver; a cache never has more calls under way than it may have connections."""


@dataclass(frozen=True, slots=True)
class RedisSettings:
    """Limits of a cache or a bus. All counts are at least 1, all times more than 0."""

    prefix: str = "hither:"
    """Stands before every key and channel, for a Redis that others use too."""
    connections: int = 16
    """Connections of a cache at most, to each server; a bus has two."""
    calls_most: int = 10_000
    """Calls of a cache that run or wait for a connection; further ones are refused."""
    timeout_s: float = 2.0
    """How long a call may take, the wait for a connection included."""
    waiting_bytes_most: int = 16 * 1024 * 1024
    """Payloads of a bus that wait to be sent; further ones are refused."""
    topics_most: int = 500_000
    """Topics that a bus listens to; further ones are refused."""
    heartbeat_s: float = 5.0
    """After so long without news a bus asks whether its server is there, and gives it as long to answer."""
    reconnect_most_s: float = 2.0
    """The longest pause between two attempts to come back."""


class Cluster(RedisCluster):
    """The driver's client of a Cluster. A server that is away takes the others' keys from nobody."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.commands_parser = _Commands(self)

    def doubt(self) -> None:
        """Has the next call ask anew who serves what. The driver does so by itself only where it may try again."""
        self._initialize = True


class _Commands(AsyncCommandsParser):
    """Learns the servers' commands once, from any of them. The driver would ask one server again, each time that it asks who
    serves what, and fail all calls while that one is away.
    """

    def __init__(self, cluster: Cluster) -> None:
        super().__init__()
        self._cluster = cluster

    async def initialize(self, node: ClusterNode | None = None) -> None:
        if self.commands:
            return
        *first, last = self._cluster.get_nodes()
        for other in first:
            try:
                await super().initialize(other)
            except (RedisError, OSError):
                continue  # the next one may be there
            else:
                return
        await super().initialize(last)


def pool_of(url: str, connections: int, settings: RedisSettings) -> ConnectionPool:
    """A pool for a URL of one server, or of Sentinels. Raises ValueError for other URLs. Connects to nothing yet.

    Nothing is tried twice: a command whose answer was lost may have been carried out.
    """
    kind = _kind_of(url)
    if kind == "":
        plain: ConnectionPool = BlockingConnectionPool.from_url(
            url, max_connections=connections, timeout=settings.timeout_s, **_patience(settings.timeout_s)
        )
        return plain
    if kind == "sentinel":
        return _sentinel_pool(url, connections, settings)
    raise ValueError(f"not the URL of one Redis, nor of Sentinels: {urlsplit(url).scheme}://")


def client_of(url: str, connections: int, settings: RedisSettings) -> Redis | Cluster:
    """A client over a pool of its own, or of a Cluster; see `pool_of`."""
    if _kind_of(url) == "cluster":
        return _cluster(url, settings)
    return Redis.from_pool(pool_of(url, connections, settings))


@contextmanager
def engine_errors() -> Iterator[None]:
    """Turns what the driver raises in the block, and a time-out, into Unavailable (ENGINE_DOWN)."""
    try:
        yield
    except (RedisError, RedisClusterException, OSError) as error:
        _log.debug("redis_call_failed", error=type(error).__name__)
        raise away() from error


def away() -> Unavailable:
    """What a caller gets while the engine is away."""
    return Unavailable("Redis is away.", reason="ENGINE_DOWN", retry_after_s=1.0)


def heed_cancellation() -> None:
    """Ends a task that was cancelled while the driver was at work. What it waits with on Python 3.11 forgets a cancellation
    that comes at the very moment in which the work is done, so an endless loop around the driver asks here in each round. Not
    for a task that has a TaskGroup: there a failure of a part counts as a cancellation.
    """
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


@contextmanager
def heeding_cancellation() -> Iterator[None]:
    """Ends the block as cancelled if its task was cancelled in it, also where the driver forgot that (see heed_cancellation), or
    failed instead. What was cancelled before the block does not count: who tidies up may use the driver.
    """
    task = asyncio.current_task()
    assert task is not None  # the driver awaits
    before = task.cancelling()
    try:
        yield
    finally:
        if task.cancelling() > before:
            raise asyncio.CancelledError


class _SentinelPool(SentinelConnectionPool):
    """Lets the connections to the Sentinels go with its own."""

    async def aclose(self) -> None:
        await super().aclose()
        await self.sentinel_manager.aclose()


@dataclass(frozen=True, slots=True)
class _Named:
    """What a URL of several hosts says. `options` are the driver's, of each connection."""

    hosts: list[tuple[str, int]]
    path: list[str]
    options: dict[str, Any]


def _kind_of(url: str) -> str:
    """What stands behind the "+" of the scheme."""
    return urlsplit(url).scheme.partition("+")[2]


def _read(url: str, default_port: int) -> _Named:
    parts = urlsplit(url)
    account, _, hosts = parts.netloc.rpartition("@")
    scheme = parts.scheme.partition("+")[0]
    if scheme not in ("redis", "rediss"):
        raise ValueError(f"not a URL of Redis: {parts.scheme}://")
    named = [urlsplit(f"//{host}") for host in hosts.split(",")]
    if not all(host.hostname for host in named):
        raise ValueError(f"{parts.scheme}://: a host is missing")
    # The driver reads the rest as of a URL with one host.
    options = cast(dict[str, Any], parse_url(f"{scheme}://{account}@/?{parts.query}"))
    if options.pop("connection_class", None) is SSLConnection:
        options["ssl"] = True
    return _Named(
        [(str(host.hostname), host.port or default_port) for host in named],
        [part for part in parts.path.split("/") if part],
        options,
    )


def _sentinel_pool(url: str, connections: int, settings: RedisSettings) -> ConnectionPool:
    named = _read(url, _SENTINEL_PORT)
    if not 1 <= len(named.path) <= 2:
        raise ValueError("a URL of Sentinels names what they watch: redis+sentinel://HOST:PORT,HOST:PORT/NAME[/DB]")
    service, *database = named.path
    # One that hangs must leave time to ask the next one, and to connect.
    asking = _patience(settings.timeout_s / (len(named.hosts) + 1))
    tls = {name: value for name, value in named.options.items() if name.startswith("ssl")}
    return _SentinelPool(  # type: ignore[no-untyped-call]
        service,
        Sentinel(named.hosts, sentinel_kwargs={**asking, **tls}),  # type: ignore[no-untyped-call]
        max_connections=connections,
        db=int(database[0]) if database else 0,
        **_patience(settings.timeout_s),
        **named.options,
    )


def _cluster(url: str, settings: RedisSettings) -> Cluster:
    named = _read(url, _REDIS_PORT)
    if named.path not in ([], ["0"]):
        raise ValueError("a Cluster has one database: redis+cluster://HOST:PORT,HOST:PORT")
    # A server that hangs must leave time to ask another one who serves what.
    return Cluster(
        startup_nodes=[ClusterNode(host, port) for host, port in named.hosts],
        max_connections=_NODE_CONNECTIONS,
        **_patience(settings.timeout_s / 2),
        **named.options,
    )


def _patience(timeout_s: float) -> dict[str, Any]:
    """How each connection waits: not longer than that, and for one try."""
    return {
        "socket_timeout": timeout_s,
        "socket_connect_timeout": timeout_s,
        "retry": Retry(NoBackoff(), 0),
        "protocol": 2,
        "driver_info": None,
    }
