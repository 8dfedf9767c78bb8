"""Cache and bus where several Redis stand in for each other. A primary is killed, and no process of ours restarts."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Iterator

import pytest

from discovery.errors import HitherError, Unavailable
from services.storage.redis.bus import RedisBus
from services.storage.redis.cache import RedisCache
from services.storage.redis.connections import Cluster, RedisSettings, client_of, pool_of
from tests.support.servers.process import free_port
from tests.support.servers.redis import RedisCluster, RedisServer, SentinelSet

SETTINGS = RedisSettings(connections=4, timeout_s=2.0, reconnect_most_s=0.1)
KEYS = [str(n) for n in range(300)]
VALUES = {key: key.encode() for key in KEYS}


@pytest.fixture
def sentinels(sentinel_set: SentinelSet) -> Iterator[SentinelSet]:
    """The run's own, whole again for the next test."""
    yield sentinel_set
    sentinel_set.recover()


@pytest.fixture
def cluster(redis_cluster: RedisCluster) -> Iterator[RedisCluster]:
    """The run's own, whole again for the next test."""
    yield redis_cluster
    redis_cluster.recover()


@pytest.fixture
async def sentinel_cache(sentinels: SentinelSet) -> AsyncIterator[RedisCache]:
    cache = await RedisCache.open(sentinels.url, SETTINGS)
    yield cache
    await cache.close()


@pytest.fixture
async def cluster_cache(cluster: RedisCluster) -> AsyncIterator[RedisCache]:
    cache = await RedisCache.open(cluster.url, SETTINGS)
    yield cache
    await cache.close()


def held_by(cluster: RedisCluster, server: RedisServer) -> list[str]:
    """Those of KEYS that the primary has."""
    names = cluster.held_by(server, [f"hither:{key}" for key in KEYS])
    return [name.removeprefix("hither:") for name in names]


async def outcome(call: Awaitable[object]) -> str:
    """What became of the call: its error's reason, or "done"."""
    try:
        await call
    except HitherError as error:
        return error.reason
    return "done"


async def outcomes_until_done(cache: RedisCache) -> set[str]:
    """Calls until every kind of call works again; what became of those before."""
    seen: set[str] = set()
    async with asyncio.timeout(60):
        while True:
            rounds = [
                await outcome(cache.set(VALUES, 60)),
                await outcome(cache.get(KEYS)),
                await outcome(cache.fields(KEYS)),
                *[await outcome(cache.put_field(f"m{key}", "f", b"1", 60)) for key in KEYS[:8]],
            ]
            seen.update(rounds)
            if set(rounds) == {"done"}:
                return seen


async def test_a_cache_on_sentinels_survives_the_death_of_its_primary(
    sentinel_cache: RedisCache, sentinels: SentinelSet
) -> None:
    await sentinel_cache.set(VALUES, 60)
    dead = sentinels.primary()

    await asyncio.to_thread(dead.kill)
    first = await outcome(sentinel_cache.get(KEYS))
    seen = await outcomes_until_done(sentinel_cache)

    assert first == "ENGINE_DOWN"
    assert seen <= {"ENGINE_DOWN", "done"}
    assert await asyncio.to_thread(sentinels.primary) is not dead
    assert await sentinel_cache.get(KEYS) == list(VALUES.values())


async def test_a_cache_on_sentinels_leaves_a_primary_that_hung_and_was_replaced(
    sentinel_cache: RedisCache, sentinels: SentinelSet
) -> None:
    hung = sentinels.primary()

    await asyncio.to_thread(hung.pause)
    seen = await outcomes_until_done(sentinel_cache)
    await asyncio.to_thread(hung.resume)
    await asyncio.to_thread(sentinels.agree)

    assert seen == {"ENGINE_DOWN", "done"}
    assert await outcomes_until_done(sentinel_cache) <= {"ENGINE_DOWN", "done"}


async def test_a_sentinel_that_hangs_takes_no_calls_time(sentinels: SentinelSet) -> None:
    first = sentinels.sentinels[0]
    await asyncio.to_thread(first.pause)
    try:
        cache = await RedisCache.open(sentinels.url, SETTINGS)
        assert await outcome(cache.set(VALUES, 60)) == "done"
        await cache.close()
    finally:
        await asyncio.to_thread(first.resume)


async def test_a_cache_on_a_cluster_survives_the_death_of_a_primary(
    cluster_cache: RedisCache, cluster: RedisCluster
) -> None:
    await cluster_cache.set(VALUES, 60)
    dead = cluster.replicated()
    held = held_by(cluster, dead)
    others = [key for key in KEYS if key not in held]

    await asyncio.to_thread(dead.kill)
    first = await outcome(cluster_cache.get(held))
    meanwhile = await cluster_cache.get(others)
    seen = await outcomes_until_done(cluster_cache)

    assert first == "ENGINE_DOWN"
    assert meanwhile == [VALUES[key] for key in others]
    assert seen <= {"ENGINE_DOWN", "done"}
    assert await cluster_cache.get(KEYS) == list(VALUES.values())


async def test_a_cache_on_a_cluster_follows_slots_that_move(cluster_cache: RedisCache, cluster: RedisCluster) -> None:
    await cluster_cache.set(VALUES, 60)
    held = held_by(cluster, cluster.replicated())

    await asyncio.to_thread(cluster.take_over)

    assert await outcomes_until_done(cluster_cache) <= {"ENGINE_DOWN", "done"}
    assert await cluster_cache.get(held) == [VALUES[key] for key in held]


async def test_many_calls_at_once_share_few_connections_to_each_server_of_a_cluster(cluster_cache: RedisCache) -> None:
    outcomes = await asyncio.gather(*(outcome(cluster_cache.set({str(n): b"1"}, 30)) for n in range(1_000)))

    client = cluster_cache._client
    assert set(outcomes) == {"done"}
    assert isinstance(client, Cluster)
    assert max(len(node._connections) for node in client.get_nodes()) <= SETTINGS.connections + 1


@pytest.mark.parametrize("url", ["redis+sentinel://127.0.0.1:{port}/hither", "redis+cluster://127.0.0.1:{port}"])
async def test_opening_where_nobody_is_is_unavailable(url: str) -> None:
    with pytest.raises(Unavailable) as caught:
        await RedisCache.open(url.format(port=free_port()), SETTINGS)

    assert caught.value.reason == "ENGINE_DOWN"


@pytest.mark.parametrize(
    "url",
    [
        "redis+sentinel://127.0.0.1:1",
        "redis+sentinel:///hither",
        "redis+cluster://127.0.0.1:1/3",
        "http+sentinel://127.0.0.1:1/hither",
        "redis+other://127.0.0.1:1",
    ],
)
async def test_a_url_that_cannot_be_meant_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r"redis|Redis|host"):
        client_of(url, 1, SETTINGS)


async def test_a_bus_is_on_no_cluster() -> None:
    with pytest.raises(ValueError, match="not the URL"):
        await RedisBus.open("redis+cluster://127.0.0.1:1")


async def test_account_database_and_tls_are_those_of_the_url() -> None:
    pool = pool_of("rediss+sentinel://me:s%3Acret@a:1,b/hither/3?ssl_ca_certs=ca.pem", 2, SETTINGS)
    sentinels = pool.sentinel_manager.sentinels  # type: ignore[attr-defined]
    asking = [one.connection_pool.connection_kwargs for one in sentinels]

    said = {name: pool.connection_kwargs[name] for name in ("username", "password", "db", "ssl_ca_certs")}
    assert said == {"username": "me", "password": "s:cret", "db": 3, "ssl_ca_certs": "ca.pem"}
    assert [(one["host"], one["port"], one["ssl_ca_certs"]) for one in asking] == [
        ("a", 1, "ca.pem"),
        ("b", 26379, "ca.pem"),
    ]
    assert [one["password"] for one in asking] == [None, None]


async def test_a_bus_on_sentinels_comes_back_at_the_next_primary_and_tells_of_the_gap(sentinels: SentinelSet) -> None:
    here, there = await RedisBus.open(sentinels.url, SETTINGS), await RedisBus.open(sentinels.url, SETTINGS)
    news: asyncio.Queue[bytes] = asyncio.Queue()
    gaps: asyncio.Queue[str] = asyncio.Queue()
    await there.subscribe("t", lambda _, payload: news.put_nowait(payload), gaps.put_nowait)
    await here.publish("t", b"before")
    dead = sentinels.primary()

    await asyncio.to_thread(dead.kill)
    async with asyncio.timeout(30):
        assert await gaps.get() == "t"
        seen = {await outcome(here.publish("t", b"meanwhile"))}
        while "done" not in seen:
            seen.add(await outcome(here.publish("t", b"meanwhile")))
        told = [await news.get(), await news.get()]

    assert told == [b"before", b"meanwhile"]
    assert seen <= {"ENGINE_DOWN", "done"}
    assert await asyncio.to_thread(sentinels.primary) is not dead
    await here.close()
    await there.close()
