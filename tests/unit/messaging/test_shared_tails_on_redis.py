"""Tails in a real Redis: that they come back from there, and that reads go on when it hangs, dies and returns."""

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest

from services.messaging.settings import MessagingSettings
from services.messaging.shared_tails import SharedTails
from services.messaging.tails import Tail, tail_of
from services.ports.message_store import MessageRow
from services.storage.redis.cache import RedisCache
from tests.support.clock import ManualClock
from tests.support.people import until
from tests.support.servers.redis import RedisServer

TAIL = tail_of([MessageRow("g.1", seq, "ann", f"c{seq}", seq, b"\x00\xff" * 50) for seq in range(1, 101)])


@pytest.fixture
def server(redis_server: RedisServer) -> Iterator[RedisServer]:
    """The run's own server, empty; it is there again for the next test."""
    redis_server.ask("FLUSHALL")
    yield redis_server
    redis_server.stop()
    redis_server.start()


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def shared(server: RedisServer, clock: ManualClock) -> AsyncIterator[SharedTails]:
    cache = await RedisCache.open(server.url)
    tails = SharedTails(cache, clock, MessagingSettings(shared_tail_timeout_s=0.5))
    running = asyncio.create_task(tails.run())
    yield tails
    assert not running.done()
    running.cancel()
    await cache.close()


async def found(shared: SharedTails, expected: Tail | None) -> None:
    async def is_there() -> bool:
        return await shared.find("g.1") == expected

    await until(is_there)


async def test_a_tail_that_was_offered_is_found_and_ends_after_its_time(
    shared: SharedTails, server: RedisServer
) -> None:
    shared.offer("g.1", TAIL)
    await found(shared, TAIL)

    left_ms = server.ask("PTTL", "hither:messaging:tail:g.1")
    assert isinstance(left_ms, int)
    assert 86_000_000 < left_ms <= 86_400_000
    assert await shared.find("g.2") is None


async def test_a_server_that_hangs_or_is_gone_is_a_miss_and_is_used_again_when_it_is_back(
    shared: SharedTails, server: RedisServer, clock: ManualClock
) -> None:
    shared.offer("g.1", TAIL)
    await found(shared, TAIL)
    server.pause()
    assert await shared.find("g.1") is None
    server.resume()
    assert await shared.find("g.1") is None

    clock.advance(5.1)
    await found(shared, TAIL)
    await asyncio.to_thread(server.kill)
    assert await shared.find("g.1") is None
    shared.offer("g.1", TAIL)

    await asyncio.to_thread(server.start)
    clock.advance(5.1)
    assert await shared.find("g.1") is None
    shared.offer("g.1", TAIL)
    await found(shared, TAIL)
