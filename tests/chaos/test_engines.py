"""Engines die under the same storm as in test_cluster, and come back: nothing acked is lost, doubled or out of order, and while
an engine is away, what does not need it still works.
"""

import asyncio
import time

import pytest

from tests.chaos.judging import judge
from tests.chaos.storm import Storm
from tests.support.apart import Servers
from tests.support.servers.process import ServerProcess

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600), pytest.mark.asyncio(loop_scope="module")]

OUTAGE_S = 5.0


async def lose(server: ServerProcess) -> None:
    """kill -9, and a start on the same data after a while."""
    await asyncio.to_thread(server.kill)
    await asyncio.sleep(OUTAGE_S)
    await asyncio.to_thread(server.start)


async def test_kill_9_of_kafka(storm: Storm, servers: Servers) -> None:
    began_s = time.monotonic()
    await lose(servers.kafka)
    await judge(storm, "kill -9 of Kafka, away for 5 s", began_s)


async def test_kill_9_of_cassandra(storm: Storm, servers: Servers) -> None:
    began_s = time.monotonic()
    await lose(servers.cassandra)
    await judge(storm, "kill -9 of Cassandra, away for 5 s", began_s)


async def test_kill_9_of_redis_with_all_that_it_held(storm: Storm, servers: Servers) -> None:
    began_s = time.monotonic()
    await lose(servers.redis)
    await judge(storm, "kill -9 of Redis, its data lost, away for 5 s", began_s)


async def test_kill_9_of_postgresql(storm: Storm, servers: Servers) -> None:
    began_s = time.monotonic()
    await lose(servers.postgresql)
    await judge(storm, "kill -9 of PostgreSQL, away for 5 s", began_s)
