"""Engines die under the same storm as in test_cluster, and come back: nothing acked is lost, doubled or out of order, and while
an engine is away, what does not need it works, and what needs it says so.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import pytest_asyncio

from tests.chaos.bystanders import Bystanders, bystanders
from tests.chaos.judging import judge
from tests.chaos.storm import Storm
from tests.support.apart import RunningCluster, Servers
from tests.support.people import Frame, until
from tests.support.servers.process import ServerProcess

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600), pytest.mark.asyncio(loop_scope="module")]

OUTAGE_S = 5.0


@pytest_asyncio.fixture(loop_scope="module")
async def people(cluster: RunningCluster) -> AsyncIterator[Bystanders]:
    async with bystanders(cluster) as people:
        yield people


@asynccontextmanager
async def away(server: ServerProcess) -> AsyncIterator[None]:
    """kill -9; and at the end of the block, but not before 5 s have passed, a start on the same data."""
    await asyncio.to_thread(server.kill)
    over = asyncio.create_task(asyncio.sleep(OUTAGE_S))
    try:
        yield
        await over
    finally:
        over.cancel()
        await asyncio.to_thread(server.start)


async def shows(cluster: RunningCluster, process: str, engine: str) -> None:
    """Returns when the process is ready, and says of this engine, and of no other, that it is away."""

    async def does() -> bool:
        health = await cluster.health(process)
        return health["status"] == "degraded" and list(health["engines"]) == [engine]

    await until(does)


async def recovers(cluster: RunningCluster, process: str) -> None:
    """Returns when the process says that all is well."""

    async def does() -> bool:
        return bool((await cluster.health(process))["status"] == "ready")

    await until(does)


def assert_refused(answer: Frame) -> None:
    """For a time, with a word on when to come back."""
    assert (answer["type"], answer["code"]) == ("error", "UNAVAILABLE"), answer
    assert int(answer["retry_after_ms"]) > 0


async def test_kill_9_of_kafka(storm: Storm, cluster: RunningCluster, servers: Servers, people: Bystanders) -> None:
    began_s = time.monotonic()
    before = await people.talk()
    async with away(servers.kafka):
        refused = await people.say()
        found = await people.read_back()
        await people.is_noticed()
    await judge(storm, "kill -9 of Kafka, away for 5 s", began_s)

    assert_refused(refused)
    assert found[-1] == before
    await people.talk()


async def test_kill_9_of_cassandra(storm: Storm, cluster: RunningCluster, servers: Servers, people: Bystanders) -> None:
    began_s = time.monotonic()
    async with away(servers.cassandra):
        refused = await people.say()
        await people.is_noticed()
    await judge(storm, "kill -9 of Cassandra, away for 5 s", began_s)

    assert_refused(refused)
    await people.talk()


async def test_kill_9_of_redis_with_all_that_it_held(
    storm: Storm, cluster: RunningCluster, servers: Servers, people: Bystanders
) -> None:
    began_s = time.monotonic()
    async with away(servers.redis):
        await people.talk()
        await shows(cluster, "sessions-1", "cache")
    await judge(storm, "kill -9 of Redis, its data lost, away for 5 s", began_s)

    await people.talk()
    await people.is_noticed()
    await recovers(cluster, "sessions-1")


async def test_kill_9_of_postgresql(
    storm: Storm, cluster: RunningCluster, servers: Servers, people: Bystanders
) -> None:
    began_s = time.monotonic()
    async with away(servers.postgresql):
        await people.talk()
        refused = await people.ask_eve()
    await judge(storm, "kill -9 of PostgreSQL, away for 5 s", began_s)

    assert refused.status_code == 503
    assert int(refused.headers["retry-after"]) > 0
    assert (await people.ask_eve()).status_code == 200
