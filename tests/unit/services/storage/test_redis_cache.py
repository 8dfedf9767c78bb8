"""The cache on Redis: what it leaves at the server, and a server that goes away and comes back."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from discovery.errors import HitherError, ResourceExhausted, Unavailable
from services.storage.redis.cache import RedisCache
from services.storage.redis.connections import RedisSettings
from tests.support.servers.process import free_port
from tests.support.servers.redis import RedisServer


@pytest.fixture
def server(redis_server: RedisServer) -> Iterator[RedisServer]:
    """The run's own server, empty; for a test that takes it away: it is there again for the next one."""
    redis_server.ask("FLUSHALL")
    yield redis_server
    redis_server.stop()
    redis_server.start()


@pytest.fixture
async def cache(server: RedisServer) -> AsyncIterator[RedisCache]:
    opened = await RedisCache.open(server.url, RedisSettings(connections=2, timeout_s=20.0))
    yield opened
    await opened.close()


CALLS: dict[str, Callable[[RedisCache], Awaitable[object]]] = {
    "get": lambda cache: cache.get(["a"]),
    "set": lambda cache: cache.set({"a": b"1"}, 1),
    "compare_and_set": lambda cache: cache.compare_and_set("a", None, b"1", 1),
    "delete": lambda cache: cache.delete(["a"]),
    "put_field": lambda cache: cache.put_field("a", "f", b"1", 1),
    "fields": lambda cache: cache.fields(["a"]),
    "delete_field": lambda cache: cache.delete_field("a", "f"),
}


async def outcome(call: Awaitable[object]) -> str:
    """What became of the call: its error's reason, or "done"."""
    try:
        await call
    except HitherError as error:
        return error.reason
    return "done"


async def test_keys_stand_under_a_prefix_and_each_has_an_end(cache: RedisCache, server: RedisServer) -> None:
    await cache.set({"a": b"1"}, 10)
    await cache.put_field("m", "long", b"2", 30)
    await cache.put_field("m", "short", b"3", 5)

    keys = server.ask("KEYS", "*")
    ends_ms = [server.ask("PTTL", "hither:a"), server.ask("PTTL", "hither:m")]

    assert isinstance(keys, list)
    assert sorted(keys) == [b"hither:a", b"hither:m"]
    assert [round(int(str(end)) / 10_000) for end in ends_ms] == [1, 3]


async def test_a_short_time_really_passes(cache: RedisCache, server: RedisServer) -> None:
    await cache.set({"a": b"1"}, 0.001)
    await cache.put_field("m", "f", b"1", 0.001)

    async with asyncio.timeout(30):
        while server.ask("DBSIZE") != 0:
            await asyncio.to_thread(server.ask, "DBSIZE")

    assert await cache.get(["a"]) == [None]
    assert await cache.fields(["m"]) == [{}]


async def test_a_map_without_fields_is_no_key(cache: RedisCache, server: RedisServer) -> None:
    await cache.put_field("m", "f", b"1", 10)
    await cache.delete_field("m", "f")

    assert server.ask("DBSIZE") == 0


async def test_a_server_that_forgot_the_scripts_is_told_them_again(cache: RedisCache, server: RedisServer) -> None:
    await cache.put_field("m", "f", b"1", 10)
    server.ask("SCRIPT", "FLUSH")

    await cache.put_field("m", "g", b"2", 10)

    assert await cache.fields(["m"]) == [{"f": b"1", "g": b"2"}]


async def test_two_thousand_calls_at_once_share_few_connections(cache: RedisCache) -> None:
    await asyncio.gather(*(cache.set({str(n): str(n).encode()}, 30) for n in range(2_000)))

    assert await asyncio.gather(*(cache.get([str(n)]) for n in range(2_000))) == [
        [str(n).encode()] for n in range(2_000)
    ]


async def test_more_calls_than_may_wait_are_refused(server: RedisServer) -> None:
    cache = await RedisCache.open(server.url, RedisSettings(calls_most=2))

    outcomes = await asyncio.gather(*(outcome(cache.get(["a"])) for _ in range(3)))
    await cache.close()

    assert sorted(outcomes) == [ResourceExhausted.reason, "done", "done"]


async def test_a_cancelled_call_never_leaves_its_answer_to_the_next(cache: RedisCache, server: RedisServer) -> None:
    await cache.set({"a": b"1", "b": b"2"}, 30)
    await asyncio.to_thread(server.pause)
    calls = [asyncio.create_task(cache.get(["a"])) for _ in range(4)]
    for _ in range(10):  # so that the commands are on their way and their answers are waited for
        await asyncio.to_thread(lambda: None)
    for call in calls:
        call.cancel()
    await asyncio.gather(*calls, return_exceptions=True)
    await asyncio.to_thread(server.resume)

    assert [await cache.get(["b"]) for _ in range(4)] == [[b"2"]] * 4


async def test_opening_where_no_server_is_is_unavailable() -> None:
    with pytest.raises(Unavailable) as caught:
        await RedisCache.open(f"redis://127.0.0.1:{free_port()}")

    assert caught.value.reason == "ENGINE_DOWN"


@pytest.mark.parametrize("call", CALLS.values(), ids=list(CALLS))
async def test_a_call_while_the_server_is_away_is_unavailable_and_the_next_one_works(
    cache: RedisCache, server: RedisServer, call: Callable[[RedisCache], Awaitable[object]]
) -> None:
    await asyncio.gather(*(cache.get(["a"]) for _ in range(4)))

    await asyncio.to_thread(server.kill)
    away = await outcome(call(cache))
    await asyncio.to_thread(server.start)

    assert away == "ENGINE_DOWN"
    assert await outcome(call(cache)) == "done"


async def test_connections_that_broke_while_nobody_used_them_fail_no_call(
    cache: RedisCache, server: RedisServer
) -> None:
    await asyncio.gather(*(cache.get(["a"]) for _ in range(4)))

    await asyncio.to_thread(server.kill)
    await asyncio.to_thread(server.start)

    assert await asyncio.gather(*(outcome(cache.get(["a"])) for _ in range(4))) == ["done"] * 4


async def test_a_server_that_answers_nothing_is_unavailable_and_works_again_when_it_does(server: RedisServer) -> None:
    cache = await RedisCache.open(server.url, RedisSettings(connections=2, timeout_s=2.0))
    await cache.set({"a": b"1"}, 30)
    await asyncio.to_thread(server.pause)

    outcomes = await asyncio.gather(*(outcome(cache.get(["a"])) for _ in range(8)))
    await asyncio.to_thread(server.resume)

    assert outcomes == ["ENGINE_DOWN"] * 8
    assert await cache.get(["a"]) == [b"1"]
    await cache.close()


async def test_a_password_is_in_no_error(tmp_path: Path) -> None:
    with pytest.raises(Unavailable) as caught:
        await RedisCache.open(f"redis://hither:s3cret@127.0.0.1:{free_port()}")

    assert "s3cret" not in f"{caught.value} {caught.value.__cause__}"


async def test_a_cancellation_that_the_driver_forgets_ends_the_call_all_the_same(
    cache: RedisCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def forgets(_: list[str]) -> list[bytes]:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(0)
        return [b"1"]

    monkeypatch.setattr(cache._client, "mget", forgets)
    asking = asyncio.create_task(cache.get(["a"]))

    await asyncio.wait([asking])

    assert asking.cancelled()


async def test_who_was_cancelled_may_use_the_cache_while_tidying_up(cache: RedisCache) -> None:
    begun = asyncio.Event()

    async def work() -> None:
        try:
            begun.set()
            await asyncio.Event().wait()
        finally:
            await cache.set({"a": b"left"}, 60)

    working = asyncio.create_task(work())
    await begun.wait()
    working.cancel()
    await asyncio.wait([working])

    assert working.cancelled()
    assert await cache.get(["a"]) == [b"left"]
