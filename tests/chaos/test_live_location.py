"""Live location while what it stands on dies: Redis with all that it held, and whoever owns the conversation."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from tests.support.apart import RunningCluster, Servers, running_cluster
from tests.support.people import WAIT_S, Frame, Line, befriend, line, sign_up

pytestmark = [pytest.mark.slow, pytest.mark.timeout(280)]

LAYOUT = (("directory", "sessions", "messaging", "presence", "push"), ("location",), ("location",))
TAKEN_OVER_S = 60.0
"""Until which somebody else owns what a dead process owned, whose lease of 10 s has to run out."""
_ASK_S = 0.1


@dataclass(frozen=True)
class Walk:
    """Alice shares in a group, and Bob watches; neither connects or asks to watch again."""

    cluster: RunningCluster
    hers: Line
    his: Line
    conversation_id: str
    session_id: str

    async def move(self, lat: float) -> Frame:
        """What one attempt is answered."""
        return await self.hers.ask("live_location_update", session_id=self.session_id, lat=lat, lng=1.0)

    async def arrives(self, lat: float) -> None:
        """Returns when a place was taken and Bob has seen it."""
        async with asyncio.timeout(TAKEN_OVER_S):
            while (answer := await self.move(lat))["type"] != "ok":
                assert answer["code"] in ("UNAVAILABLE", "DEADLINE_EXCEEDED"), answer
                await asyncio.sleep(_ASK_S)
        assert (await self.his.next("live_location", lat=lat))["session_id"] == self.session_id


@pytest.fixture
async def walk(servers: Servers, tmp_path: Path) -> AsyncIterator[Walk]:
    async with (
        running_cluster(tmp_path / "data", servers, layout=LAYOUT) as cluster,
        httpx.AsyncClient(base_url=cluster.url, timeout=WAIT_S) as http,
    ):
        alice, bob = await sign_up(http, "alice"), await sign_up(http, "bob")
        await befriend(alice, bob)
        group = await alice.post("/conversations", {"name": "Walk", "member_ids": [bob.user_id]})
        conversation_id = group["conversation"]["conversation_id"]
        async with line(cluster.websocket_url, alice) as hers, line(cluster.websocket_url, bob) as his:
            started = await hers.ask("start_live_location", conversation_id=conversation_id, duration_s=900)
            shown = await his.ask("watch_live_location", conversation_id=conversation_id)
            assert (started["type"], shown["type"]) == ("live_location_started", "live_locations")
            yield Walk(cluster, hers, his, conversation_id, started["session_id"])


async def test_without_redis_places_are_refused_and_messages_flow_and_then_it_goes_on(
    walk: Walk, servers: Servers
) -> None:
    await walk.arrives(1.0)
    await asyncio.to_thread(servers.redis.kill)
    try:
        refused = await walk.move(2.0)
        sent = await walk.hers.ask(
            "send_message", conversation_id=walk.conversation_id, client_id="meanwhile", text="still here"
        )
        assert (await walk.his.next("message", pos="2"))["message"]["text"] == "still here"
    finally:
        await asyncio.to_thread(servers.redis.start)

    assert (refused["code"], refused["reason"]) == ("UNAVAILABLE", "ENGINE_DOWN")
    assert int(refused["retry_after_ms"]) > 0
    assert sent["type"] == "ack"
    await walk.arrives(3.0)


async def test_viewers_see_on_when_the_owner_of_the_conversation_dies(walk: Walk) -> None:
    await walk.arrives(1.0)
    for lat, dies in ((2.0, "location-1"), (3.0, "location-2")):
        await walk.cluster.processes[dies].kill()
        await walk.arrives(lat)
        await walk.cluster.start_one(dies)
    await walk.hers.ask("stop_live_location", session_id=walk.session_id)

    assert (await walk.his.next("live_location_ended"))["reason"] == "STOPPED"
