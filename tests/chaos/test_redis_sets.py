"""A cluster whose cache is watched by Sentinels and whose bus is spread over three Redis, under the same storm as in test_cluster:
the primary dies and its replica takes over; a server of the bus dies, and the others take its topics.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence

import pytest
import pytest_asyncio

from tests.chaos.bystanders import Bystanders, bystanders
from tests.chaos.conftest import UNHURRIED
from tests.chaos.judging import judge
from tests.chaos.storm import Storm
from tests.support.apart import EDGES, TWO_OF_EACH, RunningCluster, Servers
from tests.support.servers.redis import BusServers, RedisServer, SentinelSet

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600), pytest.mark.asyncio(loop_scope="module")]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cluster(
    servers: Servers, sentinel_set: SentinelSet, bus_servers: BusServers, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[RunningCluster]:
    settings = {**UNHURRIED, "HITHER_ENGINES_CACHE": sentinel_set.url, "HITHER_ENGINES_BUS": "registry"}
    cluster = RunningCluster(tmp_path_factory.mktemp("sets") / "data", servers, settings, TWO_OF_EACH, EDGES)
    for server in bus_servers.servers:
        cluster.add_bus_server(server.url)
    try:
        await cluster.start()
        yield cluster
    finally:
        await cluster.kill()
        await asyncio.to_thread(sentinel_set.recover)
        await asyncio.to_thread(bus_servers.recover)


@pytest_asyncio.fixture(loop_scope="module")
async def people(cluster: RunningCluster) -> AsyncIterator[Bystanders]:
    async with bystanders(cluster) as people:
        yield people


def server_of(servers: Sequence[RedisServer], user_id: str) -> RedisServer:
    """A server where the news of the user's presence are heard; while they move there may be two."""
    return next(one for one in servers if one.answers() and one.ask("PUBSUB", "CHANNELS", f"*{user_id}"))


async def test_kill_9_of_the_primary_of_the_cache(storm: Storm, sentinel_set: SentinelSet, people: Bystanders) -> None:
    began_s = time.monotonic()
    before = await asyncio.to_thread(sentinel_set.primary)
    await asyncio.to_thread(before.kill)
    await people.talk()
    await judge(storm, "failover of the cache by Sentinel", began_s)

    assert await asyncio.to_thread(sentinel_set.primary) is not before
    await people.talk()
    await people.is_noticed()


async def test_kill_9_of_one_of_three_servers_of_the_bus(
    storm: Storm, bus_servers: BusServers, people: Bystanders
) -> None:
    await people.is_noticed()
    began_s = time.monotonic()
    victim = await asyncio.to_thread(server_of, bus_servers.servers, people.ann.user_id)
    await asyncio.to_thread(victim.kill)
    await people.talk()
    await people.is_noticed()
    heir = await asyncio.to_thread(server_of, bus_servers.servers, people.ann.user_id)
    await judge(storm, "kill -9 of one of three servers of the bus", began_s)

    assert heir is not victim
