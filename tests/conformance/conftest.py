"""The adapters of each port. A suite runs once for every adapter that stands here; a new engine adds a line.

A rig opens an adapter over one place that is its own and empty at first, and opens it again over the same place.
"""

import asyncio
import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Generic, Protocol, TypeVar

import pytest
from aiokafka.admin import AIOKafkaAdminClient

from discovery.clock import Clock, SystemClock
from discovery.registry.embedded import EmbeddedRegistry
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
from services.storage.cassandra.history import CassandraLocationHistory
from services.storage.cassandra.messages import CassandraMessageStore
from services.storage.cassandra.views import CassandraViewLog
from services.storage.kafka.log import KafkaLog
from services.storage.memory.bus import MemoryBus
from services.storage.memory.cache import MemoryCache
from services.storage.redis.bus import RedisBus
from services.storage.redis.cache import RedisCache
from services.storage.redis.sharded import ShardedBus
from services.storage.sql.devices import SqlDeviceStore
from services.storage.sql.directory import sqlite_url
from services.storage.sql.live_sessions import SqlLiveSessionStore
from services.storage.sql.privacy import SqlPrivacyStore
from services.storage.sql.push import SqlPushStore
from services.storage.sql.push_deliveries import SqlDeliveryLog
from services.storage.sql.sharded_devices import ShardedDeviceStore
from services.storage.sqlite.devices import SqliteDeviceStore
from services.storage.sqlite.history import SqliteLocationHistory
from services.storage.sqlite.log import SqliteLog
from services.storage.sqlite.messages import SqliteMessageStore
from services.storage.sqlite.views import SqliteViewLog
from tests.support.bus_servers import announce
from tests.support.clock import ManualClock
from tests.support.servers.cassandra import CassandraServer
from tests.support.servers.postgresql import PostgresqlServer
from tests.support.servers.redis import BusServers, RedisCluster, RedisServer, SentinelSet


class Closable(Protocol):
    """What every port can do."""

    async def close(self) -> None: ...


Port = TypeVar("Port", bound=Closable)


class Rig(Generic[Port]):
    """An adapter's engine, and whatever was opened over it."""

    def __init__(self, make: Callable[[], Awaitable[Port]]) -> None:
        self._make = make
        self._opened: list[Port] = []

    async def open(self) -> Port:
        """A fresh adapter over the same engine."""
        self._opened.append(await self._make())
        return self._opened[-1]

    async def reopen(self, port: Port) -> Port:
        """Closes the adapter and opens another, as a new process would."""
        await port.close()
        return await self.open()

    async def dispose(self) -> None:
        """Closes all that was opened."""
        for port in self._opened:
            await port.close()


LogRig = Rig[Log]
MessageStoreRig = Rig[MessageStore]
DeviceStoreRig = Rig[DeviceStore]
PrivacyStoreRig = Rig[PrivacyStore]
LiveSessionStoreRig = Rig[LiveSessionStore]
PushStoreRig = Rig[PushStore]
DeliveryLogRig = Rig[DeliveryLog]


def sqlite_log(folder: Path) -> LogRig:
    return Rig(lambda: SqliteLog.open(folder / "log.db"))


def sqlite_message_store(request: pytest.FixtureRequest) -> MessageStoreRig:
    folder: Path = request.getfixturevalue("tmp_path")
    return Rig(lambda: SqliteMessageStore.open(folder / "messages.db"))


def sqlite_device_store(request: pytest.FixtureRequest) -> DeviceStoreRig:
    folder: Path = request.getfixturevalue("tmp_path")
    return Rig(lambda: SqliteDeviceStore.open(folder / "devices.db"))


class KafkaRig(LogRig):
    """A log on the run's Kafka. The folder only makes its topics' names its own, in whatever process."""

    def __init__(self, folder: Path) -> None:
        self._prefix = f"t{hashlib.sha256(str(folder).encode()).hexdigest()[:12]}-"
        super().__init__(lambda: KafkaLog.open(os.environ[KAFKA_ADDRESS], KAFKA_PARTITIONS, prefix=self._prefix))

    async def dispose(self) -> None:
        """Closes all that was opened, and lets Kafka forget the topics."""
        await super().dispose()
        admin = AIOKafkaAdminClient(bootstrap_servers=os.environ[KAFKA_ADDRESS])
        await admin.start()
        try:
            topics = [topic for topic in await admin.list_topics() if topic.startswith(self._prefix)]
            if topics:
                await admin.delete_topics(topics)
        finally:
            await admin.close()


KAFKA_ADDRESS = "HITHER_TEST_KAFKA"
"""The variable that names the run's Kafka, for this process and those that it starts."""
KAFKA_PARTITIONS = 8
BUS_PARTITIONS = 256


def cassandra_message_store(request: pytest.FixtureRequest) -> MessageStoreRig:
    server: CassandraServer = request.getfixturevalue("cassandra_server")
    server.empty("conformance")
    return Rig(lambda: CassandraMessageStore.open(["127.0.0.1"], server.port, "conformance"))


LOGS: dict[str, Callable[[Path], LogRig]] = {"sqlite": sqlite_log, "kafka": KafkaRig}


def postgresql_device_store(request: pytest.FixtureRequest) -> DeviceStoreRig:
    server: PostgresqlServer = request.getfixturevalue("postgresql_server")
    url = server.new_database()
    return Rig(lambda: SqlDeviceStore.open(url))


def sqlite_privacy_store(request: pytest.FixtureRequest) -> PrivacyStoreRig:
    folder: Path = request.getfixturevalue("tmp_path")
    return Rig(lambda: SqlPrivacyStore.open(sqlite_url(folder / "privacy.db")))


def postgresql_privacy_store(request: pytest.FixtureRequest) -> PrivacyStoreRig:
    server: PostgresqlServer = request.getfixturevalue("postgresql_server")
    url = server.new_database()
    return Rig(lambda: SqlPrivacyStore.open(url))


def sharded_device_store(request: pytest.FixtureRequest) -> DeviceStoreRig:
    server: PostgresqlServer = request.getfixturevalue("postgresql_server")
    urls = [server.new_database(), server.new_database()]
    return Rig(lambda: ShardedDeviceStore.open(urls))


def sqlite_live_session_store(request: pytest.FixtureRequest) -> LiveSessionStoreRig:
    folder: Path = request.getfixturevalue("tmp_path")
    return Rig(lambda: SqlLiveSessionStore.open(sqlite_url(folder / "live_sessions.db")))


def postgresql_live_session_store(request: pytest.FixtureRequest) -> LiveSessionStoreRig:
    server: PostgresqlServer = request.getfixturevalue("postgresql_server")
    url = server.new_database()
    return Rig(lambda: SqlLiveSessionStore.open(url))


def sqlite_push_store(request: pytest.FixtureRequest) -> PushStoreRig:
    folder: Path = request.getfixturevalue("tmp_path")
    return Rig(lambda: SqlPushStore.open(sqlite_url(folder / "push.db")))


def postgresql_push_store(request: pytest.FixtureRequest) -> PushStoreRig:
    server: PostgresqlServer = request.getfixturevalue("postgresql_server")
    url = server.new_database()
    return Rig(lambda: SqlPushStore.open(url))


def sqlite_delivery_log(request: pytest.FixtureRequest) -> DeliveryLogRig:
    folder: Path = request.getfixturevalue("tmp_path")
    return Rig(lambda: SqlDeliveryLog.open(sqlite_url(folder / "push.db")))


def postgresql_delivery_log(request: pytest.FixtureRequest) -> DeliveryLogRig:
    server: PostgresqlServer = request.getfixturevalue("postgresql_server")
    url = server.new_database()
    return Rig(lambda: SqlDeliveryLog.open(url))


MESSAGE_STORES: dict[str, Callable[[pytest.FixtureRequest], MessageStoreRig]] = {
    "sqlite": sqlite_message_store,
    "cassandra": cassandra_message_store,
}


class ClockedRig(Rig[Port]):
    """`clock` is the adapter's; `pass_time` lets time pass for its engine, too."""

    def __init__(self, make: Callable[[Clock], Awaitable[Port]], clock: Clock) -> None:
        super().__init__(lambda: make(clock))
        self.clock = clock

    async def pass_time(self, seconds: float) -> None:
        """Returns when so much time has passed."""
        if isinstance(self.clock, ManualClock):
            self.clock.advance(seconds)
        else:
            await asyncio.sleep(seconds)


HistoryRig = ClockedRig[LocationHistory]
ViewLogRig = ClockedRig[ViewLog]


def sqlite_view_log(request: pytest.FixtureRequest) -> ViewLogRig:
    folder: Path = request.getfixturevalue("tmp_path")
    return ViewLogRig(lambda clock: SqliteViewLog.open(folder / "views.db", clock), ManualClock())


def cassandra_view_log(request: pytest.FixtureRequest) -> ViewLogRig:
    server: CassandraServer = request.getfixturevalue("cassandra_server")
    server.empty("views")
    return ViewLogRig(lambda clock: CassandraViewLog.open(["127.0.0.1"], server.port, "views", clock), SystemClock())


VIEW_LOGS: dict[str, Callable[[pytest.FixtureRequest], ViewLogRig]] = {
    "sqlite": sqlite_view_log,
    "cassandra": cassandra_view_log,
}


def sqlite_history(request: pytest.FixtureRequest) -> HistoryRig:
    folder: Path = request.getfixturevalue("tmp_path")
    return HistoryRig(lambda clock: SqliteLocationHistory.open(folder / "history.db", clock), ManualClock())


def cassandra_history(request: pytest.FixtureRequest) -> HistoryRig:
    server: CassandraServer = request.getfixturevalue("cassandra_server")
    server.empty("history")
    return HistoryRig(
        lambda clock: CassandraLocationHistory.open(["127.0.0.1"], server.port, "history", clock), SystemClock()
    )


HISTORIES: dict[str, Callable[[pytest.FixtureRequest], HistoryRig]] = {
    "sqlite": sqlite_history,
    "cassandra": cassandra_history,
}
DEVICE_STORES: dict[str, Callable[[pytest.FixtureRequest], DeviceStoreRig]] = {
    "sqlite": sqlite_device_store,
    "postgresql": postgresql_device_store,
    "sharded": sharded_device_store,
}

PRIVACY_STORES: dict[str, Callable[[pytest.FixtureRequest], PrivacyStoreRig]] = {
    "sqlite": sqlite_privacy_store,
    "postgresql": postgresql_privacy_store,
}

PUSH_STORES: dict[str, Callable[[pytest.FixtureRequest], PushStoreRig]] = {
    "sqlite": sqlite_push_store,
    "postgresql": postgresql_push_store,
}

DELIVERY_LOGS: dict[str, Callable[[pytest.FixtureRequest], DeliveryLogRig]] = {
    "sqlite": sqlite_delivery_log,
    "postgresql": postgresql_delivery_log,
}

LIVE_SESSION_STORES: dict[str, Callable[[pytest.FixtureRequest], LiveSessionStoreRig]] = {
    "sqlite": sqlite_live_session_store,
    "postgresql": postgresql_live_session_store,
}


class CacheRig(ABC):
    """A cache that is empty at first, and whose time the test owns."""

    cache: Cache

    @abstractmethod
    async def pass_time(self, seconds: float) -> None:
        """Lets that much time go by for the cache. A server's own clock goes on beside it."""


class MemoryCacheRig(CacheRig):
    """Time is a clock that stands still until told."""

    def __init__(self) -> None:
        self._clock = ManualClock()
        self.cache = MemoryCache(self._clock)

    async def pass_time(self, seconds: float) -> None:
        """See CacheRig."""
        self._clock.advance(seconds)


class RedisCacheRig(CacheRig):
    """Redis keeps its own time, so that time passes by everything in it coming to its end earlier."""

    def __init__(self, servers: Sequence[RedisServer], cache: RedisCache) -> None:
        self._servers = servers
        self.cache = cache

    async def pass_time(self, seconds: float) -> None:
        """See CacheRig."""
        for server in self._servers:
            for key in _keys(server):
                server.ask("EVAL", _PASS_TIME, "1", key, str(round(seconds * 1000)))


def _keys(server: RedisServer) -> list[bytes]:
    keys = server.ask("KEYS", "*")
    assert isinstance(keys, list)
    return keys


async def redis_rig(servers: Sequence[RedisServer], url: str) -> CacheRig:
    for server in servers:
        server.ask("FLUSHALL")
    return RedisCacheRig(servers, await RedisCache.open(url))


_PASS_TIME = """
local key = KEYS[1]
local expires = redis.call('PEXPIRETIME', key)
assert(expires > 0, 'a key without an end')
if redis.call('TYPE', key).ok == 'hash' then
    local fields = redis.call('HGETALL', key)
    for i = 1, #fields, 2 do
        local field_expires = struct.unpack('>I8', fields[i + 1]) - ARGV[1]
        redis.call('HSET', key, fields[i], struct.pack('>I8', field_expires) .. string.sub(fields[i + 1], 9))
    end
end
redis.call('PEXPIREAT', key, expires - ARGV[1])
"""


async def memory_cache(request: pytest.FixtureRequest) -> CacheRig:
    return MemoryCacheRig()


async def redis_cache(request: pytest.FixtureRequest) -> CacheRig:
    server: RedisServer = request.getfixturevalue("redis_server")
    return await redis_rig([server], server.url)


async def sentinel_cache(request: pytest.FixtureRequest) -> CacheRig:
    servers: SentinelSet = request.getfixturevalue("sentinel_set")
    return await redis_rig([servers.primary()], servers.url)


async def cluster_cache(request: pytest.FixtureRequest) -> CacheRig:
    servers: RedisCluster = request.getfixturevalue("redis_cluster")
    return await redis_rig(servers.primaries(), servers.url)


CACHES = {"memory": memory_cache, "redis": redis_cache, "sentinel": sentinel_cache, "cluster": cluster_cache}


class BusRig:
    """A bus, and the servers that it listens at: none, if it is never away from its news."""

    def __init__(self, bus: Bus, *servers: RedisServer) -> None:
        self.bus = bus
        self._servers = servers

    async def interrupt(self) -> None:
        """Ends the connections over which news come, but not those of Sentinels, who would doubt the server for it; the bus is to
        come back by itself.
        """
        for server in self._servers:
            await asyncio.to_thread(_end_subscriptions, server)


def _end_subscriptions(server: RedisServer) -> None:
    listed = server.ask("CLIENT", "LIST", "TYPE", "pubsub")
    assert isinstance(listed, bytes)
    for line in listed.decode().splitlines():
        client = dict(part.partition("=")[::2] for part in line.split())
        if not client["name"].startswith("sentinel-"):
            server.ask("CLIENT", "KILL", "ID", client["id"])


async def memory_bus(request: pytest.FixtureRequest) -> BusRig:
    return BusRig(MemoryBus())


async def redis_bus(request: pytest.FixtureRequest) -> BusRig:
    server: RedisServer = request.getfixturevalue("redis_server")
    return BusRig(await RedisBus.open(server.url), server)


async def sentinel_bus(request: pytest.FixtureRequest) -> BusRig:
    servers: SentinelSet = request.getfixturevalue("sentinel_set")
    return BusRig(await RedisBus.open(servers.url), servers.primary())


async def sharded_bus(request: pytest.FixtureRequest) -> BusRig:
    group: BusServers = request.getfixturevalue("bus_servers")
    registry = EmbeddedRegistry(SystemClock())
    await announce(registry, *group.servers)
    return BusRig(await ShardedBus.open(registry, BUS_PARTITIONS), *group.servers)


BUSES = {"memory": memory_bus, "redis": redis_bus, "sentinel": sentinel_bus, "sharded": sharded_bus}
LOSSY_BUSES = {name: make for name, make in BUSES.items() if name != "memory"}


@pytest.fixture(autouse=True)
def kafka_address(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Has the server run that the test's adapter needs."""
    parameters = getattr(request.node, "callspec", None)
    if parameters is not None and "kafka" in parameters.id.split("-"):
        monkeypatch.setenv(KAFKA_ADDRESS, request.getfixturevalue("kafka").address)


@pytest.fixture(params=list(LOGS.values()), ids=list(LOGS))
async def log_rig(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[LogRig]:
    rig: LogRig = request.param(tmp_path)
    yield rig
    await rig.dispose()


@pytest.fixture
async def log(log_rig: LogRig) -> Log:
    return await log_rig.open()


@pytest.fixture(params=list(MESSAGE_STORES.values()), ids=list(MESSAGE_STORES))
async def message_store_rig(request: pytest.FixtureRequest) -> AsyncIterator[MessageStoreRig]:
    rig: MessageStoreRig = request.param(request)
    yield rig
    await rig.dispose()


@pytest.fixture
async def store(message_store_rig: MessageStoreRig) -> MessageStore:
    return await message_store_rig.open()


@pytest.fixture(params=list(DEVICE_STORES.values()), ids=list(DEVICE_STORES))
async def device_store_rig(request: pytest.FixtureRequest) -> AsyncIterator[DeviceStoreRig]:
    rig: DeviceStoreRig = request.param(request)
    yield rig
    await rig.dispose()


@pytest.fixture
async def devices(device_store_rig: DeviceStoreRig) -> DeviceStore:
    return await device_store_rig.open()


@pytest.fixture(params=list(PRIVACY_STORES.values()), ids=list(PRIVACY_STORES))
async def privacy_store_rig(request: pytest.FixtureRequest) -> AsyncIterator[PrivacyStoreRig]:
    rig: PrivacyStoreRig = request.param(request)
    yield rig
    await rig.dispose()


@pytest.fixture
async def privacy_store(privacy_store_rig: PrivacyStoreRig) -> PrivacyStore:
    return await privacy_store_rig.open()


@pytest.fixture(params=list(PUSH_STORES.values()), ids=list(PUSH_STORES))
async def push_store_rig(request: pytest.FixtureRequest) -> AsyncIterator[PushStoreRig]:
    rig: PushStoreRig = request.param(request)
    yield rig
    await rig.dispose()


@pytest.fixture
async def push_store(push_store_rig: PushStoreRig) -> PushStore:
    return await push_store_rig.open()


@pytest.fixture(params=list(DELIVERY_LOGS.values()), ids=list(DELIVERY_LOGS))
async def delivery_log_rig(request: pytest.FixtureRequest) -> AsyncIterator[DeliveryLogRig]:
    rig: DeliveryLogRig = request.param(request)
    yield rig
    await rig.dispose()


@pytest.fixture
async def delivery_log(delivery_log_rig: DeliveryLogRig) -> DeliveryLog:
    return await delivery_log_rig.open()


@pytest.fixture(params=list(HISTORIES.values()), ids=list(HISTORIES))
async def history_rig(request: pytest.FixtureRequest) -> AsyncIterator[HistoryRig]:
    rig: HistoryRig = request.param(request)
    yield rig
    await rig.dispose()


@pytest.fixture
async def history(history_rig: HistoryRig) -> LocationHistory:
    return await history_rig.open()


@pytest.fixture(params=list(LIVE_SESSION_STORES.values()), ids=list(LIVE_SESSION_STORES))
async def live_session_store_rig(request: pytest.FixtureRequest) -> AsyncIterator[LiveSessionStoreRig]:
    rig: LiveSessionStoreRig = request.param(request)
    yield rig
    await rig.dispose()


@pytest.fixture
async def live_sessions(live_session_store_rig: LiveSessionStoreRig) -> LiveSessionStore:
    return await live_session_store_rig.open()


@pytest.fixture(params=list(VIEW_LOGS.values()), ids=list(VIEW_LOGS))
async def view_log_rig(request: pytest.FixtureRequest) -> AsyncIterator[ViewLogRig]:
    rig: ViewLogRig = request.param(request)
    yield rig
    await rig.dispose()


@pytest.fixture
async def view_log(view_log_rig: ViewLogRig) -> ViewLog:
    return await view_log_rig.open()


@pytest.fixture(params=list(CACHES.values()), ids=list(CACHES))
async def cache_rig(request: pytest.FixtureRequest) -> AsyncIterator[CacheRig]:
    rig: CacheRig = await request.param(request)
    yield rig
    await rig.cache.close()


@pytest.fixture
def cache(cache_rig: CacheRig) -> Cache:
    return cache_rig.cache


@pytest.fixture(params=list(BUSES.values()), ids=list(BUSES))
async def bus_rig(request: pytest.FixtureRequest) -> AsyncIterator[BusRig]:
    rig: BusRig = await request.param(request)
    yield rig
    await rig.bus.close()


@pytest.fixture
def bus(bus_rig: BusRig) -> Bus:
    return bus_rig.bus
