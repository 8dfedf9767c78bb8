"""A cluster and the storm on it, for all chaos tests of one file: each leaves the cluster whole for the next."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.chaos.storm import PEOPLE, Storm
from tests.support.apart import TWO_OF_EACH, RunningCluster, Servers, running_cluster

UNHURRIED = {
    "HITHER_MESSAGING_SEND_RATE_PER_S": "100000",
    "HITHER_MESSAGING_SEND_BURST": "100000",
    "HITHER_EDGE_FRAMES_PER_S": "100000",
    "HITHER_EDGE_FRAMES_BURST": "100000",
    "HITHER_PROCESS_LOG_LEVEL": "warning",
    "HITHER_PROCESS_DRAIN_S": "2",
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cluster(servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[RunningCluster]:
    """Two processes of each service and two edges, with no limit on rates."""
    data = tmp_path_factory.mktemp("storm") / "data"
    async with running_cluster(data, servers, UNHURRIED, TWO_OF_EACH) as cluster:
        yield cluster


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def storm(cluster: RunningCluster) -> AsyncIterator[Storm]:
    """Everybody writes, and has been acked twice."""
    names = [f"p{number}" for number in range(PEOPLE)]
    tokens = (await cluster.run("token", *names, "--device", "phone")).split()
    async with Storm(cluster.urls, tokens) as storm:
        await storm.everybody_acked(0.0, times=2)
        yield storm
