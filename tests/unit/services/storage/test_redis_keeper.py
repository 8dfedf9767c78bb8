"""Redis servers that their keepers announce, and a bus that goes by it when one of them dies."""

import asyncio
import os
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from discovery.clock import SystemClock
from discovery.errors import Unavailable
from discovery.registry.embedded import EmbeddedRegistry
from discovery.registry.etcd.registry import EtcdRegistry
from discovery.registry.port import Instance, Registry
from services.storage.redis.keeper import BusServerKeeper, KeeperSettings
from services.storage.redis.sharded import ShardedBus
from services.storage.redis.shards import SERVICE
from tests.support.servers.etcd import EtcdCluster
from tests.support.servers.redis import BusServers, RedisServer
from tests.unit.services.storage.test_redis_shards import (
    PARTITIONS,
    SETTINGS,
    TOPICS,
    listen,
    outcome,
    owners,
    publish_until_done,
)

QUICK = KeeperSettings(every_s=0.05, answer_s=0.3, silent_s=0.3, lease_s=1.0)


@pytest.fixture
def servers(bus_servers: BusServers) -> Iterator[list[RedisServer]]:
    """The run's own, whole and empty again for the next test."""
    bus_servers.recover()
    yield bus_servers.servers
    bus_servers.recover()


class AwayAtFirst(EmbeddedRegistry):
    """Refuses the first leases."""

    def __init__(self) -> None:
        super().__init__(SystemClock())
        self.refusals = 3

    async def grant(self, ttl_s: float) -> int:
        if self.refusals:
            self.refusals -= 1
            raise Unavailable("away")
        return await super().grant(ttl_s)


@asynccontextmanager
async def kept(registry: Registry, server: RedisServer) -> AsyncIterator[None]:
    """A keeper at work for the time of the block."""
    keeping = asyncio.create_task(BusServerKeeper.of(registry, server.url, weight=7, settings=QUICK).run())
    try:
        yield
    finally:
        keeping.cancel()
        await asyncio.wait([keeping])


async def announced(registry: Registry, *servers: RedisServer) -> list[Instance]:
    """What the registry says, when it names just these."""
    async with asyncio.timeout(30):
        async for snapshot in registry.watch():
            found = [one for one in snapshot.instances if one.service == SERVICE]
            if {one.address for one in found} == {server.address for server in servers}:
                return found
    raise AssertionError("the registry was closed")


async def test_a_server_is_announced_with_its_weight_while_its_keeper_works(servers: list[RedisServer]) -> None:
    registry = EmbeddedRegistry(SystemClock())
    address = servers[0].address

    async with kept(registry, servers[0]):
        assert await announced(registry, servers[0]) == [Instance(SERVICE, address, address, weight=7)]

    assert await announced(registry) == []


async def test_a_server_that_dies_is_withdrawn_and_announced_again_when_it_is_back(servers: list[RedisServer]) -> None:
    registry = EmbeddedRegistry(SystemClock())

    async with kept(registry, servers[0]):
        await announced(registry, servers[0])
        await asyncio.to_thread(servers[0].kill)
        await announced(registry)
        await asyncio.to_thread(servers[0].start)
        await announced(registry, servers[0])


async def test_a_server_that_answers_nothing_is_withdrawn(servers: list[RedisServer]) -> None:
    registry = EmbeddedRegistry(SystemClock())

    async with kept(registry, servers[0]):
        await announced(registry, servers[0])
        await asyncio.to_thread(servers[0].pause)
        await announced(registry)
        await asyncio.to_thread(servers[0].resume)
        await announced(registry, servers[0])


async def test_a_server_is_announced_when_the_registry_is_back(servers: list[RedisServer]) -> None:
    registry = AwayAtFirst()

    async with kept(registry, servers[0]):
        await announced(registry, servers[0])

    assert registry.refusals == 0


async def test_a_server_that_fell_out_of_the_registry_is_announced_again(servers: list[RedisServer]) -> None:
    registry = EmbeddedRegistry(SystemClock())
    keeper = BusServerKeeper.of(registry, servers[0].url, settings=QUICK)
    await keeper._look()
    await registry.revoke(keeper._lease)

    await keeper._look()

    await announced(registry, servers[0])
    await keeper._client.aclose()


def test_what_is_no_single_server_cannot_be_kept() -> None:
    with pytest.raises(ValueError, match="redis://HOST:PORT"):
        BusServerKeeper.of(EmbeddedRegistry(SystemClock()), "redis+sentinel://127.0.0.1:1/hither")


# As processes, on etcd


class Keeper:
    """`hither bus-server`, as a process."""

    def __init__(self, process: Process) -> None:
        self.process = process

    async def says(self, word: str) -> None:
        """Returns when it has said so."""
        assert self.process.stdout is not None
        async with asyncio.timeout(30):
            async for line in self.process.stdout:
                if line.decode().strip().endswith(word):
                    return
        raise AssertionError(f"it ended without saying {word}")


@pytest.fixture
async def keepers(etcd: EtcdCluster, servers: list[RedisServer], tmp_path: Path) -> AsyncIterator[list[Keeper]]:
    """One for each server, which it has announced."""
    (tmp_path / "cluster-id").write_text("keepers")
    registry = f"etcd://{etcd.endpoints[0]}"
    options = ["--registry", registry, "--data", str(tmp_path)]
    started = [
        Keeper(
            await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "services.cli", "bus-server", server.url, *options),
                stdout=PIPE,
                env={**os.environ, "PYTHONUNBUFFERED": "1"},
            )
        )
        for server in servers
    ]
    try:
        for keeper in started:
            await keeper.says("announced")
        yield started
    finally:
        for keeper in started:
            if keeper.process.returncode is None:
                keeper.process.kill()
            await keeper.process.wait()


async def test_topics_of_a_server_that_is_killed_go_on_at_the_others_by_themselves(
    keepers: list[Keeper], etcd: EtcdCluster, servers: list[RedisServer]
) -> None:
    registries = [await EtcdRegistry.open(etcd.endpoints, "keepers") for _ in range(2)]
    bus, other = [await ShardedBus.open(registry, PARTITIONS, settings=SETTINGS) for registry in registries]
    ear = await listen(bus)
    before = owners(*servers)
    moved = {topic for topic in TOPICS if before[topic] == servers[0].address}

    await asyncio.to_thread(servers[0].kill)
    async with asyncio.timeout(30):
        while bus._members[servers[0].address].server.is_live:
            await asyncio.to_thread(lambda: None)
    dead = {await outcome(bus.publish(topic, b"lost")) for topic in moved}
    alive = {await outcome(other.publish(topic, b"news")) for topic in TOPICS if topic not in moved}
    await ear.until(lambda: ear.gaps == moved)
    for topic in moved:
        await publish_until_done(other, topic, b"news")
    await ear.until(lambda: ear.news.keys() == set(TOPICS))

    assert (dead, alive) == ({"ENGINE_DOWN"}, {"done"})
    ear.gaps.clear()
    await asyncio.to_thread(servers[0].start)
    await ear.until(lambda: ear.gaps == moved)
    for topic in TOPICS:
        await publish_until_done(other, topic, b"more")
    await ear.until(lambda: all(news[-1] == b"more" for news in ear.news.values()))
    for one, registry in zip((bus, other), registries, strict=True):
        await one.close()
        await registry.close()


async def test_a_keeper_that_is_stopped_withdraws_its_server_at_once(
    keepers: list[Keeper], etcd: EtcdCluster, servers: list[RedisServer]
) -> None:
    registry = await EtcdRegistry.open(etcd.endpoints, "keepers")
    keepers[0].process.terminate()

    await keepers[0].says("withdrawn")
    await announced(registry, *servers[1:])

    assert await keepers[0].process.wait() == 0
    await registry.close()


async def test_a_server_whose_keeper_died_stays_for_its_lease_only(
    keepers: list[Keeper], etcd: EtcdCluster, servers: list[RedisServer]
) -> None:
    registry = await EtcdRegistry.open(etcd.endpoints, "keepers")

    keepers[0].process.kill()
    await announced(registry, *servers[1:])

    await registry.close()
