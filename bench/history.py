"""`python -m bench.history [--servers]`: what reading the newest 50 messages of a conversation costs, by where they come from.

Embedded: SQLite. With --servers: a Cassandra and a Redis that it starts. Each line reads the same conversations: from the store
alone; from this process's tails; and, where there is a Redis, from the shared tails alone, as a new owner would. Printed as a table.
"""

import argparse
import asyncio
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from bench.processes import cpu_s
from discovery.clock import SystemClock
from hither.messaging.v1 import messaging_pb2, messaging_service_pb2
from services.messaging.gathering import GatheringStore
from services.messaging.history import History
from services.messaging.membership import Members, Memberships
from services.messaging.reading import ConversationReads
from services.messaging.settings import MessagingSettings
from services.messaging.shared_tails import SharedTails
from services.messaging.tails import Tails
from services.ports.cache import Cache
from services.ports.message_store import MessageRow, MessageStore
from services.storage.cassandra.messages import CassandraMessageStore
from services.storage.redis.cache import RedisCache
from services.storage.sqlite.messages import SqliteMessageStore
from tests.support.servers.cassandra import CassandraServer
from tests.support.servers.redis import RedisServer

_CONVERSATIONS = 200
_MESSAGES = 300
_TEXT = "x" * 100
_AT_ONCE = 32
_SETTINGS = MessagingSettings(shared_tail_timeout_s=1.0)


async def _members(_conversation_id: str, _sender_id: str, _peer_id: str) -> Members:
    return ("ann", "ben")


def _names() -> list[str]:
    return [f"g.{number}" for number in range(_CONVERSATIONS)]


async def _fill(store: MessageStore) -> None:
    for name in _names():
        rows = []
        for seq in range(1, _MESSAGES + 1):
            message = messaging_pb2.Message(
                message_id=1 << 60, conversation_id=name, seq=seq, sender_id="ann", client_id=f"c{seq}", text=_TEXT
            )
            rows.append(MessageRow(name, seq, "ann", f"c{seq}", seq, message.SerializeToString()))
        await store.put_messages(rows)


class _Case:
    """One way to read: its name, the history that reads, and the tails that are to be forgotten before each read."""

    def __init__(self, name: str, store: MessageStore, reads: ConversationReads, tails: Tails | None) -> None:
        self.name = name
        self._tails = tails
        self._history = History(reads, store, Memberships(_members, SystemClock(), _SETTINGS), _SETTINGS)

    async def read(self, conversation_id: str) -> None:
        """One page."""
        if self._tails is not None:
            self._tails.forget(conversation_id)
        request = messaging_service_pb2.ListMessagesRequest(conversation_id=conversation_id)
        response = await self._history.list_messages(request, "ann")
        assert len(response.messages) == 50


async def _measure(case: _Case, reads: int, at_once: int, server_pids: list[int]) -> str:
    for name in _names():
        await case.read(name)
    names = _names()
    took: list[float] = []

    async def work(first: int) -> None:
        for number in range(first, reads, at_once):
            began_s = time.perf_counter()
            await case.read(names[number % len(names)])
            took.append(time.perf_counter() - began_s)

    servers_s, own_s, began_s = sum(map(cpu_s, server_pids)), time.process_time(), time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for first in range(at_once):
            group.create_task(work(first))
    wall_s, own_s = time.perf_counter() - began_s, time.process_time() - own_s
    servers_s = sum(map(cpu_s, server_pids)) - servers_s
    took.sort()
    return (
        f"{case.name:34} {at_once:3} at once  {reads / wall_s:7.0f} reads/s  CPU {own_s / reads * 1e6:6.0f} us own"
        f" {servers_s / reads * 1e6:6.0f} us servers"
        f"  p50 {took[reads // 2] * 1e3:6.2f} ms  p99 {took[reads * 99 // 100] * 1e3:6.2f} ms"
    )


@asynccontextmanager
async def _cases(engine: str, store: MessageStore, cache: Cache | None) -> AsyncIterator[list[_Case]]:
    gathering = GatheringStore(store)
    background: list[Callable[[], Awaitable[None]]] = [gathering.run]
    none = Tails(1, 1)
    tails = Tails(_SETTINGS.most_tails, _SETTINGS.most_tail_bytes)
    cases = [
        _Case(f"{engine}: store", store, ConversationReads(store, gathering.conversation_heads, none), none),
        _Case(f"{engine}: own tails", store, ConversationReads(store, gathering.conversation_heads, tails), None),
    ]
    if cache is not None:
        shared = SharedTails(cache, SystemClock(), _SETTINGS)
        background.append(shared.run)
        again = Tails(_SETTINGS.most_tails, _SETTINGS.most_tail_bytes)
        reads = ConversationReads(store, gathering.conversation_heads, again, shared)
        cases.append(_Case(f"{engine}: shared tails", store, reads, again))
    tasks = [asyncio.ensure_future(work()) for work in background]
    try:
        yield cases
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


async def _run(engine: str, store: MessageStore, cache: Cache | None, reads: int, pids: list[int]) -> None:
    await _fill(store)
    async with _cases(engine, store, cache) as cases:
        for at_once in (1, _AT_ONCE):
            for case in cases:
                print(await _measure(case, reads, at_once, pids), flush=True)


async def _embedded(folder: Path, reads: int) -> None:
    store = await SqliteMessageStore.open(folder / "messages.db")
    try:
        await _run("SQLite", store, None, reads, [])
    finally:
        await store.close()


async def _on_servers(folder: Path, reads: int) -> None:
    async with AsyncExitStack() as stack:
        cassandra = await asyncio.to_thread(CassandraServer, folder / "cassandra")
        stack.callback(cassandra.stop)
        (folder / "redis").mkdir()
        redis = await asyncio.to_thread(RedisServer, folder / "redis")
        stack.callback(redis.stop)
        for server in (cassandra, redis):
            await asyncio.to_thread(server.start)
        store = await CassandraMessageStore.open(["127.0.0.1"], cassandra.port, "bench")
        stack.push_async_callback(store.close)
        cache = await RedisCache.open(redis.url)
        stack.push_async_callback(cache.close)
        await _run("Cassandra", store, cache, reads, [cassandra.pid, redis.pid])


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(prog="python -m bench.history", description=__doc__)
    parser.add_argument("--servers", action="store_true", help="on Cassandra and Redis instead of SQLite")
    parser.add_argument("--reads", type=int, default=8_000, help="reads of each line")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run = _on_servers if options.servers else _embedded
        asyncio.run(run(Path(folder), options.reads))


if __name__ == "__main__":
    main()
