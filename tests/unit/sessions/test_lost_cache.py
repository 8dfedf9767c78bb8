"""The cache goes away, loses everything, and comes back: who is connected is found all the same, and put back."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager

import pytest

from discovery.errors import Unavailable
from services.sessions.service import Sessions
from services.sessions.settings import SessionsSettings
from services.storage.memory.bus import MemoryBus
from services.storage.memory.cache import MemoryCache
from services.storage.sqlite.devices import SqliteDeviceStore
from tests.support.clock import ManualClock
from tests.support.live import MemoryLiveSessions
from tests.unit.sessions.conftest import SessionsDesk, connection

ON_EDGE_1 = connection("edge-1", 7)
ON_EDGE_2 = connection("edge-2", 30)
OF_BOB = connection("edge-1", 8, user_id="bob")


class FragileCache(MemoryCache):
    """Can be away, and lose everything."""

    def __init__(self, clock: ManualClock) -> None:
        super().__init__(clock)
        self.is_away = False
        self.written = asyncio.Event()

    def lose_everything(self) -> None:
        self._slots.clear()

    async def get(self, keys: Sequence[str]) -> Sequence[bytes | None]:
        self._check()
        return await super().get(keys)

    async def set(self, items: Mapping[str, bytes], ttl_s: float) -> None:
        self._check()
        await super().set(items, ttl_s)
        self.written.set()

    async def put_field(self, key: str, field: str, value: bytes, ttl_s: float) -> None:
        self._check()
        await super().put_field(key, field, value, ttl_s)

    async def fields(self, keys: Sequence[str]) -> Sequence[Mapping[str, bytes]]:
        self._check()
        return await super().fields(keys)

    async def delete_field(self, key: str, field: str, expected: bytes | None = None) -> bool:
        self._check()
        return await super().delete_field(key, field, expected)

    def _check(self) -> None:
        if self.is_away:
            raise Unavailable("away")


class Outage:
    """The service at work over a cache that a test breaks."""

    def __init__(self, desk: SessionsDesk, cache: FragileCache) -> None:
        self.desk = desk
        self.cache = cache

    async def until_marked(self) -> None:
        """Returns when the service has written all that it had to, and then marked the cache."""
        self.cache.written.clear()
        async with asyncio.timeout(30):
            await self.cache.written.wait()

    async def in_the_cache(self, user_id: str) -> int:
        """How many connections of the user the cache itself has."""
        return len((await self.cache.fields([f"connections:{user_id}"]))[0])


@asynccontextmanager
async def at_work(desk: SessionsDesk) -> AsyncIterator[None]:
    async with asyncio.TaskGroup() as group:
        running = group.create_task(desk.sessions.run())
        async with asyncio.timeout(30):
            await desk.mesh.heeded.wait()
        yield
        running.cancel()


def over_a_fragile_cache(store: SqliteDeviceStore, settings: SessionsSettings) -> tuple[SessionsDesk, FragileCache]:
    desk = SessionsDesk(store, settings)
    cache = FragileCache(desk.clock)
    desk.sessions = Sessions(desk.mesh.mesh, cache, store, MemoryLiveSessions(), MemoryBus(), desk.clock, settings)
    desk.servicer = desk.sessions.servicer
    return desk, cache


@pytest.fixture
async def outage(store: SqliteDeviceStore) -> AsyncIterator[Outage]:
    desk, cache = over_a_fragile_cache(store, SessionsSettings(cache_check_s=0.01))
    async with at_work(desk):
        yield Outage(desk, cache)


async def test_connections_are_found_while_the_cache_is_away(outage: Outage) -> None:
    await outage.desk.register(ON_EDGE_1)
    outage.cache.is_away = True

    assert await outage.desk.lookup("ann") == [ON_EDGE_1]


async def test_a_connection_made_while_the_cache_is_away_counts_at_once_and_later(outage: Outage) -> None:
    outage.cache.is_away = True
    await outage.desk.register(ON_EDGE_1)
    found = await outage.desk.lookup("ann")

    outage.cache.is_away = False
    await outage.until_marked()

    assert found == [ON_EDGE_1]
    assert await outage.in_the_cache("ann") == 1


async def test_a_cache_that_comes_back_empty_is_filled_again(outage: Outage) -> None:
    await outage.desk.register(ON_EDGE_1)
    await outage.desk.register(OF_BOB)
    await outage.until_marked()

    outage.cache.lose_everything()
    found = await outage.desk.lookup("ann", "bob")
    await outage.until_marked()

    assert sorted(one.connection_id for one in found) == [7, 8]
    assert (await outage.in_the_cache("ann"), await outage.in_the_cache("bob")) == (1, 1)


async def test_what_was_removed_while_the_cache_was_away_stays_away(outage: Outage) -> None:
    await outage.desk.register(ON_EDGE_1)
    outage.cache.is_away = True
    await outage.desk.remove(ON_EDGE_1)

    outage.cache.is_away = False
    await outage.until_marked()

    assert await outage.desk.lookup("ann") == []


async def test_a_device_that_moved_while_the_cache_was_away_is_where_it_is(outage: Outage) -> None:
    await outage.desk.register(ON_EDGE_1)
    outage.cache.is_away = True
    await outage.desk.register(ON_EDGE_2)
    replaced = await outage.desk.renew(ON_EDGE_1)

    outage.cache.is_away = False
    await outage.until_marked()

    assert replaced == [7]
    assert await outage.desk.lookup("ann") == [ON_EDGE_2]


async def test_who_is_not_held_is_unknown_until_the_process_must_have_heard_of_every_connection(outage: Outage) -> None:
    outage.cache.is_away = True

    with pytest.raises(Unavailable):
        await outage.desk.lookup("ann")
    outage.desk.clock.advance(65)

    assert await outage.desk.lookup("ann") == []


async def test_a_connection_that_is_not_renewed_runs_out_in_memory_too(outage: Outage) -> None:
    await outage.desk.register(ON_EDGE_1)
    outage.cache.is_away = True

    outage.desk.clock.advance(65)

    assert await outage.desk.lookup("ann") == []


async def test_memory_of_users_whom_another_process_owns_now_is_dropped(outage: Outage) -> None:
    await outage.desk.register(ON_EDGE_1)
    outage.desk.mesh.heeded.clear()
    outage.desk.mesh.move(frozenset())
    async with asyncio.timeout(30):
        await outage.desk.mesh.heeded.wait()
    outage.cache.is_away = True

    with pytest.raises(Unavailable):
        await outage.desk.lookup("ann")


async def test_what_is_to_be_put_right_after_a_long_outage_has_a_limit(store: SqliteDeviceStore) -> None:
    desk, cache = over_a_fragile_cache(store, SessionsSettings(most_held=10))
    cache.is_away = True

    for number in range(30):
        await desk.register(connection("edge-1", number + 1, user_id=f"user{number}"))
        await desk.remove(connection("edge-1", number + 1, user_id=f"user{number}"))

    assert len(desk.sessions._registry._due) == 10
