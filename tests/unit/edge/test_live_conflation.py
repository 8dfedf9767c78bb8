"""A viewer who reads slowly gets where people are, not where they were."""

import pytest
from google.protobuf.message import Message

from edge.settings import EdgeSettings
from hither.location.v1.location_pb2 import (
    EndReason,
    LiveLocationEndedEvent,
    LiveLocationEvent,
    LiveLocationStaleEvent,
)
from tests.support.sessions import SessionDriver, live


@pytest.fixture
def viewer() -> SessionDriver:
    return live(EdgeSettings())


def tell(viewer: SessionDriver, type_: str, message: Message, session_id: str) -> None:
    event = viewer.session.codec.event(type_, message)
    viewer.session.deliver(event, 0, f"live:{session_id}", viewer.now_s)


def move(viewer: SessionDriver, session_id: str, lat: float) -> None:
    tell(viewer, "live_location", LiveLocationEvent(session_id=session_id, lat=lat), session_id)


def test_of_each_session_a_slow_viewer_gets_the_newest_point(viewer: SessionDriver) -> None:
    for number in range(1_000):
        move(viewer, "g.1~a", number / 100)
        move(viewer, "g.1~b", -number / 100)

    assert viewer.closed() is None
    assert [(frame["session_id"], frame["lat"]) for frame in viewer.frames()] == [("g.1~a", 9.99), ("g.1~b", -9.99)]


def test_an_end_takes_the_place_of_the_points_before_it(viewer: SessionDriver) -> None:
    move(viewer, "g.1~a", 1.0)
    tell(viewer, "live_location_stale", LiveLocationStaleEvent(session_id="g.1~a"), "g.1~a")
    ended = LiveLocationEndedEvent(session_id="g.1~a", reason=EndReason.END_REASON_STOPPED)
    tell(viewer, "live_location_ended", ended, "g.1~a")

    assert [(frame["type"], frame["reason"]) for frame in viewer.frames()] == [("live_location_ended", "STOPPED")]
