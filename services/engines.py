"""Opens the engines that the configuration names: the embedded ones in the data directory, or servers by their URLs.

Each engine is opened when a service of this process first needs it and closed when the process ends, in reverse order. The
drivers are imported no earlier: a process loads those of its own engines only.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from typing import Protocol, TypeVar, cast
from urllib.parse import parse_qs, unquote, urlsplit

from discovery.clock import Clock, SystemClock
from discovery.registry.port import Registry
from services.config import Config, ConfigError
from services.data_directory import DataDirectory
from services.directory.ports import DirectoryStore
from services.engine_health import EngineHealth
from services.ports.bus import Bus
from services.ports.cache import Cache
from services.ports.device_store import DeviceStore
from services.ports.live_session_store import LiveSessionStore
from services.ports.location_history import LocationHistory
from services.ports.log import Log
from services.ports.message_store import MessageStore
from services.ports.privacy_store import PrivacyStore
from services.ports.push_store import DeliveryLog, PushStore
from services.ports.view_log import ViewLog
from services.storage.access import Access, AccessRefused, believing

EMBEDDED = "embedded"
_SYSTEM_CLOCK = SystemClock()
_AS_DEVICES = "devices"
REGISTRY = "registry"
"""The servers that the registry names."""
_MECHANISMS = ("SCRAM-SHA-512", "SCRAM-SHA-256", "PLAIN")
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
        clock: Clock,
    ) -> None:
        self._urls = config.engines
        self._cache_keys = config.process.cache_keys
        self._data = data
        self._partitions = partitions
        self._registry = registry
        self._health = health
        self._stack = stack
        self._clock = clock
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

    async def live_sessions(self) -> LiveSessionStore:
        """Live-location sessions."""
        return await self._once("live_sessions", self._open_live_sessions)

    async def directory(self) -> DirectoryStore:
        """Users, friendships and conversations."""
        return await self._once("directory", self._open_directory)

    async def privacy(self) -> PrivacyStore:
        """What users let be known of them."""
        return await self._once("privacy", self._open_privacy)

    async def history(self) -> LocationHistory:
        """Where users were."""
        return await self._once("history", self._open_history)

    async def view_log(self) -> ViewLog:
        """Who was shown where whom was, in the place of the history."""
        return await self._once("view_log", self._open_view_log, self._urls.history)

    async def push_store(self) -> PushStore:
        """Where users can be woken up, and how they want it."""
        return await self._once("push", self._open_push)

    async def delivery_log(self) -> DeliveryLog:
        """What became of pushes, in the push store's place."""
        return await self._once("delivery_log", self._open_delivery_log, self._urls.push)

    async def cache(self) -> Cache:
        """Connections and presence."""
        return await self._once("cache", self._open_cache)

    async def bus(self) -> Bus:
        """News between the instances."""
        return await self._once("bus", self._open_bus)

    async def _once(self, name: str, open_engine: Callable[[str], Awaitable[T]], url: str = "") -> T:
        """The engine of that name; opened at the URL of the setting of that name, if none is given."""
        engine = self._opened.get(name)
        if engine is None:
            opened = await open_engine(url or getattr(self._urls, name))
            self._stack.push_async_callback(opened.close)
            engine = self._opened[name] = self._health.watch(name, opened)
        return cast(T, engine)

    async def _open_log(self, url: str) -> Log:
        if url == EMBEDDED:
            from services.storage.sqlite.log import SqliteLog

            return await SqliteLog.open(self._data.database("log"))
        from services.storage.kafka.log import KafkaLog

        parts = _split("log", url, "kafka")
        with _refused("log"):
            parts.check_options("replication", "prefix", "ca", "sasl")
            return await KafkaLog.open(
                parts.hosts,
                self._partitions,
                parts.replication(),
                prefix=parts.query.get("prefix", ""),
                access=parts.access(),
                mechanism=parts.mechanism(),
            )

    async def _open_messages(self, url: str) -> MessageStore:
        if url == EMBEDDED:
            from services.storage.sqlite.messages import SqliteMessageStore

            return await SqliteMessageStore.open(self._data.database("messages"))
        from services.storage.cassandra.messages import CassandraMessageStore

        parts = _split("messages", url, "cassandra")
        with _refused("messages"):
            parts.check_options("replication", "ca")
            hosts, port = parts.hosts_of_one_port()
            replication, access = parts.replication(), parts.access()
            return await CassandraMessageStore.open(hosts, port, parts.path, replication=replication, access=access)

    async def _open_history(self, url: str) -> LocationHistory:
        if url == EMBEDDED:
            from services.storage.sqlite.history import SqliteLocationHistory

            return await SqliteLocationHistory.open(self._data.database("history"), self._clock)
        from services.storage.cassandra.history import CassandraLocationHistory

        parts = _split("history", url, "cassandra")
        with _refused("history"):
            parts.check_options("replication", "ca")
            hosts, port = parts.hosts_of_one_port()
            replication, access = parts.replication(), parts.access()
            return await CassandraLocationHistory.open(
                hosts, port, parts.path, self._clock, replication=replication, access=access
            )

    async def _open_view_log(self, url: str) -> ViewLog:
        if url == EMBEDDED:
            from services.storage.sqlite.views import SqliteViewLog

            return await SqliteViewLog.open(self._data.database("views"), self._clock)
        from services.storage.cassandra.views import CassandraViewLog

        parts = _split("history", url, "cassandra")
        with _refused("history"):
            parts.check_options("replication", "ca")
            hosts, port = parts.hosts_of_one_port()
            replication, access = parts.replication(), parts.access()
            return await CassandraViewLog.open(
                hosts, port, parts.path, self._clock, replication=replication, access=access
            )

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

    async def _open_live_sessions(self, url: str) -> LiveSessionStore:
        from services.storage.sql.directory import sqlite_url
        from services.storage.sql.live_sessions import SqlLiveSessionStore

        if url == _AS_DEVICES:
            url = self._urls.devices.split()[0]
        if url == EMBEDDED:
            return await SqlLiveSessionStore.open(sqlite_url(self._data.database("live_sessions")))
        _split("live_sessions", url, "postgresql+asyncpg")
        return await SqlLiveSessionStore.open(url)

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

    async def _open_privacy(self, url: str) -> PrivacyStore:
        from services.storage.sql.directory import sqlite_url
        from services.storage.sql.privacy import SqlPrivacyStore

        if url == EMBEDDED:
            return await SqlPrivacyStore.open(sqlite_url(self._data.database("privacy")))
        _split("privacy", url, "postgresql+asyncpg")
        return await SqlPrivacyStore.open(url)

    async def _open_push(self, url: str) -> PushStore:
        from services.storage.sql.push import SqlPushStore

        return await SqlPushStore.open(self._push_url(url))

    async def _open_delivery_log(self, url: str) -> DeliveryLog:
        from services.storage.sql.push_deliveries import SqlDeliveryLog

        return await SqlDeliveryLog.open(self._push_url(url))

    def _push_url(self, url: str) -> str:
        from services.storage.sql.directory import sqlite_url

        if url == EMBEDDED:
            return sqlite_url(self._data.database("push"))
        _split("push", url, "postgresql+asyncpg")
        return url

    async def _open_cache(self, url: str) -> Cache:
        if url == EMBEDDED:
            from services.storage.memory.cache import MemoryCache

            return MemoryCache(self._clock, self._cache_keys)
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
    """A URL of an engine: "scheme://user:password@host:port,host:port/path?key=value". What is wrong in it is a ValueError that
    quotes no secret.
    """

    def __init__(self, account: str, hosts: str, path: str, query: dict[str, str]) -> None:
        self._account = account
        self.hosts = hosts
        self.path = path
        self.query = query

    def check_options(self, *known: str) -> None:
        """An option that nobody knows may be a misspelt one that somebody counts on."""
        if unknown := sorted(self.query.keys() - set(known)):
            raise ValueError(f"no option {', '.join(unknown)}; there are {', '.join(known)}")

    def hosts_of_one_port(self) -> tuple[list[str], int]:
        """The hosts, and the port of all."""
        hosts, ports = zip(*(host.rpartition(":")[::2] for host in self.hosts.split(",")), strict=True)
        if len(set(ports)) != 1 or not ports[0].isdecimal():
            raise ValueError("hosts are HOST:PORT, all with one port")
        return [host.strip("[]") for host in hosts], int(ports[0])

    def replication(self) -> int:
        """How many copies there are."""
        given = self.query.get("replication", "1")
        if not given.isdecimal() or given == "0":
            raise ValueError(f"replication is a number from 1 on, not {given}")
        return int(given)

    def access(self) -> Access:
        """How the server is spoken to."""
        user, _, password = self._account.partition(":")
        ca = self.query.get("ca")
        if ca == "":
            raise ValueError("ca names no file")
        if user and not ca:
            raise ValueError("a password goes over TLS only: name the server's authority, ?ca=FILE")
        try:
            return Access(believing(ca) if ca else None, unquote(user), unquote(password))
        except OSError as error:
            raise ValueError(f"ca: {ca} cannot be read as certificates: {error}") from error

    def mechanism(self) -> str:
        """How a user proves to be one."""
        given = self.query.get("sasl", _MECHANISMS[0])
        if given not in _MECHANISMS:
            raise ValueError(f"sasl is one of {', '.join(_MECHANISMS)}")
        return given


def _split(engine: str, url: str, *schemes: str) -> _Parts:
    parts = urlsplit(url)
    if parts.scheme not in schemes:
        known = ", ".join(f"{scheme}://..." for scheme in schemes)
        raise ConfigError(f"engines: {engine} is {EMBEDDED!r} or {known}, not {parts.scheme or 'nothing'}://...")
    query = {key: values[-1] for key, values in parse_qs(parts.query, keep_blank_values=True).items()}
    account, _, hosts = parts.netloc.rpartition("@")
    return _Parts(account, hosts, parts.path.lstrip("/"), query)


def _account(engine: str, url: str) -> str:
    """What stands before the hosts, "USER:PASSWORD@" or nothing, in "registry" or "registry://USER:PASSWORD@"."""
    parts = urlsplit(url)
    account, at, hosts = parts.netloc.rpartition("@")
    if hosts or parts.path not in ("", REGISTRY) or parts.query:
        raise ConfigError(f"engines: {engine} is {REGISTRY!r} or {REGISTRY}://USER:PASSWORD@")
    return account + at


@contextmanager
def _refused(engine: str) -> Iterator[None]:
    """What an engine cannot make of its URL is an error of the configuration, and so is a server that refuses it."""
    try:
        yield
    except (ValueError, AccessRefused) as error:
        raise ConfigError(f"engines: {engine}: {error}") from error


@asynccontextmanager
async def open_engines(
    config: Config,
    data: DataDirectory,
    partitions: int,
    registry: Registry,
    health: EngineHealth,
    clock: Clock = _SYSTEM_CLOCK,
) -> AsyncIterator[Engines]:
    """The engines of a process, for the time of the block; `health` watches over them. Some find their servers in the registry, and
    some go by the clock: servers run down what lives for a time by their own.
    """
    async with AsyncExitStack() as stack:
        yield Engines(config, data, partitions, registry, health, stack, clock)
