"""Devices on several databases: who is where, which database is which, and what goes on while one is away."""

import asyncio
from collections.abc import Iterator

import pytest

from discovery.errors import Unavailable
from services.ports.device_store import CursorMove, DeviceRow
from services.storage.sql.devices import SqlDeviceStore
from services.storage.sql.sharded_devices import ShardedDeviceStore
from services.storage.sql.shards import Shard, shard_of
from tests.support.servers.postgresql import PostgresqlServer

FIRST, SECOND = "ann", "bob"


@pytest.fixture
def urls(postgresql_server: PostgresqlServer) -> list[str]:
    return [postgresql_server.new_database(), postgresql_server.new_database()]


@pytest.fixture
def server() -> Iterator[PostgresqlServer]:
    """One that a test may take away."""
    with PostgresqlServer() as server:
        yield server


@pytest.mark.parametrize(("user_id", "number"), [("ann", 0), ("bob", 1), ("", 0), ("zoë", 0)])
def test_a_users_shard_never_changes(user_id: str, number: int) -> None:
    assert shard_of(user_id, 2) == number


async def test_each_user_is_on_one_shard(urls: list[str]) -> None:
    store = await ShardedDeviceStore.open(urls)
    await store.touch(FIRST, "phone", 1, 1)
    await store.touch(SECOND, "phone", 1, 1)
    await store.close()

    second = await SqlDeviceStore.open(urls[1], shard=Shard(1, 2))
    assert await second.list_devices(FIRST, "", 9) == []
    assert await second.list_devices(SECOND, "", 9) == [DeviceRow(SECOND, "phone", 0, 1)]
    await second.close()


async def test_shards_in_another_order_are_refused(urls: list[str]) -> None:
    await (await ShardedDeviceStore.open(urls)).close()

    with pytest.raises(ValueError, match=r"is shard 2 of 2 .* cannot be shard 1 of 2"):
        await ShardedDeviceStore.open(urls[::-1])


async def test_another_number_of_shards_is_refused(urls: list[str], postgresql_server: PostgresqlServer) -> None:
    await (await ShardedDeviceStore.open(urls)).close()

    with pytest.raises(ValueError, match=r"is shard 1 of 2 .* cannot be shard 1 of 3"):
        await ShardedDeviceStore.open([*urls, postgresql_server.new_database()])
    with pytest.raises(ValueError, match=r"is shard 1 of 2 .* cannot be shard 1 of 1"):
        await SqlDeviceStore.open(urls[0])


async def test_while_a_shard_is_away_the_others_users_are_served(urls: list[str], server: PostgresqlServer) -> None:
    store = await ShardedDeviceStore.open([urls[0], server.new_database()])
    await store.touch(FIRST, "phone", 1, 1)
    await store.touch(SECOND, "phone", 1, 1)
    await asyncio.to_thread(server.kill)

    with pytest.raises(Unavailable):
        await store.advance([CursorMove(SECOND, "phone", 2), CursorMove(FIRST, "phone", 2)])
    assert await store.list_devices(FIRST, "", 9) == [DeviceRow(FIRST, "phone", 2, 1)]

    await asyncio.to_thread(server.start)
    assert await store.advance([CursorMove(SECOND, "phone", 3), CursorMove(FIRST, "phone", 3)]) == [0, 2]
    await store.close()
