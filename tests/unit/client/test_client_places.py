"""Places as the client tells and understands them."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from datetime import UTC, datetime

import pytest

from hither_client import (
    Advice,
    ClientSettings,
    FriendLocationGone,
    FriendLocationUpdate,
    HitherClient,
    MemoryCursorStore,
    Place,
)
from hither_client.codec import decode_frame
from hither_client.event_queue import EventQueue
from hither_client.places import Pace
from tests.support.fake_edge import FakeEdge, FakePeer

HOME = Place(52.5, 13.4)
BESIDE = Place(52.5003, 13.4)
"""33 m from HOME."""
AWAY = Place(52.5006, 13.4)
"""67 m from HOME."""


@pytest.fixture
async def edge() -> AsyncIterator[FakeEdge]:
    async with FakeEdge() as edge:
        yield edge


class Waits:
    """Remembers how long was waited, and does not wait."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    async def __call__(self, seconds: float) -> None:
        self.seconds.append(seconds)


@pytest.fixture
def waits() -> Waits:
    return Waits()


@pytest.fixture
async def connected(edge: FakeEdge, waits: Waits) -> AsyncIterator[tuple[HitherClient, FakePeer]]:
    settings = ClientSettings(answer_deadline_s=5.0)
    client = HitherClient(edge.url, "token", cursor=MemoryCursorStore(0), settings=settings, proxy=None)
    opening = asyncio.create_task(client.open())
    peer = await edge.accept()
    await peer.welcome(end=0)
    await opening
    client._sleep = waits
    yield client, peer
    await client.close()


class Walk:
    """A source of these places, then of none."""

    def __init__(self, places: Iterable[Place]) -> None:
        self._places = iter(places)

    async def __call__(self) -> Place | None:
        return next(self._places, None)


async def test_a_place_is_told_with_what_is_known_of_it(connected: tuple[HitherClient, FakePeer]) -> None:
    client, peer = connected
    when = datetime(2026, 11, 25, 12, tzinfo=UTC)
    place = Place(1.5, 2.5, 10.0, when, speed_mps=0.0, battery_percent=0, metered=True)
    telling = asyncio.create_task(client.update_location(place, radius=20))
    request = await peer.expect("location_update")
    await peer.send({"type": "ok", "id": request["id"], "next_update_s": 5, "min_move_m": 50, "shared": True})

    assert await telling == Advice(5, 50, shared=True)
    assert {name: value for name, value in request.items() if name not in ("type", "id")} == {
        "lat": 1.5, "lng": 2.5, "accuracy_m": 10.0, "timestamp": "2026-11-25T12:00:00+00:00", "speed_mps": 0.0,
        "battery_percent": 0, "metered": True, "radius": 20,
    }  # fmt: skip


async def test_sharing_obeys_what_the_server_asks_for(connected: tuple[HitherClient, FakePeer], waits: Waits) -> None:
    client, peer = connected
    sharing = asyncio.create_task(client.share_location(Walk([HOME, BESIDE, AWAY, AWAY])))
    told = []
    for seconds in (60, 5):
        request = await peer.expect("location_update")
        told.append(request["lat"])
        await peer.send({"type": "ok", "id": request["id"], "next_update_s": seconds, "min_move_m": 50, "shared": True})
    await sharing

    assert told == [HOME.lat, AWAY.lat]
    assert waits.seconds == [60, 60, 5, 5]


async def test_sharing_goes_on_after_a_place_that_is_refused(connected: tuple[HitherClient, FakePeer]) -> None:
    client, peer = connected
    sharing = asyncio.create_task(client.share_location(Walk([HOME, AWAY])))
    await peer.refuse(await peer.expect("location_update"), "FAILED_PRECONDITION", "IMPLAUSIBLE_MOVE")

    request = await peer.expect("location_update")
    await peer.send({"type": "ok", "id": request["id"]})
    await sharing

    assert request["lat"] == AWAY.lat


def test_a_device_that_lies_still_is_told_of_after_five_minutes() -> None:
    pace = Pace()
    pace.told(HOME, Advice(60, 50), now_s=100.0)

    assert not pace.is_due(BESIDE, now_s=399.0)
    assert pace.is_due(BESIDE, now_s=400.0)
    assert pace.is_due(AWAY, now_s=101.0)


def test_of_a_friend_nearby_only_the_newest_waits() -> None:
    queue = EventQueue(10)
    update = decode_frame(
        b'{"type":"friend_location_update","friend_id":"bob","name":"Bob","distance":0.5,"lat":1,"lng":2,'
        b'"timestamp":"2026-11-25T12:00:00Z","precision":"CITY"}'
    ).body
    gone = decode_frame(b'{"type":"friend_location_gone","friend_id":"bob","reason":"STOPPED"}').body
    assert update == FriendLocationUpdate("bob", "Bob", 0.5, 1, 2, datetime(2026, 11, 25, 12, tzinfo=UTC), "CITY")
    assert gone == FriendLocationGone("bob", "STOPPED")

    queue.put(update)
    queue.put(gone)

    assert len(queue) == 1
    assert queue.take() == gone
