"""Message stores over one keyspace of a real Cassandra, with buckets so small that tests cross them."""

from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from services.storage.cassandra.messages import CassandraMessageStore
from tests.support.servers.cassandra import CassandraServer

PLACES = 4
OpenStore = Callable[[], Awaitable[CassandraMessageStore]]


@pytest.fixture
async def open_store(cassandra_server: CassandraServer) -> AsyncIterator[OpenStore]:
    """Opens stores over a keyspace that is empty at first; they are closed at the end."""
    cassandra_server.empty("small_buckets")
    opened: list[CassandraMessageStore] = []

    async def open_one() -> CassandraMessageStore:
        opened.append(
            await CassandraMessageStore.open(
                ["127.0.0.1"], cassandra_server.port, "small_buckets", places_a_bucket=PLACES
            )
        )
        return opened[-1]

    yield open_one
    for store in opened:
        await store.close()


@pytest.fixture
async def store(open_store: OpenStore) -> CassandraMessageStore:
    return await open_store()
