"""Three nodes and three copies of each row: what goes on without one of them, and what does not without two."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from itertools import count

import pytest

from discovery.errors import Unavailable
from services.ports.message_store import MessageRow
from services.storage.cassandra.messages import CassandraMessageStore
from tests.conftest import Require
from tests.support.servers.cassandra import CassandraServer, cassandra_cluster
from tests.support.servers.process import ServerMissing

HOSTS = ["127.0.0.1", "127.0.0.2", "127.0.0.3"]
WRITERS = 4
pytestmark = [pytest.mark.slow, pytest.mark.timeout(280)]


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory, require: Require) -> Iterator[list[CassandraServer]]:
    cluster = cassandra_cluster(tmp_path_factory.mktemp("nodes"))
    try:
        with cluster as running:
            yield running
    except ServerMissing as missing:
        require(False, str(missing))


@pytest.fixture
async def store(nodes: list[CassandraServer]) -> AsyncIterator[CassandraMessageStore]:
    opened = await CassandraMessageStore.open(HOSTS, nodes[0].port, "three", replication=3)
    yield opened
    await opened.close()


class Writers:
    """Each writes a conversation on, and reads it before each message. What failed is tried again."""

    def __init__(self, store: CassandraMessageStore) -> None:
        self.acked: dict[str, list[MessageRow]] = {f"c{number}": [] for number in range(WRITERS)}
        self._store = store
        self._news = asyncio.Event()

    async def write(self, conversation: str) -> None:
        for seq in count(1):
            row = MessageRow(conversation, seq, "ann", f"id-{seq}", seq, b"hi")
            await self._until_done(row)
            self.acked[conversation].append(row)
            self._news.set()

    async def each_reaches(self, more: int) -> None:
        """Returns when every writer has had that many further acks."""
        ends = {conversation: len(rows) + more for conversation, rows in self.acked.items()}
        while any(len(self.acked[conversation]) < end for conversation, end in ends.items()):
            self._news.clear()
            await self._news.wait()

    async def _until_done(self, row: MessageRow) -> None:
        while True:
            try:
                await self._store.conversation_heads([row.conversation_id])
                return await self._store.put_messages([row])
            except Unavailable:
                await asyncio.sleep(0.05)


async def test_a_node_may_die_and_a_second_one_ends_it_until_it_is_back(
    nodes: list[CassandraServer], store: CassandraMessageStore
) -> None:
    writers = Writers(store)
    async with asyncio.timeout(200):
        writing = [asyncio.create_task(writers.write(conversation)) for conversation in writers.acked]
        try:
            await writers.each_reaches(10)
            await asyncio.to_thread(nodes[2].kill)
            await writers.each_reaches(30)

            await asyncio.to_thread(nodes[1].kill)
            with pytest.raises(Unavailable) as caught:
                await store.put_messages([MessageRow("d", 1, "ann", "id", 1, b"hi")])

            await asyncio.to_thread(nodes[1].launch)
            await writers.each_reaches(10)
        finally:
            for task in writing:
                task.cancel()
            await asyncio.gather(*writing, return_exceptions=True)

    assert caught.value.reason == "ENGINE_DOWN"
    for conversation, rows in writers.acked.items():
        found = await store.read_messages(conversation, 0, len(rows) + 1, len(rows), newest=False)
        assert found == rows
