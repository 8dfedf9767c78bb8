"""The adapters of each port. A suite runs once for every adapter that stands here; a new engine adds a line.

A rig opens an adapter over one place that is its own and empty at first, and opens it again over the same place.
"""

import hashlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Generic, Protocol, TypeVar

import pytest
from aiokafka.admin import AIOKafkaAdminClient

from services.ports.bus import Bus
from services.ports.cache import Cache
from services.ports.device_store import DeviceStore
from services.ports.log import Log
from services.ports.message_store import MessageStore
from services.storage.kafka.log import KafkaLog
from services.storage.memory.bus import MemoryBus
from services.storage.memory.cache import MemoryCache
from services.storage.sqlite.devices import SqliteDeviceStore
from services.storage.sqlite.log import SqliteLog
from services.storage.sqlite.messages import SqliteMessageStore
from tests.support.clock import ManualClock


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


def sqlite_log(folder: Path) -> LogRig:
    return Rig(lambda: SqliteLog.open(folder / "log.db"))


def sqlite_message_store(folder: Path) -> MessageStoreRig:
    return Rig(lambda: SqliteMessageStore.open(folder / "messages.db"))


def sqlite_device_store(folder: Path) -> DeviceStoreRig:
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

LOGS: dict[str, Callable[[Path], LogRig]] = {"sqlite": sqlite_log, "kafka": KafkaRig}
MESSAGE_STORES: dict[str, Callable[[Path], MessageStoreRig]] = {"sqlite": sqlite_message_store}
DEVICE_STORES: dict[str, Callable[[Path], DeviceStoreRig]] = {"sqlite": sqlite_device_store}


class CacheRig:
    """A cache whose time the test owns."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.cache: Cache = MemoryCache(self.clock)

    async def pass_time(self, seconds: float) -> None:
        """Lets that much time go by for the cache."""
        self.clock.advance(seconds)


CACHES = {"memory": CacheRig}
BUSES: dict[str, Callable[[], Bus]] = {"memory": MemoryBus}


@pytest.fixture(autouse=True)
def servers(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
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
async def message_store_rig(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[MessageStoreRig]:
    rig: MessageStoreRig = request.param(tmp_path)
    yield rig
    await rig.dispose()


@pytest.fixture
async def store(message_store_rig: MessageStoreRig) -> MessageStore:
    return await message_store_rig.open()


@pytest.fixture(params=list(DEVICE_STORES.values()), ids=list(DEVICE_STORES))
async def device_store_rig(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[DeviceStoreRig]:
    rig: DeviceStoreRig = request.param(tmp_path)
    yield rig
    await rig.dispose()


@pytest.fixture
async def devices(device_store_rig: DeviceStoreRig) -> DeviceStore:
    return await device_store_rig.open()


@pytest.fixture(params=list(CACHES.values()), ids=list(CACHES))
async def cache_rig(request: pytest.FixtureRequest) -> AsyncIterator[CacheRig]:
    rig: CacheRig = request.param()
    yield rig
    await rig.cache.close()


@pytest.fixture
def cache(cache_rig: CacheRig) -> Cache:
    return cache_rig.cache


@pytest.fixture(params=list(BUSES.values()), ids=list(BUSES))
async def bus(request: pytest.FixtureRequest) -> AsyncIterator[Bus]:
    bus: Bus = request.param()
    yield bus
    await bus.close()
