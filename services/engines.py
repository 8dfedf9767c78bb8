"""Opens the engines that the configuration names: the embedded ones in the data directory, or servers by their URLs.

Each engine is opened when a service of this process first needs it and closed when the process ends, in reverse order. The
drivers are imported no earlier: a process loads those of its own engines only.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from typing import Protocol, TypeVar, cast
from urllib.parse import parse_qs, urlsplit

from discovery.clock import SystemClock
from discovery.registry.port import Registry
from services.config import Config, ConfigError
from services.data_directory import DataDirectory
from services.directory.ports import DirectoryStore
from services.engine_health import EngineHealth
from services.ports.bus import Bus
from services.ports.cache import Cache
from services.ports.device_store import DeviceStore
from services.ports.location_history import LocationHistory
from services.ports.log import Log
from services.ports.message_store import MessageStore

EMBEDDED = "embedded"
REGISTRY = "registry"
"""The servers that the registry names."""
_REDIS = ("redis", "rediss", "redis+sentinel", "rediss+sentinel")


class _Closable(Protocol):
    async def close(self) -> None:
        """Lets the engine go."""


T = TypeVar("T", bound=_Closable)


class Engines:
    """The engines of one process. Each method opens its engine at the first call and gives the same one ever after.

    Raises ConfigError for a URL that names no engine, and whatever an engine raises that cannot be opened.
    """

    def __init__(
        self,
        config: Config,
        data: DataDirectory,
        partitions: int,
        registry: Registry,
        health: EngineHealth,
        stack: AsyncExitStack,
    ) -> None:
        self._urls = config.engines
        self._cache_keys = config.process.cache_keys
        self._data = data
        self._partitions = partitions
        self._registry = registry
        self._health = health
        self._stack = stack
        self._opened: dict[str, _Closable] = {}

    async def log(self) -> Log:
        """The log that the projections read."""
        return await self._once("log", self._open_log)

    async def messages(self) -> MessageStore:
        """Conversations, inboxes and marks."""
        return await self._once("messages", self._open_messages)

    async def devices(self) -> DeviceStore:
        """Devices and their cursors."""
        return await self._once("devices", self._open_devices)

    async def directory(self) -> DirectoryStore:
        """Users, friendships and conversations."""
        return await self._once("directory", self._open_directory)

    async def history(self) -> LocationHistory:
        """Where users were."""
        return await self._once("history", self._open_history)

    async def cache(self) -> Cache:
        """Connections and presence."""
        return await self._once("cache", self._open_cache)

    async def bus(self) -> Bus:
        """News between the instances."""
        return await self._once("bus", self._open_bus)

    async def _once(self, name: str, open_engine: Callable[[str], Awaitable[T]]) -> T:
        engine = self._opened.get(name)
        if engine is None:
            opened = await open_engine(getattr(self._urls, name))
            self._stack.push_async_callback(opened.close)
            engine = self._opened[name] = self._health.watch(name, opened)
        return cast(T, engine)

    async def _open_log(self, url: str) -> Log:
        if url == EMBEDDED:
            from services.storage.sqlite.log import SqliteLog

            return await SqliteLog.open(self._data.database("log"))
        from services.storage.kafka.log import KafkaLog

        parts = _split("log", url, "kafka")
        return await KafkaLog.open(
            parts.hosts,
            self._partitions,
            int(parts.query.get("replication", "1")),
            prefix=parts.query.get("prefix", ""),
        )

    async def _open_messages(self, url: str) -> MessageStore:
        if url == EMBEDDED:
            from services.storage.sqlite.messages import SqliteMessageStore

            return await SqliteMessageStore.open(self._data.database("messages"))
        from services.storage.cassandra.messages import CassandraMessageStore

        hosts, port, keyspace, replication = _cassandra("messages", url)
        return await CassandraMessageStore.open(hosts, port, keyspace, replication=replication)

    async def _open_history(self, url: str) -> LocationHistory:
        if url == EMBEDDED:
            from services.storage.sqlite.history import SqliteLocationHistory

            return await SqliteLocationHistory.open(self._data.database("history"), SystemClock())
        from services.storage.cassandra.history import CassandraLocationHistory

        hosts, port, keyspace, replication = _cassandra("history", url)
        return await CassandraLocationHistory.open(hosts, port, keyspace, SystemClock(), replication=replication)

    async def _open_devices(self, url: str) -> DeviceStore:
        if url == EMBEDDED:
            from services.storage.sqlite.devices import SqliteDeviceStore

            return await SqliteDeviceStore.open(self._data.database("devices"))
        from services.storage.sql.devices import SqlDeviceStore

        urls = url.split()
        for shard_url in urls:
            _split("devices", shard_url, "postgresql+asyncpg")
        if len(urls) > 1:
            from services.storage.sql.sharded_devices import ShardedDeviceStore

            return await ShardedDeviceStore.open(urls)
        return await SqlDeviceStore.open(url)

    async def _open_directory(self, url: str) -> DirectoryStore:
        from services.storage.sql.directory import SqlDirectoryStore, sqlite_url

        if url == EMBEDDED:
            return await SqlDirectoryStore.open(sqlite_url(self._data.database("directory")))
        urls = url.split()
        for shard_url in urls:
            _split("directory", shard_url, "postgresql+asyncpg")
        if len(urls) > 1:
            from services.storage.sql.sharded.store import ShardedDirectoryStore

            with _refused("directory"):
                return await ShardedDirectoryStore.open(urls)
        return await SqlDirectoryStore.open(url)

    async def _open_cache(self, url: str) -> Cache:
        if url == EMBEDDED:
            from services.storage.memory.cache import MemoryCache

            return MemoryCache(SystemClock(), self._cache_keys)
        from services.storage.redis.cache import RedisCache

        _split("cache", url, *_REDIS, "redis+cluster", "rediss+cluster")
        with _refused("cache"):
            return await RedisCache.open(url)

    async def _open_bus(self, url: str) -> Bus:
        if url == EMBEDDED:
            from services.storage.memory.bus import MemoryBus

            return MemoryBus()
        if urlsplit(url).scheme == REGISTRY or url == REGISTRY:
            return await self._open_sharded_bus(_account("bus", url))
        from services.storage.redis.bus import RedisBus

        _split("bus", url, *_REDIS)
        with _refused("bus"):
            return await RedisBus.open(url)

    async def _open_sharded_bus(self, account: str) -> Bus:
        from services.storage.redis.connections import RedisSettings
        from services.storage.redis.sharded import ShardedBus

        # Each cluster has a ring of its own, also where it shares servers with others.
        settings = RedisSettings(prefix=f"hither:{self._data.cluster}:")
        return await ShardedBus.open(self._registry, self._partitions, f"redis://{account}{{}}".format, settings)


class _Parts:
    """A URL of an engine: "scheme://host:port,host:port/path?key=value"."""

    def __init__(self, hosts: str, path: str, query: dict[str, str]) -> None:
        self.hosts = hosts
        self.path = path
        self.query = query


def _split(engine: str, url: str, *schemes: str) -> _Parts:
    parts = urlsplit(url)
    if parts.scheme not in schemes:
        known = ", ".join(f"{scheme}://..." for scheme in schemes)
        raise ConfigError(f"engines: {engine} is {EMBEDDED!r} or {known}, not {parts.scheme or url}://...")
    query = {key: values[-1] for key, values in parse_qs(parts.query).items()}
    return _Parts(parts.netloc.rpartition("@")[2], parts.path.lstrip("/"), query)


def _cassandra(engine: str, url: str) -> tuple[list[str], int, str, int]:
    """Contact points, port, keyspace and replication."""
    parts = _split(engine, url, "cassandra")
    hosts = [host.rpartition(":")[0] for host in parts.hosts.split(",")]
    return hosts, int(parts.hosts.rpartition(":")[2]), parts.path, int(parts.query.get("replication", "1"))


def _account(engine: str, url: str) -> str:
    """What stands before the hosts, "USER:PASSWORD@" or nothing, in "registry" or "registry://USER:PASSWORD@"."""
    parts = urlsplit(url)
    account, at, hosts = parts.netloc.rpartition("@")
    if hosts or parts.path not in ("", REGISTRY) or parts.query:
        raise ConfigError(f"engines: {engine} is {REGISTRY!r} or {REGISTRY}://USER:PASSWORD@")
    return account + at


@contextmanager
def _refused(engine: str) -> Iterator[None]:
    """What an engine cannot make of its URL is an error of the configuration."""
    try:
        yield
    except ValueError as error:
        raise ConfigError(f"engines: {engine}: {error}") from error


@asynccontextmanager
async def open_engines(
    config: Config, data: DataDirectory, partitions: int, registry: Registry, health: EngineHealth
) -> AsyncIterator[Engines]:
    """The engines of a process, for the time of the block; `health` watches over them. Some find their servers in the registry."""
    async with AsyncExitStack() as stack:
        yield Engines(config, data, partitions, registry, health, stack)
