"""Processes that die and networks that part, told apart only: nobody is left who seems to be there and is not."""

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest_asyncio

from tests.support.apart import TWO_OF_ALL, RunningCluster, Servers, running_cluster
from tests.support.people import WAIT_S, befriend, line, sign_up
from tests.support.proxy import Proxy

# Shorter lives, so that a death is noticed while a test looks; who is there is reported often enough for them.
_SETTINGS = {
    "HITHER_EDGE_REPORT_S": "1",
    "HITHER_PRESENCE_DEVICE_LIFETIME_S": "4",
    "HITHER_PRESENCE_RECORD_TTL_S": "4",
    "HITHER_PRESENCE_OFFLINE_AFTER_S": "1",
}


class Parted:
    """A cluster whose bus can be cut off; the cache, on the same Redis, stays."""

    def __init__(self, cluster: RunningCluster, bus: Proxy, http: httpx.AsyncClient) -> None:
        self.cluster = cluster
        self.bus = bus
        self.http = http

    def websocket(self, edge: int) -> str:
        """Where clients connect to one edge."""
        return f"{self.cluster.urls[edge].replace('http', 'ws', 1)}/ws"


@pytest_asyncio.fixture
async def parted(servers: Servers, tmp_path: Path) -> AsyncIterator[Parted]:
    bus = Proxy(servers.redis.url.removeprefix("redis://").partition("/")[0])
    await bus.start()
    settings = {**_SETTINGS, "HITHER_ENGINES_BUS": f"redis://{bus.address}/0"}
    try:
        async with (
            running_cluster(tmp_path / "data", servers, settings, TWO_OF_ALL) as cluster,
            httpx.AsyncClient(base_url=cluster.url, timeout=WAIT_S) as http,
        ):
            yield Parted(cluster, bus, http)
    finally:
        await bus.stop()


async def test_neither_a_killed_edge_nor_a_parted_bus_leaves_a_ghost(parted: Parted) -> None:
    bob, ann, carol = [await sign_up(parted.http, name) for name in ("bob", "ann", "carol")]
    for friend in (ann, carol):
        await befriend(bob, friend)
    async with line(parted.websocket(0), bob) as his:
        async with line(parted.websocket(0), carol):
            await his.next("presence", user_id=carol.user_id, status="ONLINE")
            await parted.bus.stop()
        async with line(parted.websocket(1), ann):
            await parted.bus.start()
            gone = await his.next("presence", user_id=carol.user_id, status="OFFLINE")
            await his.next("presence", user_id=ann.user_id, status="ONLINE")
            await parted.cluster.processes["edge-2"].kill()
            dead = await his.next("presence", user_id=ann.user_id, status="OFFLINE")
        listed = {friend["user_id"]: friend["status"] for friend in (await bob.get("/presence"))["friends"]}
    assert gone["last_seen"]
    assert dead["last_seen"]
    assert listed == {ann.user_id: "OFFLINE", carol.user_id: "OFFLINE"}
