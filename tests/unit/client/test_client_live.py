"""Live location in the client: what is asked when, what the application is told, and in which order places go."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import pytest

from hither_client import (
    ClientSettings,
    Event,
    HitherClient,
    LiveLocationEnded,
    LiveLocationMoved,
    LiveLocations,
    LiveLocationStale,
    MemoryCursorStore,
    NoAnswer,
    ServerError,
    SharedLocation,
    WrongState,
)
from hither_client.watches import EVERY_S, Watches
from tests.support.fake_edge import FakeEdge, FakePeer
from tests.unit.client.test_client_state import events, feed, ready_state

FAST = ClientSettings(answer_deadline_s=5.0, first_retry_s=0.01, retry_limit_s=0.02, connect_timeout_s=2.0)
TIME = "2026-01-01T00:00:00Z"
WHEN = datetime(2026, 1, 1, tzinfo=UTC)
VIEW = {
    "session_id": "g.1~s",
    "user_id": "alice",
    "latest": {"lat": 1.5, "lng": 2.5, "timestamp": TIME},
    "trail": [{"lat": 1.0, "lng": 2.0, "timestamp": TIME}, {"lat": 1.5, "lng": 2.5, "timestamp": TIME}],
    "expires_at": TIME,
}


@pytest.fixture
async def edge() -> AsyncIterator[FakeEdge]:
    async with FakeEdge() as edge:
        yield edge


async def opened(edge: FakeEdge) -> tuple[HitherClient, FakePeer]:
    client = HitherClient(edge.url, "token", cursor=MemoryCursorStore(0), settings=FAST, open_timeout_s=5.0, proxy=None)
    opening = asyncio.create_task(client.open())
    peer = await edge.accept()
    await peer.welcome(end=0)
    await opening
    return client, peer


async def next_of(client: HitherClient, kind: type[Event]) -> Event:
    async with asyncio.timeout(30):
        while not isinstance(event := await client.next_event(), kind):
            pass
    return event


async def started(client: HitherClient, peer: FakePeer) -> SharedLocation:
    starting = asyncio.create_task(client.start_live_location("g.1", 900))
    request = await peer.expect("start_live_location")
    await peer.send({"type": "live_location_started", "id": request["id"], "session_id": "g.1~s", "expires_at": TIME})
    return await starting


async def answer(peer: FakePeer, frame_type: str) -> dict[str, Any]:
    request = await peer.expect(frame_type)
    await peer.send({"type": "ok", "id": request["id"]})
    return request


async def test_a_start_is_repeated_under_the_same_request_id_until_it_is_answered(edge: FakeEdge) -> None:
    client, peer = await opened(edge)
    starting = asyncio.create_task(client.start_live_location("g.1", 900, opaque=True))
    first = await peer.expect("start_live_location")
    peer.drop()
    peer = await edge.accept()
    await peer.welcome(end=0)
    again = await peer.expect("start_live_location")
    await peer.send({"type": "live_location_started", "id": again["id"], "session_id": "g.1~s", "expires_at": TIME})
    shared = await starting

    assert first["request_id"] == again["request_id"] != ""
    assert (first["conversation_id"], first["duration_s"], first["opaque"]) == ("g.1", 900, True)
    assert (shared.session_id, shared.expires_at) == ("g.1~s", WHEN)
    await client.close()


async def test_places_go_one_after_the_other_also_over_a_lost_connection(edge: FakeEdge) -> None:
    client, peer = await opened(edge)
    shared = await started(client, peer)
    moves = [asyncio.create_task(shared.update(lat, 0.5)) for lat in (1.0, 2.0)]
    assert (await peer.expect("live_location_update"))["lat"] == 1.0
    peer.drop()
    peer = await edge.accept()
    await peer.welcome(end=0)

    first, second = await answer(peer, "live_location_update"), await answer(peer, "live_location_update")

    await asyncio.gather(*moves)
    assert (first["session_id"], first["lat"], first["lng"], second["lat"]) == ("g.1~s", 1.0, 0.5, 2.0)
    await client.close()


async def test_a_place_that_could_not_be_sent_in_time_is_not_sent_later(edge: FakeEdge) -> None:
    client, peer = await opened(edge)
    shared = await started(client, peer)
    moving = asyncio.create_task(shared.update(1.0, 0.0, timeout_s=0.01))
    await peer.expect("live_location_update")
    with pytest.raises(NoAnswer):
        await moving
    sealed = asyncio.create_task(shared.update_sealed(b"\x00sealed"))

    request = await answer(peer, "live_location_update")

    await sealed
    assert (request["ciphertext"], "lat" in request) == ("AHNlYWxlZA==", False)
    await client.close()


async def test_renewing_and_stopping_name_the_session(edge: FakeEdge) -> None:
    client, peer = await opened(edge)
    shared = client.shared_location("g.1~s", WHEN)
    renewing = asyncio.create_task(shared.renew(600))
    request = await peer.expect("renew_live_location")
    later = "2026-01-01T00:10:00Z"
    await peer.send({"type": "live_location_renewed", "id": request["id"], "session_id": "g.1~s", "expires_at": later})
    assert await renewing == shared.expires_at == datetime(2026, 1, 1, 0, 10, tzinfo=UTC)
    stopping = asyncio.create_task(shared.stop())
    assert (await answer(peer, "stop_live_location"))["session_id"] == "g.1~s"
    await stopping
    moving = asyncio.create_task(shared.update(1.0, 1.0))
    await peer.refuse(await peer.expect("live_location_update"), "FAILED_PRECONDITION", "LIVE_LOCATION_ENDED")
    with pytest.raises(WrongState):
        await moving
    await client.close()


async def test_a_watch_is_asked_for_again_on_each_connection_until_it_is_ended(edge: FakeEdge) -> None:
    client, peer = await opened(edge)
    watching = asyncio.create_task(client.watch_live_location("g.1"))
    request = await peer.expect("watch_live_location")
    await peer.send({"type": "live_locations", "id": request["id"], "sessions": [VIEW]})
    [view] = await watching
    assert view.latest is not None
    assert (view.latest.lat, [place.lat for place in view.trail], view.expires_at) == (1.5, [1.0, 1.5], WHEN)

    peer.drop()
    peer = await edge.accept()
    await peer.welcome(end=0)
    request = await peer.expect("watch_live_location")
    await peer.send({"type": "live_locations", "id": request["id"]})
    assert await next_of(client, LiveLocations) == LiveLocations((), "g.1")

    ending = asyncio.create_task(client.unwatch_live_location("g.1"))
    await answer(peer, "unwatch_live_location")
    await ending
    peer.drop()
    peer = await edge.accept()
    await peer.welcome(end=0)
    reading = asyncio.create_task(client.mark_read("g.1", 1))
    await answer(peer, "mark_read")  # and nothing before it
    await reading
    await client.close()


def test_what_is_seen_comes_as_events_of_which_the_newest_of_a_session_is_enough() -> None:
    state = ready_state()
    events(state)
    moved = {
        "type": "live_location",
        "session_id": "g.1~s",
        "conversation_id": "g.1",
        "user_id": "alice",
        "lng": 2.5,
        "timestamp": TIME,
    }
    feed(state, {**moved, "lat": 1.0}, {**moved, "lat": 2.0}, {**moved, "lat": 3.0, "session_id": "g.1~t"})
    assert events(state) == [
        LiveLocationMoved("g.1~s", "g.1", "alice", WHEN, 2.0, 2.5),
        LiveLocationMoved("g.1~t", "g.1", "alice", WHEN, 3.0, 2.5),
    ]
    feed(state, {**moved, "lat": 1.0}, {"type": "live_location_stale", "session_id": "g.1~s", "last_seen": TIME})
    assert events(state) == [LiveLocationStale("g.1~s", WHEN)]
    feed(state, {"type": "live_location_ended", "session_id": "g.1~s", "reason": "EXPIRED"})
    assert events(state) == [LiveLocationEnded("g.1~s", "EXPIRED")]


def test_places_do_not_show_in_what_is_printed() -> None:
    assert "52.5" not in repr(LiveLocationMoved("g.1~s", "g.1", "alice", WHEN, 52.5, 52.5))


def test_a_watch_that_is_refused_for_good_ends_and_the_application_is_told() -> None:
    state = ready_state()
    state.watches.add("g.1", 0.0)
    events(state)
    [(request_id, _)] = state.watches.due(EVERY_S)
    refusal = {"type": "error", "id": request_id, "code": "PERMISSION_DENIED", "reason": "NOT_A_MEMBER", "message": ""}

    feed(state, refusal)

    assert events(state) == [ServerError("PERMISSION_DENIED", "NOT_A_MEMBER")]
    assert state.watches.due(10 * EVERY_S) == []


def test_a_watch_that_is_refused_for_now_is_asked_for_again() -> None:
    state = ready_state()
    state.watches.add("g.1", 0.0)
    events(state)
    [(request_id, _)] = state.watches.due(EVERY_S)

    feed(state, {"type": "error", "id": request_id, "code": "UNAVAILABLE", "reason": "NO_OWNER", "message": ""})

    assert events(state) == []
    assert [conversation_id for _, conversation_id in state.watches.due(10 * EVERY_S)] == ["g.1"]


def test_a_watch_is_asked_for_every_minute_and_again_without_an_answer() -> None:
    watches = Watches(5.0)
    watches.add("g.1", 0.0)

    assert (watches.due(59.0), watches.next_due_s()) == ([], 60.0)
    [(first, _)] = watches.due(60.0)
    assert (watches.due(64.0), watches.next_due_s()) == ([], 65.0)
    [(second, _)] = watches.due(65.0)
    assert watches.answered(first, 66.0) == ""
    assert watches.answered(second, 66.0) == "g.1"
    assert (watches.answered("", 66.0), watches.next_due_s()) == ("", 126.0)
