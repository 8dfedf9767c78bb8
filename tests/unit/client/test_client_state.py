import json
from typing import Any

import pytest

from hither_client import (
    BadToken,
    ClientSettings,
    Connected,
    Disconnected,
    Event,
    MessageReceived,
    OtherEvent,
    Replaced,
    ServerError,
    Synced,
    Typing,
    place,
)
from hither_client.codec import UnreadableFrame, decode_frame
from hither_client.outbox import Request
from hither_client.state import ClientState
from tests.support.fake_edge import message_frame

WELCOME = {
    "type": "connected",
    "user_id": "bob",
    "device_id": "phone",
    "edge_id": "e",
    "pos": "0",
    "heartbeat_ms": 1000,
}


def new_state(**settings: Any) -> ClientState:
    return ClientState(ClientSettings(**settings), cursor=0, uniform=lambda _low, high: high)


def feed(state: ClientState, *frames: dict[str, Any], now_s: float = 0.0) -> None:
    for frame in frames:
        state.receive(decode_frame(json.dumps(frame)), now_s)


def ready_state(*, end: int = 0, **settings: Any) -> ClientState:
    state = new_state(**settings)
    state.opening("token", 0.0)
    state.outgoing(0.0)
    feed(state, WELCOME, {"type": "synced", "pos": str(end)})
    return state


def written(state: ClientState, now_s: float = 0.0) -> list[dict[str, Any]]:
    return [json.loads(frame) for frame in state.outgoing(now_s)]


def events(state: ClientState) -> list[Event]:
    return [state.take_event() for _ in range(len(state.queue))]


def test_hello_names_the_token_and_the_cursor_and_nothing_else_goes_before_the_welcome() -> None:
    state = new_state()
    state.add(Request("1", "send_message", {}))
    state.opening("token", 0.0)
    assert written(state) == [{"type": "hello", "token": "token", "cursor": "0"}]
    assert written(state) == []
    feed(state, WELCOME)
    assert [frame["type"] for frame in written(state)] == ["send_message"]


def test_events_come_out_in_order_and_synced_stands_behind_them() -> None:
    state = new_state()
    state.opening("token", 0.0)
    feed(state, WELCOME, message_frame(1), message_frame(2), {"type": "synced", "pos": "2"})
    kinds = [type(event) for event in events(state)]
    assert kinds == [Connected, MessageReceived, MessageReceived, Synced]


def test_a_gap_is_asked_for_once_and_filled() -> None:
    state = ready_state()
    events(state)
    feed(state, message_frame(3))
    assert written(state) == [{"type": "sync", "id": "sync-1", "pos": "0", "limit": 100}]
    assert written(state) == []
    page = {
        "type": "sync_page",
        "id": "sync-1",
        "events": [message_frame(1), message_frame(2)],
        "next_pos": "2",
        "more": True,
    }
    feed(state, page)
    assert [place(event) for event in events(state)] == [1, 2, 3]
    assert written(state) == []


def test_a_sync_without_an_answer_is_asked_again_after_five_seconds() -> None:
    state = ready_state()
    feed(state, message_frame(3))
    written(state)
    assert [frame["type"] for frame in written(state, 4.0)] == ["ping"]
    assert "sync" in [frame["type"] for frame in written(state, 5.0)]


def test_a_page_that_brings_nothing_is_not_asked_for_in_a_tight_loop() -> None:
    state = ready_state()
    feed(state, message_frame(3))
    written(state)
    feed(state, {"type": "sync_page", "id": "sync-1", "events": [], "next_pos": "0", "more": False})
    assert written(state) == []
    assert state.next_wake_s() == 1.0


def test_during_the_recovery_gaps_are_left_to_the_server() -> None:
    state = new_state()
    state.opening("token", 0.0)
    written(state)
    feed(state, WELCOME, message_frame(2))
    assert written(state) == []
    feed(state, message_frame(1), {"type": "synced", "pos": "2"})
    assert written(state) == []


def test_what_a_slow_application_has_no_room_for_is_fetched_when_it_has() -> None:
    state = ready_state(queue_limit=2)
    state.inbox = type(state.inbox)(0, hold_limit=1)
    feed(state, *(message_frame(pos) for pos in range(1, 7)))
    assert written(state) == []
    assert [place(event) for event in events(state) if place(event)] == [1, 2]
    assert [place(event) for event in events(state)] == [3]
    assert written(state) == [{"type": "sync", "id": "sync-1", "pos": "3", "limit": 2}]
    assert place_after_page(state) == [4, 5]


def place_after_page(state: ClientState) -> list[int]:
    page = {
        "type": "sync_page",
        "id": "sync-1",
        "events": [message_frame(4), message_frame(5)],
        "next_pos": "5",
        "more": True,
    }
    feed(state, page)
    return [place(event) for event in events(state)]


def test_received_is_said_once_for_everything_that_was_taken() -> None:
    state = ready_state()
    state.taken(3)
    state.taken(5)
    assert written(state) == [{"type": "received", "pos": "5"}]
    assert written(state) == []


def test_received_is_said_again_on_the_next_connection() -> None:
    state = ready_state()
    state.taken(5)
    written(state)
    state.lost(1006, "")
    state.opening("token", 0.0)
    written(state)
    feed(state, WELCOME)
    assert {"type": "received", "pos": "5"} in written(state)


def test_a_refused_received_is_said_again_later() -> None:
    state = ready_state()
    state.taken(5)
    written(state)
    feed(state, {"type": "error", "code": "RESOURCE_EXHAUSTED", "reason": "RATE_LIMITED", "retry_after_ms": "7000"})
    assert {"type": "received", "pos": "5"} not in written(state, 6.9)
    assert {"type": "received", "pos": "5"} in written(state, 7.0)


def test_a_ping_goes_out_at_every_heartbeat_and_two_missed_ones_mean_death() -> None:
    state = ready_state()
    assert written(state, 0.9) == []
    assert [frame["type"] for frame in written(state, 1.0)] == ["ping"]
    assert not state.why_dead(1.9)
    assert state.why_dead(2.0)
    feed(state, {"type": "pong", "timestamp": 1}, now_s=1.95)
    assert not state.why_dead(2.0)


def test_a_server_that_never_says_connected_is_given_up() -> None:
    state = new_state(connect_timeout_s=10.0)
    state.opening("token", 0.0)
    assert not state.why_dead(9.9)
    assert state.why_dead(10.0)


@pytest.mark.parametrize("code", [1000, 1001, 1006, 1011, 4000, 4001, 4002, 4003, 4099])
def test_these_close_codes_mean_come_back(code: int) -> None:
    state = ready_state()
    assert state.lost(code, "") == 1.0
    assert Disconnected(code, "", 1.0) in events(state)


def test_attempts_that_fail_come_ever_later_until_one_is_through() -> None:
    state = new_state()
    assert [state.lost(1006, "") for _ in range(3)] == [1.0, 2.0, 4.0]
    state.opening("token", 0.0)
    feed(state, WELCOME, {"type": "synced", "pos": "0"})
    assert state.lost(1006, "") == 1.0


def test_a_bad_token_ends_the_client() -> None:
    with pytest.raises(BadToken):
        ready_state().lost(4100, "BAD_TOKEN")


def test_a_replaced_device_does_not_come_back() -> None:
    with pytest.raises(Replaced):
        ready_state().lost(4101, "replaced")


def test_the_resume_token_serves_the_next_connection_after_the_delay_that_the_server_asked_for() -> None:
    state = ready_state()
    feed(state, {"type": "reconnect", "after_ms": 5000, "resume_token": "resume"})
    assert state.lost(4001, "draining") == 6.0
    state.opening("token", 0.0)
    assert written(state)[0]["token"] == "resume"
    feed(state, WELCOME)
    state.lost(1006, "")
    state.opening("token", 0.0)
    assert written(state)[0]["token"] == "token"


def test_a_refused_resume_token_falls_back_to_the_access_token_at_once() -> None:
    state = ready_state()
    feed(state, {"type": "reconnect", "after_ms": 0, "resume_token": "resume"})
    state.lost(4001, "draining")
    state.opening("token", 0.0)
    assert state.lost(4100, "EXPIRED_TOKEN") == 0.0
    state.opening("token", 0.0)
    assert written(state)[0]["token"] == "token"
    with pytest.raises(BadToken):
        state.lost(4100, "BAD_TOKEN")


def test_events_of_every_kind_and_of_unknown_kinds_are_handed_out() -> None:
    state = ready_state()
    events(state)
    feed(
        state,
        {"type": "typing", "conversation_id": "d.x", "user_id": "alice", "new_field": 1},
        {"type": "future_thing", "session_id": "s", "lat": 1.5},
        {"type": "error", "code": "UNIMPLEMENTED", "reason": "UNKNOWN_TYPE", "message": "no"},
    )
    typing, other, error = events(state)
    assert typing == Typing("d.x", "alice")
    assert isinstance(other, OtherEvent)
    assert other.fields["lat"] == 1.5
    assert error == ServerError("UNIMPLEMENTED", "UNKNOWN_TYPE", "no")


def test_text_that_looks_like_something_else_stays_text() -> None:
    state = ready_state()
    events(state)
    feed(state, message_frame(1, text="null"), message_frame(2, text="12"))
    assert [event.message.text for event in events(state) if isinstance(event, MessageReceived)] == ["null", "12"]


@pytest.mark.parametrize(
    "data",
    [
        "",
        "[]",
        "{}",
        '{"type": 5}',
        '{"type": "message", "pos": "x"}',
        '{"type": "sync_page", "events": [{"type": "ok"}]}',
    ],
)
def test_what_is_no_frame_is_refused(data: str) -> None:
    with pytest.raises(UnreadableFrame):
        decode_frame(data)


def test_whole_number_fields_may_be_beyond_what_a_float_holds() -> None:
    frame = decode_frame(json.dumps(message_frame(1, message_id=2**63 + 1)))
    assert isinstance(frame.body, MessageReceived)
    assert frame.body.message.message_id == 2**63 + 1
