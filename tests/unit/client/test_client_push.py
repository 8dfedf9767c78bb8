"""How the client has its device woken up."""

import asyncio

import pytest

from hither_client import ClientSettings, HitherClient, InvalidRequest, MemoryCursorStore
from tests.support.fake_edge import FakeEdge


async def test_a_token_is_registered_and_its_refusal_is_told() -> None:
    async with FakeEdge() as edge:
        settings = ClientSettings(answer_deadline_s=5.0)
        client = HitherClient(edge.url, "token", cursor=MemoryCursorStore(0), settings=settings, proxy=None)
        opening = asyncio.create_task(client.open())
        peer = await edge.accept()
        await peer.welcome(end=0)
        await opening

        registering = asyncio.create_task(client.register_push_token("IOS", "abc"))
        request = await peer.expect("register_push_token")
        await peer.send({"type": "ok", "id": request["id"]})
        await registering
        again = asyncio.create_task(client.register_push_token("ANDROID", "a b"))
        refused = await peer.expect("register_push_token")
        await peer.send({"type": "error", "id": refused["id"], "code": "INVALID_ARGUMENT", "reason": "INVALID_REQUEST"})
        with pytest.raises(InvalidRequest):
            await again
        await client.close()

    assert (request["platform"], request["token"]) == ("IOS", "abc")
