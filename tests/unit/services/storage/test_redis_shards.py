"""The bus over several Redis: servers come and go, and processes with an older ring than others harm nobody."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

import pytest
from prometheus_client import REGISTRY

from discovery.clock import SystemClock
from discovery.errors import HitherError, Unavailable
from discovery.partitions import partition_of
from discovery.registry.embedded import EmbeddedRegistry
from discovery.registry.port import Registry, Snapshot
from discovery.ring import assign
from services.storage.redis.connections import RedisSettings
from services.storage.redis.frames import Frame
from services.storage.redis.sharded import ShardedBus
from services.storage.redis.shards import NO_SHARDS, RING_TOPIC, Shards, shards_of, unpack
from tests.support.bus_servers import announce
from tests.support.servers.redis import BusServers, RedisServer

PARTITIONS = 256
SETTINGS = RedisSettings(timeout_s=5.0, heartbeat_s=0.5, reconnect_most_s=0.1)
TOPICS = [f"t{n}" for n in range(60)]


class Ear:
    """Keeps what it hears and the gaps that it is told of."""

    def __init__(self) -> None:
        self.news: dict[str, list[bytes]] = {}
        self.gaps: set[str] = set()
        self._more = asyncio.Event()

    def hear(self, topic: str, payload: bytes) -> None:
        self.news.setdefault(topic, []).append(payload)
        self._more.set()

    def miss(self, topic: str) -> None:
        self.gaps.add(topic)
        self._more.set()

    async def until(self, holds: Callable[[], bool]) -> None:
        """Returns when it holds, looked at after each of the news and gaps."""
        async with asyncio.timeout(30):
            while not holds():
                self._more.clear()
                await self._more.wait()


class CutOff:
    """A registry that a process lost sight of after its first snapshot."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    async def snapshot(self) -> Snapshot:
        raise Unavailable("cut off")

    async def watch(self) -> AsyncIterator[Snapshot]:
        yield await self._registry.snapshot()
        await asyncio.Event().wait()


@pytest.fixture
def servers(bus_servers: BusServers) -> Iterator[list[RedisServer]]:
    """The run's own, whole and empty again for the next test."""
    bus_servers.recover()
    yield bus_servers.servers
    bus_servers.recover()


@pytest.fixture
def registry() -> EmbeddedRegistry:
    return EmbeddedRegistry(SystemClock())


@pytest.fixture
async def opened() -> AsyncIterator[Callable[[Registry], Awaitable[ShardedBus]]]:
    """Opens buses, each as another process, and closes them at the end."""
    buses: list[ShardedBus] = []

    async def open_one(registry: Registry) -> ShardedBus:
        buses.append(await ShardedBus.open(registry, PARTITIONS, settings=SETTINGS))
        return buses[-1]

    yield open_one
    for bus in buses:
        await bus.close()


Open = Callable[[Registry], Awaitable[ShardedBus]]


async def listen(bus: ShardedBus, topics: list[str] = TOPICS) -> Ear:
    ear = Ear()
    for topic in topics:
        await bus.subscribe(topic, ear.hear, ear.miss)
    return ear


async def outcome(call: Awaitable[object]) -> str:
    """What became of the call: its error's reason, or "done"."""
    try:
        await call
    except HitherError as error:
        return error.reason
    return "done"


async def publish_until_done(bus: ShardedBus, topic: str, payload: bytes) -> set[str]:
    """As a publisher does that repeats what failed; what became of its tries."""
    seen: set[str] = set()
    async with asyncio.timeout(30):
        while "done" not in seen:
            seen.add(await outcome(bus.publish(topic, payload)))
    return seen


def owners(*servers: RedisServer) -> dict[str, str]:
    """The address of each topic's server."""
    placed = assign({server.address: 100 for server in servers}, PARTITIONS)
    return {topic: placed[partition_of(topic, PARTITIONS)] for topic in TOPICS}


async def channels(server: RedisServer) -> set[str]:
    """The topics that somebody listens to at the server."""
    answer = await asyncio.to_thread(server.ask, "PUBSUB", "CHANNELS")
    assert isinstance(answer, list)
    return {channel.decode().removeprefix("hither:") for channel in answer} - {RING_TOPIC}


async def listened_at(server: RedisServer, topics: set[str]) -> None:
    """Returns when just these are."""
    async with asyncio.timeout(30):
        while await channels(server) != topics:
            pass


def count(name: str) -> float:
    return REGISTRY.get_sample_value(name) or 0.0


# Where topics are


async def test_each_topic_is_at_the_server_that_the_ring_gives_it(
    opened: Open, registry: EmbeddedRegistry, servers: list[RedisServer]
) -> None:
    await announce(registry, *servers)
    bus, other = await opened(registry), await opened(registry)
    ear = await listen(bus)

    for topic in TOPICS:
        await other.publish(topic, b"news")

    await ear.until(lambda: len(ear.news) == len(TOPICS))
    placed = owners(*servers)
    for server in servers:
        assert await channels(server) == {topic for topic in TOPICS if placed[topic] == server.address} != set()
    assert count("hither_bus_servers") == 3
    assert not ear.gaps


async def test_opening_without_any_server_is_unavailable(registry: EmbeddedRegistry) -> None:
    with pytest.raises(Unavailable) as caught:
        await ShardedBus.open(registry, PARTITIONS, settings=RedisSettings(timeout_s=0.1))

    assert caught.value.reason == "ENGINE_DOWN"


async def test_opening_while_one_of_several_servers_is_away_serves_the_others_topics(
    registry: EmbeddedRegistry, servers: list[RedisServer]
) -> None:
    await announce(registry, *servers)
    await asyncio.to_thread(servers[0].kill)
    placed = owners(*servers)

    bus = await ShardedBus.open(registry, PARTITIONS, settings=RedisSettings(timeout_s=0.5))
    outcomes = {topic: await outcome(bus.publish(topic, b"news")) for topic in TOPICS}
    await bus.close()

    assert outcomes == {topic: "ENGINE_DOWN" if placed[topic] == servers[0].address else "done" for topic in TOPICS}


# Servers that come and go


async def test_topics_move_to_a_server_that_comes_and_leave_the_old_one(
    opened: Open, registry: EmbeddedRegistry, servers: list[RedisServer]
) -> None:
    await announce(registry, *servers[:2])
    bus, other = await opened(registry), await opened(registry)
    ear = await listen(bus)
    before, after = owners(*servers[:2]), owners(*servers)
    moved = {topic for topic in TOPICS if before[topic] != after[topic]}
    moves = count("hither_bus_moves_total")

    await announce(registry, servers[2])
    await ear.until(lambda: ear.gaps == moved)
    for topic in TOPICS:
        await publish_until_done(other, topic, b"news")

    await ear.until(lambda: len(ear.news) == len(TOPICS))
    assert all(heard == [b"news"] for heard in ear.news.values())
    for server in servers:
        await listened_at(server, {topic for topic in TOPICS if after[topic] == server.address})
    assert count("hither_bus_moves_total") == moves + len(moved)
    assert moved


async def test_who_publishes_and_listens_hears_itself_whatever_moves(
    opened: Open, registry: EmbeddedRegistry, servers: list[RedisServer]
) -> None:
    first, _ = await announce(registry, *servers[:2])
    bus = await opened(registry)
    ear = await listen(bus)

    async def heard_at_once(topic: str, payload: bytes) -> bool:
        return await outcome(bus.publish(topic, payload)) != "done" or payload in ear.news[topic]

    async def publish(topic: str) -> list[bool]:
        return [await heard_at_once(topic, b"%d" % n) for n in range(50)]

    publishing = asyncio.gather(*(publish(topic) for topic in TOPICS))
    await announce(registry, servers[2])
    await registry.revoke(first)

    assert all(all(heard) for heard in await publishing)
    assert all(news == sorted(news, key=int) for news in ear.news.values())


async def test_topics_leave_a_server_that_is_withdrawn_and_nobody_is_connected_to_it_then(
    opened: Open, registry: EmbeddedRegistry, servers: list[RedisServer]
) -> None:
    leases = await announce(registry, *servers)
    bus = await opened(registry)
    ear = await listen(bus)
    placed = owners(*servers)
    moved = {topic for topic in TOPICS if placed[topic] == servers[0].address}

    await registry.revoke(leases[0])
    await ear.until(lambda: ear.gaps == moved)

    await listened_at(servers[0], set())
    async with asyncio.timeout(30):
        while servers[0].address in bus._members:
            await channels(servers[0])
    assert [await outcome(bus.publish(topic, b"news")) for topic in TOPICS] == ["done"] * len(TOPICS)


async def test_without_any_server_calls_are_unavailable_and_work_again_when_one_comes(
    opened: Open, registry: EmbeddedRegistry, servers: list[RedisServer]
) -> None:
    (lease,) = await announce(registry, servers[0])
    bus = await opened(registry)
    ear = await listen(bus, ["t"])

    await registry.revoke(lease)
    async with asyncio.timeout(30):
        while await outcome(bus.publish("t", b"lost")) == "done":
            pass
    with pytest.raises(Unavailable):
        await bus.subscribe("u", ear.hear)
    await announce(registry, servers[1])
    await ear.until(lambda: ear.gaps == {"t"})

    await publish_until_done(bus, "t", b"news")
    assert ear.news["t"][-1] == b"news"


async def test_a_server_that_restarts_within_the_ring_leads_to_gaps_and_no_moves(
    opened: Open, registry: EmbeddedRegistry, servers: list[RedisServer]
) -> None:
    await announce(registry, *servers)
    bus = await opened(registry)
    ear = await listen(bus)
    placed = owners(*servers)
    moves = count("hither_bus_moves_total")

    await asyncio.to_thread(servers[0].kill)
    await asyncio.to_thread(servers[0].start)

    await ear.until(lambda: ear.gaps == {topic for topic in TOPICS if placed[topic] == servers[0].address})
    assert [await outcome(bus.publish(topic, b"news")) for topic in TOPICS] == ["done"] * len(TOPICS)
    assert count("hither_bus_moves_total") == moves


# Processes with another ring


async def test_a_publisher_that_lost_the_registry_learns_of_the_new_ring_from_the_old_server(
    opened: Open, registry: EmbeddedRegistry, servers: list[RedisServer]
) -> None:
    await announce(registry, *servers[:2])
    bus, lost = await opened(registry), await opened(CutOff(registry))  # type: ignore[arg-type]
    ear = await listen(bus)
    before, after = owners(*servers[:2]), owners(*servers)

    await announce(registry, servers[2])
    for server in servers[:2]:
        await listened_at(server, {topic for topic in TOPICS if after[topic] == server.address})
    seen = [await publish_until_done(lost, topic, b"news") for topic in TOPICS]

    await ear.until(lambda: len(ear.news) == len(TOPICS))
    assert set().union(*seen) <= {"ENGINE_DOWN", "done"}
    assert before != after


async def test_a_publisher_that_hears_nothing_of_a_new_ring_is_refused_where_nobody_listens_any_more(
    opened: Open, registry: EmbeddedRegistry, servers: list[RedisServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    await announce(registry, *servers[:2])
    bus, lost = await opened(registry), await opened(CutOff(registry))  # type: ignore[arg-type]
    await listen(bus)
    moved = next(topic for topic in TOPICS if owners(*servers[:2])[topic] != owners(*servers)[topic])
    monkeypatch.setattr(lost, "_adopt", lambda _: None)

    await announce(registry, servers[2])
    for server in servers[:2]:
        await listened_at(server, {topic for topic, address in owners(*servers).items() if address == server.address})

    assert await outcome(lost.publish(moved, b"lost")) == "ENGINE_DOWN"


async def test_a_listener_that_lost_the_registry_learns_of_the_new_ring_from_its_servers(
    opened: Open, registry: EmbeddedRegistry, servers: list[RedisServer]
) -> None:
    await announce(registry, *servers[:2])
    publisher, lost = await opened(registry), await opened(CutOff(registry))  # type: ignore[arg-type]
    ear = await listen(lost)
    before, after = owners(*servers[:2]), owners(*servers)

    await announce(registry, servers[2])
    await ear.until(lambda: ear.gaps == {topic for topic in TOPICS if before[topic] != after[topic]})
    for topic in TOPICS:
        await publish_until_done(publisher, topic, b"news")

    await ear.until(lambda: len(ear.news) == len(TOPICS))


async def test_the_ring_of_a_registry_that_has_begun_anew_replaces_a_newer_one(
    opened: Open, registry: EmbeddedRegistry, servers: list[RedisServer]
) -> None:
    kept = Shards(1_000_000, {"127.0.0.1:1": 100}, ())
    await asyncio.to_thread(servers[0].ask, "SET", "hither:ring", kept.packed())
    await announce(registry, servers[0])
    bus = await opened(registry)

    await publish_until_done(bus, "t", b"news")

    answer = await asyncio.to_thread(servers[0].ask, "GET", "hither:ring")
    assert isinstance(answer, bytes)
    found = unpack(answer, NO_SHARDS, PARTITIONS)
    assert found is not None
    assert dict(found.weights) == {servers[0].address: 100}


async def test_news_of_one_publisher_never_come_in_the_wrong_order_over_two_servers(
    opened: Open, registry: EmbeddedRegistry, servers: list[RedisServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    await announce(registry, *servers[:2])
    bus = await opened(registry)
    ear = await listen(bus)
    moved = next(topic for topic in TOPICS if owners(*servers[:2])[topic] != owners(*servers)[topic])
    monkeypatch.setattr(bus, "_may_let_go", lambda _: False)
    await announce(registry, servers[2])
    await ear.until(lambda: moved in ear.gaps)
    listened = bus._listened[moved]
    (old,) = listened.old

    for server, number in ((old, 1), (listened.home, 3), (old, 2), (listened.home, 4), (old, 4)):
        bus.heard(server, moved, Frame(b"publishr", number, b"%d" % number))

    assert ear.news[moved] == [b"1", b"3", b"4"]


# Values


async def test_a_ring_comes_back_from_a_server_as_it_was(
    registry: EmbeddedRegistry, servers: list[RedisServer]
) -> None:
    await announce(registry, *servers)
    shards = shards_of(await registry.snapshot(), NO_SHARDS, PARTITIONS)

    assert unpack(shards.packed(), NO_SHARDS, PARTITIONS) == shards
    assert [unpack(data, shards, PARTITIONS) for data in (b"", b"x {}", b"1 {", b'1 {"a": "b"}')] == [None] * 4
