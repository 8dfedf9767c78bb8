"""People show each other where they are for a while: the stories of live location."""

import asyncio
import base64
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest

from hither_client import (
    ClientSettings,
    Event,
    HitherClient,
    LiveLocationEnded,
    LiveLocationMoved,
    LiveLocations,
    LiveLocationStale,
)
from tests.support.people import WAIT_S, Frame, Line, Person, befriend, line, sign_up
from tests.support.runner import Hither, StartHither

MEDIA_TYPE = "application/vnd.hither.live-location+json"
QUARTER_S = 900
_RECOVERED_S = 60.0
"""Until which clients are back after a kill -9 of everything, with leases of 10 s that have to run out."""


async def a_group(founder: Person, others: Sequence[Person]) -> str:
    """The id of a new conversation of these."""
    for other in others:
        await befriend(founder, other)
    made = await founder.post("/conversations", {"name": "Trip", "member_ids": [one.user_id for one in others]})
    return str(made["conversation"]["conversation_id"])


async def start(hers: Line, conversation_id: str, duration_s: int = QUARTER_S, **more: Any) -> str:
    """Starts to share; the session."""
    started = await hers.ask("start_live_location", conversation_id=conversation_id, duration_s=duration_s, **more)
    assert started["type"] == "live_location_started", started
    return str(started["session_id"])


async def move(hers: Line, session_id: str, lat: float) -> Frame:
    return await hers.ask("live_location_update", session_id=session_id, lat=lat, lng=13.4)


async def watch(his: Line, conversation_id: str) -> list[Frame]:
    """Begins to watch; what there is to see."""
    shown = await his.ask("watch_live_location", conversation_id=conversation_id)
    assert shown["type"] == "live_locations", shown
    return list(shown.get("sessions", []))


def said(page: Frame) -> list[tuple[str, str]]:
    """What was said about live locations in a page of history: by whom, and what."""
    contents = [(message["sender_id"], message["content"]) for message in page["messages"] if "content" in message]
    assert all(content["media_type"] == MEDIA_TYPE for _, content in contents)
    return [(sender, json.loads(base64.b64decode(content["data"]))["event"]) for sender, content in contents]


async def test_a_member_starts_moves_and_stops_and_the_others_see_it(hither: Hither, http: httpx.AsyncClient) -> None:
    alice, bob = await sign_up(http, "alice"), await sign_up(http, "bob")
    conversation_id = await a_group(alice, [bob])
    async with line(hither.websocket_url, alice) as hers, line(hither.websocket_url, bob) as his:
        session_id = await start(hers, conversation_id)
        [view] = await watch(his, conversation_id)
        assert (view["session_id"], view["user_id"], view.get("latest")) == (session_id, alice.user_id, None)

        assert (await move(hers, session_id, 52.5))["type"] == "ok"
        point = await his.next("live_location")
        assert (point["session_id"], point["conversation_id"], point["user_id"]) == (
            session_id,
            conversation_id,
            alice.user_id,
        )
        assert (point["lat"], point["lng"]) == (52.5, 13.4)
        assert point["timestamp"].endswith("Z")

        assert (await hers.ask("stop_live_location", session_id=session_id))["type"] == "ok"
        ended = await his.next("live_location_ended")
        assert (ended["session_id"], ended["reason"]) == (session_id, "STOPPED")
        refused = await move(hers, session_id, 52.6)
        assert (refused["code"], refused["reason"]) == ("FAILED_PRECONDITION", "LIVE_LOCATION_ENDED")
        assert await watch(his, conversation_id) == []
        await his.next("message", pos="2")
        page = await his.ask("history", conversation_id=conversation_id, limit=10)
    assert said(page) == [(alice.user_id, "started"), (alice.user_id, "ended")]


async def test_it_works_between_two_as_well(hither: Hither, http: httpx.AsyncClient) -> None:
    alice, bob = await sign_up(http, "alice"), await sign_up(http, "bob")
    async with line(hither.websocket_url, alice) as hers, line(hither.websocket_url, bob) as his:
        ack = await hers.ask("send_message", to=bob.user_id, client_id="c", text="where are you?")
        session_id = await start(his, ack["conversation_id"])
        await watch(hers, ack["conversation_id"])
        await move(his, session_id, 1.5)
        assert (await hers.next("live_location"))["lat"] == 1.5
        await alice.post("/blocks", {"blocked_id": bob.user_id})
        ended = await hers.next("live_location_ended")
        assert (ended["session_id"], ended["reason"]) == (session_id, "REMOVED")
        refused = await move(his, session_id, 1.6)
    assert refused["reason"] in ("BLOCKED", "LIVE_LOCATION_ENDED")


async def test_who_comes_late_sees_the_newest_point_and_the_trail(hither: Hither, http: httpx.AsyncClient) -> None:
    alice, bob = await sign_up(http, "alice"), await sign_up(http, "bob")
    conversation_id = await a_group(alice, [bob])
    async with line(hither.websocket_url, alice) as hers:
        session_id = await start(hers, conversation_id)
        for lat in (1.0, 2.0, 3.0):
            await move(hers, session_id, lat)
        async with line(hither.websocket_url, bob) as his:
            [view] = await watch(his, conversation_id)
            assert view["latest"]["lat"] == 3.0
            assert [point["lat"] for point in view["trail"]] == [1.0, 2.0, 3.0]
            await move(hers, session_id, 4.0)
            assert (await his.next("live_location"))["lat"] == 4.0


async def test_several_share_and_all_see_all(hither: Hither, http: httpx.AsyncClient) -> None:
    alice, bob, carol = [await sign_up(http, name) for name in ("alice", "bob", "carol")]
    conversation_id = await a_group(alice, [bob, carol])
    async with (
        line(hither.websocket_url, alice) as hers,
        line(hither.websocket_url, bob) as his,
        line(hither.websocket_url, carol) as carols,
    ):
        of_alice, of_bob = await start(hers, conversation_id), await start(his, conversation_id)
        for one in (hers, his, carols):
            assert {view["session_id"] for view in await watch(one, conversation_id)} == {of_alice, of_bob}
        await move(hers, of_alice, 10.0)
        await move(his, of_bob, 20.0)
        for one in (hers, his, carols):
            assert (await one.next("live_location", session_id=of_alice))["lat"] == 10.0
            assert (await one.next("live_location", session_id=of_bob))["lat"] == 20.0
        not_hers = await move(hers, of_bob, 30.0)
    assert (not_hers["code"], not_hers["reason"]) == ("PERMISSION_DENIED", "NOT_YOURSELF")


async def test_a_live_location_ends_when_its_time_is_over_or_later_if_it_is_renewed(
    hither: Hither, http: httpx.AsyncClient
) -> None:
    alice, bob = await sign_up(http, "alice"), await sign_up(http, "bob")
    conversation_id = await a_group(alice, [bob])
    async with line(hither.websocket_url, alice) as hers, line(hither.websocket_url, bob) as his:
        renewed = await start(hers, conversation_id, duration_s=2)
        answer = await hers.ask("renew_live_location", session_id=renewed, duration_s=QUARTER_S)
        short = await start(his, conversation_id, duration_s=1)
        await watch(his, conversation_id)
        await watch(hers, conversation_id)
        ended = await hers.next("live_location_ended")
        assert (ended["session_id"], ended["reason"]) == (short, "EXPIRED")
        assert answer["type"] == "live_location_renewed"
        assert (await move(hers, renewed, 5.0))["type"] == "ok"
        assert (await move(his, short, 5.0))["reason"] == "LIVE_LOCATION_ENDED"


async def test_a_removed_sharer_is_seen_no_more(hither: Hither, http: httpx.AsyncClient) -> None:
    alice, bob = await sign_up(http, "alice"), await sign_up(http, "bob")
    conversation_id = await a_group(alice, [bob])
    async with line(hither.websocket_url, alice) as hers, line(hither.websocket_url, bob) as his:
        session_id = await start(his, conversation_id)
        await watch(hers, conversation_id)
        await move(his, session_id, 1.0)
        await hers.next("live_location")
        await alice.request("DELETE", f"/conversations/{conversation_id}/members/{bob.user_id}")
        ended = await hers.next("live_location_ended")
        assert (ended["session_id"], ended["reason"]) == (session_id, "REMOVED")
        assert (await move(his, session_id, 2.0))["reason"] in ("NOT_A_MEMBER", "LIVE_LOCATION_ENDED")


async def test_a_removed_viewer_sees_nothing_more_and_strangers_never_do(
    hither: Hither, http: httpx.AsyncClient
) -> None:
    alice, bob, eve = [await sign_up(http, name) for name in ("alice", "bob", "eve")]
    conversation_id = await a_group(alice, [bob])
    async with (
        line(hither.websocket_url, alice) as hers,
        line(hither.websocket_url, bob) as his,
        line(hither.websocket_url, eve) as eves,
    ):
        session_id = await start(hers, conversation_id)
        await watch(his, conversation_id)
        await move(hers, session_id, 1.0)
        await his.next("live_location", lat=1.0)
        await alice.request("DELETE", f"/conversations/{conversation_id}/members/{bob.user_id}")
        assert (await his.next("live_location_ended"))["reason"] == "REMOVED"
        await watch(hers, conversation_id)
        await move(hers, session_id, 2.0)
        await hers.next("live_location", lat=2.0)
        for one in (his, eves):
            refused = await one.ask("watch_live_location", conversation_id=conversation_id)
            assert (refused["code"], refused["reason"]) == ("PERMISSION_DENIED", "NOT_A_MEMBER")
        started = await eves.ask("start_live_location", conversation_id=conversation_id, duration_s=QUARTER_S)
        assert started["reason"] == "NOT_A_MEMBER"
        await his.send("ping", timestamp=1)
        await his.next("pong")
    assert his.passed_over("live_location") == []


async def test_who_has_stopped_watching_sees_nothing_more(hither: Hither, http: httpx.AsyncClient) -> None:
    alice, bob = await sign_up(http, "alice"), await sign_up(http, "bob")
    conversation_id = await a_group(alice, [bob])
    async with line(hither.websocket_url, alice) as hers, line(hither.websocket_url, bob) as his:
        session_id = await start(hers, conversation_id)
        await watch(hers, conversation_id)
        await watch(his, conversation_id)
        assert (await his.ask("unwatch_live_location", conversation_id=conversation_id))["type"] == "ok"
        await move(hers, session_id, 1.0)
        await hers.next("live_location")
        await his.send("ping", timestamp=1)
        await his.next("pong")
    assert his.passed_over("live_location") == []


async def test_the_sharer_goes_on_after_a_lost_connection(hither: Hither, http: httpx.AsyncClient) -> None:
    alice, bob = await sign_up(http, "alice"), await sign_up(http, "bob")
    conversation_id = await a_group(alice, [bob])
    async with line(hither.websocket_url, bob) as his:
        await watch(his, conversation_id)
        async with line(hither.websocket_url, alice) as hers:
            session_id = await start(hers, conversation_id, request_id="once")
            await move(hers, session_id, 1.0)
        async with line(hither.websocket_url, alice) as hers:
            assert await start(hers, conversation_id, request_id="once") == session_id
            await move(hers, session_id, 2.0)
        assert (await his.next("live_location"))["lat"] == 1.0
        assert (await his.next("live_location"))["lat"] == 2.0
        page = await his.ask("history", conversation_id=conversation_id, limit=10)
    assert said(page) == [(alice.user_id, "started")]


async def test_an_opaque_live_location_is_relayed_and_not_read(hither: Hither, http: httpx.AsyncClient) -> None:
    alice, bob = await sign_up(http, "alice"), await sign_up(http, "bob")
    conversation_id = await a_group(alice, [bob])
    sealed = base64.b64encode(b"\x00\xffsealed" * 100).decode()
    async with line(hither.websocket_url, alice) as hers, line(hither.websocket_url, bob) as his:
        session_id = await start(hers, conversation_id, opaque=True)
        await watch(his, conversation_id)
        assert (await hers.ask("live_location_update", session_id=session_id, ciphertext=sealed))["type"] == "ok"
        point = await his.next("live_location")
        assert (point["ciphertext"], point.get("lat", 0.0)) == (sealed, 0.0)
        [view] = await watch(his, conversation_id)
        assert (view["opaque"], view["latest"]["ciphertext"]) == (True, sealed)
        refused = await move(hers, session_id, 1.0)
    assert (refused["code"], refused["reason"]) == ("INVALID_ARGUMENT", "INVALID_REQUEST")


def client_of(hither: Hither, person: Person) -> HitherClient:
    return HitherClient(
        hither.url, person.token, proxy=None, settings=ClientSettings(retry_limit_s=1.0, connect_timeout_s=_RECOVERED_S)
    )


async def seen(client: HitherClient, kind: type[Event]) -> Any:
    """The next event of the kind."""
    async with asyncio.timeout(_RECOVERED_S):
        while not isinstance(event := await client.next_event(), kind):
            pass
    return event


@pytest.mark.slow
async def test_clients_of_a_killed_server_go_on_by_themselves_and_silence_is_noticed(
    start_hither: StartHither, tmp_path: Path
) -> None:
    async with start_hither(tmp_path / "data", {"HITHER_LIVE_STALE_S": "1"}) as hither:
        async with httpx.AsyncClient(base_url=hither.url, timeout=WAIT_S) as http:
            alice, bob = await sign_up(http, "alice"), await sign_up(http, "bob")
            conversation_id = await a_group(alice, [bob])
        async with client_of(hither, alice) as hers, client_of(hither, bob) as his:
            shared = await hers.start_live_location(conversation_id, QUARTER_S)
            [view] = await his.watch_live_location(conversation_id)
            assert (view.session_id, view.user_id, view.expires_at) == (
                shared.session_id,
                alice.user_id,
                shared.expires_at,
            )
            await shared.update(1.0, 13.4)
            assert (await seen(his, LiveLocationMoved)).lat == 1.0
            assert (await seen(his, LiveLocationStale)).session_id == shared.session_id

            await hither.kill()
            await hither.start()

            [view] = (await seen(his, LiveLocations)).sessions
            assert view.session_id == shared.session_id
            await shared.update(2.0, 13.4, timeout_s=_RECOVERED_S)
            assert (await seen(his, LiveLocationMoved)).lat == 2.0
            await shared.stop()
            ended = await seen(his, LiveLocationEnded)
            assert (ended.session_id, ended.reason) == (shared.session_id, "STOPPED")
