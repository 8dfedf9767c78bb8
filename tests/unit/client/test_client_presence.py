"""Presence as the client says and understands it."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from hither_client import ClientSettings, HitherClient, MemoryCursorStore, PresenceChanged
from tests.support.fake_edge import FakeEdge, FakePeer


@pytest.fixture
async def edge() -> AsyncIterator[FakeEdge]:
    async with FakeEdge() as edge:
        yield edge


@pytest.fixture
async def connected(edge: FakeEdge) -> AsyncIterator[tuple[HitherClient, FakePeer]]:
    settings = ClientSettings(answer_deadline_s=5.0)
    client = HitherClient(edge.url, "token", cursor=MemoryCursorStore(0), settings=settings, proxy=None)
    opening = asyncio.create_task(client.open())
    peer = await edge.accept()
    await peer.welcome(end=0)
    await opening
    yield client, peer
    await client.close()


async def test_a_text_is_sent_where_one_is_given_even_an_empty_one(connected: tuple[HitherClient, FakePeer]) -> None:
    client, peer = connected
    said = []
    for text in (None, "", "at lunch"):
        saying = asyncio.create_task(client.set_presence("AWAY", text))
        request = await peer.expect("set_presence")
        await peer.send({"type": "ok", "id": request["id"]})
        await saying
        said.append({name: value for name, value in request.items() if name not in ("type", "id")})

    assert said == [{"status": "AWAY"}, {"status": "AWAY", "text": ""}, {"status": "AWAY", "text": "at lunch"}]


async def test_watching_answers_how_the_watched_are(connected: tuple[HitherClient, FakePeer]) -> None:
    client, peer = connected
    watching = asyncio.create_task(client.watch_presence(["ann", "bob"]))
    request = await peer.expect("watch_presence")
    ann = {"user_id": "ann", "status": "AWAY", "text": "at lunch"}
    await peer.send(
        {"type": "presences", "id": request["id"], "presences": [ann, {"user_id": "bob", "status": "OFFLINE"}]}
    )

    assert request["user_ids"] == ["ann", "bob"]
    assert list(await watching) == [
        PresenceChanged("ann", "AWAY", text="at lunch"),
        PresenceChanged("bob", "OFFLINE"),
    ]
