"""One connection, bullet by bullet. Recovery has its own file."""

import json

import pytest

from discovery.errors import Aborted, PermissionDenied, ResourceExhausted, Unavailable
from discovery.rpc.call import Caller, Role
from edge.codec.proto import BINARY
from edge.session import Purpose
from edge.settings import EdgeSettings
from hither.edge.v1 import frames_pb2
from hither.messaging.v1 import messaging_service_pb2
from tests.support.sessions import SessionDriver, live

SEND = {"to": "bob", "client_id": "c", "text": "hello"}


# --- greeting ---


def test_a_token_in_the_address_registers_the_connection() -> None:
    driver = SessionDriver()
    driver.session.open("alice/phone", None)
    call = driver.call()
    assert call.purpose is Purpose.REGISTER
    assert call.caller == Caller(Role.SERVICE, "alice", "phone", "edge-1")
    assert driver.session.connection is not None
    assert driver.session.connection.connection_id == 7


def test_a_registered_connection_is_told_so_before_anything_else() -> None:
    driver = SessionDriver()
    driver.session.open("alice/phone", None)
    driver.register(cursor=41)
    assert driver.frame() == {
        "type": "connected",
        "status": "ready",
        "user_id": "alice",
        "device_id": "phone",
        "edge_id": "edge-1",
        "pos": "41",
        "heartbeat_ms": 30000,
    }


def test_the_clients_cursor_wins_over_the_stored_one() -> None:
    driver = SessionDriver()
    driver.session.open("alice/phone", 12)
    driver.register(cursor=41)
    assert driver.frame()["pos"] == "12"


def test_hello_opens_a_connection_without_a_token() -> None:
    driver = SessionDriver()
    driver.session.open("", None)
    driver.say("hello", token="alice/phone", cursor="5")
    driver.register()
    assert driver.frame()["pos"] == "5"


def test_a_connection_that_says_no_hello_in_time_is_refused() -> None:
    driver = SessionDriver()
    driver.wait(4.9)
    assert driver.closed() is None
    driver.wait(0.2)
    assert driver.frame()["reason"] == "NO_CREDENTIALS"
    assert driver.closed() == 4100


def test_a_bad_token_gets_an_error_and_then_4100() -> None:
    driver = SessionDriver()
    driver.session.open("nonsense", None)
    frame = driver.frame()
    assert (frame["type"], frame["code"], frame["reason"]) == ("error", "UNAUTHENTICATED", "BAD_TOKEN")
    assert driver.closed() == 4100


def test_a_first_frame_that_is_not_hello_is_refused() -> None:
    driver = SessionDriver()
    driver.say("send_message", id="1", **SEND)
    assert driver.frame()["reason"] == "NO_CREDENTIALS"
    assert driver.closed() == 4100


def test_a_second_hello_is_an_error_and_the_connection_stays() -> None:
    driver = live()
    driver.say("hello", id="h", token="alice/phone")
    assert driver.frame()["id"] == "h"
    assert driver.closed() is None


def test_frames_that_come_before_the_connection_is_registered_wait_for_it() -> None:
    driver = SessionDriver()
    driver.session.open("alice/phone", None)
    driver.say("ping", timestamp=1)
    assert driver.frames() == []
    driver.register()
    assert [frame["type"] for frame in driver.frames()] == ["connected", "pong"]


def test_too_many_early_frames_are_refused() -> None:
    driver = SessionDriver(EdgeSettings(early_frames=1))
    driver.session.open("alice/phone", None)
    driver.say("ping", id="1")
    driver.say("ping", id="2")
    frame = driver.frame()
    assert (frame["id"], frame["reason"]) == ("2", "OVERLOADED")


def test_without_the_registry_a_client_with_a_cursor_is_served() -> None:
    driver = SessionDriver()
    driver.session.open("alice/phone", 9)
    driver.fail(driver.call(), Unavailable("away"))
    assert driver.frame()["type"] == "connected"
    assert not driver.session.registered


def test_a_connection_that_was_superseded_is_to_come_back() -> None:
    driver = SessionDriver()
    driver.session.open("alice/phone", 9)
    driver.fail(driver.call(), Aborted("a newer connection"))
    assert driver.frame()["reason"] == "CONFLICT"
    assert driver.closed() == 4000


def test_without_the_registry_a_client_without_a_cursor_is_to_come_back() -> None:
    driver = SessionDriver()
    driver.session.open("alice/phone", None)
    driver.fail(driver.call(), Unavailable("away"))
    assert driver.frame()["reason"] == "ENGINE_DOWN"
    assert driver.closed() == 4000


def test_a_user_with_too_many_devices_is_not_to_come_back() -> None:
    driver = SessionDriver()
    driver.session.open("alice/phone", None)
    driver.fail(driver.call(), ResourceExhausted("32 devices", reason="QUOTA_EXCEEDED"))
    assert driver.frame()["reason"] == "QUOTA_EXCEEDED"
    assert driver.closed() == 4100


# --- requests ---


def test_a_request_is_called_in_the_clients_name_and_its_answer_repeats_the_id() -> None:
    driver = live()
    driver.say("send_message", id="17", **SEND)
    call = driver.call()
    assert call.caller == Caller(Role.USER, "alice", "phone")
    assert call.request == messaging_service_pb2.SendMessageRequest(to="bob", client_id="c", text="hello")
    driver.session.answer(call, messaging_service_pb2.SendMessageResponse(client_id="c", seq=3), driver.now_s)
    frame = driver.frame()
    assert (frame["type"], frame["id"], frame["seq"]) == ("ack", "17", "3")


def test_requests_are_called_in_the_order_in_which_they_came() -> None:
    driver = live()
    for number in range(5):
        driver.say("send_message", id=str(number), **SEND)
    assert [call.id for call in driver.calls()] == ["0", "1", "2", "3", "4"]


def test_a_one_way_request_is_answered_only_when_it_fails() -> None:
    driver = live()
    driver.say("typing", conversation_id="d.x")
    driver.session.answer(driver.call(), messaging_service_pb2.SendTypingResponse(), driver.now_s)
    assert driver.frames() == []
    driver.say("typing", id="t", conversation_id="d.x")
    driver.fail(driver.call(), PermissionDenied("no", reason="NOT_A_MEMBER"))
    assert driver.frame() == {
        "type": "error",
        "id": "t",
        "code": "PERMISSION_DENIED",
        "reason": "NOT_A_MEMBER",
        "message": "no",
    }


def test_an_error_says_when_to_try_again() -> None:
    driver = live()
    driver.say("mark_read", id="1", conversation_id="d.x", seq=4)
    driver.fail(driver.call(), Unavailable("away", retry_after_s=1.5))
    assert driver.frame()["retry_after_ms"] == "1500"


def test_more_requests_than_may_be_in_flight_are_refused() -> None:
    driver = live(EdgeSettings(calls_in_flight=2))
    for number in range(3):
        driver.say("send_message", id=str(number), **SEND)
    calls = driver.calls()
    assert len(calls) == 2
    frame = driver.frame()
    assert (frame["id"], frame["code"], frame["reason"]) == ("2", "RESOURCE_EXHAUSTED", "OVERLOADED")
    driver.session.answer(calls[0], messaging_service_pb2.SendMessageResponse(), driver.now_s)
    driver.say("send_message", id="3", **SEND)
    assert driver.call().id == "3"


def test_ping_is_answered_with_its_timestamp_as_it_was() -> None:
    driver = live()
    for timestamp in (1790000000123456789, 1.5, "noon"):
        driver.say("ping", id="p", timestamp=timestamp)
        assert driver.frame() == {"type": "pong", "id": "p", "timestamp": timestamp}


# --- what clients get wrong ---


@pytest.mark.parametrize(
    ("raw", "code", "reason", "id_"),
    [
        ("{not json", "INVALID_ARGUMENT", "MALFORMED_FRAME", None),
        ("[1]", "INVALID_ARGUMENT", "MALFORMED_FRAME", None),
        ('{"id": "1"}', "INVALID_ARGUMENT", "MALFORMED_FRAME", "1"),
        ('{"type": 7, "id": "1"}', "INVALID_ARGUMENT", "MALFORMED_FRAME", "1"),
        ('{"type": "ping", "id": 7}', "INVALID_ARGUMENT", "MALFORMED_FRAME", None),
        ('{"type": "ping", "id": "' + "x" * 65 + '"}', "INVALID_ARGUMENT", "MALFORMED_FRAME", None),
        ('{"type": "ping", "id": "1", "timestamp": []}', "INVALID_ARGUMENT", "MALFORMED_FRAME", "1"),
        ('{"type": "ping", "id": "1", "time": 1}', "INVALID_ARGUMENT", "UNKNOWN_FIELD", "1"),
        ('{"type": "make_coffee", "id": "1"}', "UNIMPLEMENTED", "UNKNOWN_TYPE", "1"),
        ('{"type": "typing", "id": "1", "colour": "red"}', "INVALID_ARGUMENT", "UNKNOWN_FIELD", "1"),
        ('{"type": "typing", "id": "1", "conversation_id": 7}', "INVALID_ARGUMENT", "MALFORMED_FRAME", "1"),
        ('{"type": "received", "id": "1", "pos": 1.0}', "INVALID_ARGUMENT", "MALFORMED_FRAME", "1"),
    ],
)
def test_a_bad_frame_gets_a_typed_error_and_the_connection_stays(
    raw: str, code: str, reason: str, id_: str | None
) -> None:
    driver = live()
    driver.say_raw(raw)
    frame = driver.frame()
    assert (frame["type"], frame["code"], frame["reason"], frame.get("id")) == ("error", code, reason, id_)
    assert driver.calls() == []
    assert driver.closed() is None


def test_an_error_names_the_field() -> None:
    driver = live()
    driver.say("typing", id="1", colour="red")
    assert driver.frame()["violations"] == [{"field": "colour", "description": "no such field"}]


def test_binary_where_text_is_due_closes_with_4102() -> None:
    driver = live()
    driver.say_binary(b"\x00")
    assert driver.closed() == 4102


def test_text_where_binary_is_due_closes_with_4102() -> None:
    driver = SessionDriver(codec=BINARY)
    driver.say_raw('{"type": "ping"}')
    assert driver.closed() == 4102


def test_invalid_utf8_closes_with_4102() -> None:
    driver = live()
    driver.say_raw(b'{"type": "\xff\xfe"}')
    assert driver.closed() == 4102


def test_what_comes_after_the_close_is_ignored() -> None:
    driver = live()
    driver.say_binary(b"\x00")
    driver.say("send_message", id="1", **SEND)
    driver.deliver(1)
    assert driver.calls() == []
    assert driver.frames() == []


# --- rates ---


def test_frames_beyond_the_rate_are_refused_with_the_time_to_wait() -> None:
    driver = live(EdgeSettings(frames_per_s=10, frames_burst=2))
    for number in range(3):
        driver.say("ping", id=str(number))
    *_, frame = driver.frames()
    assert (frame["id"], frame["code"], frame["reason"]) == ("2", "RESOURCE_EXHAUSTED", "RATE_LIMITED")
    assert frame["retry_after_ms"] == "100"


def test_refusals_are_answered_ten_times_a_second_and_counted_always() -> None:
    driver = live(EdgeSettings(frames_per_s=1, frames_burst=1))
    for _ in range(500):
        driver.say("ping")
    assert len(driver.frames()) == 1 + 10
    assert driver.metrics.refused == 499


def test_a_flood_is_cut_off_with_4102() -> None:
    driver = live()
    for number in range(10_000):
        driver.say("send_message", id=str(number), **SEND)
    assert len(driver.calls()) == 0
    assert driver.closed() == 4102
    assert driver.metrics.refused == 2001


def test_a_client_below_its_rate_is_never_refused() -> None:
    driver = live()
    for _ in range(3000):
        driver.now_s += 1 / 200
        driver.say("ping")
    assert {frame["type"] for frame in driver.frames()} == {"pong"}


def test_control_frames_count_as_frames() -> None:
    driver = live(EdgeSettings(frames_per_s=1, frames_burst=2))
    assert [driver.session.touch(driver.now_s) for _ in range(3)] == [True, True, False]


# --- the end ---


def test_two_missed_heartbeats_close_with_4003() -> None:
    driver = live()
    driver.wait(59.9)
    assert driver.closed() is None
    driver.wait(0.2)
    assert driver.closed() == 4003


def test_a_ping_is_a_heartbeat() -> None:
    driver = live()
    driver.wait(59)
    driver.say("ping")
    driver.wait(59)
    assert driver.closed() is None
    assert driver.session.deadline_s() == driver.now_s + 1


def test_a_replaced_connection_closes_with_4101() -> None:
    driver = live()
    driver.session.evict(4101, "the device has connected elsewhere")
    assert driver.closed() == 4101


def test_a_client_that_does_not_read_is_closed_with_4002_and_gets_nothing_more() -> None:
    driver = live(EdgeSettings(outbox_bytes=1000))
    for pos in range(1, 20):
        driver.deliver(pos)
    assert driver.closed() == 4002
    assert driver.frames() == []


def test_events_that_may_be_lost_never_close_a_slow_client() -> None:
    driver = live(EdgeSettings(outbox_bytes=1000))
    for number in range(100):
        driver.deliver_typing(f"user-{number}", key=f"typing:{number}")
    assert driver.closed() is None
    assert driver.metrics.dropped > 0


def test_events_of_one_key_are_conflated_to_the_newest() -> None:
    driver = live()
    for number in range(5):
        driver.deliver_typing(f"user-{number}")
    assert driver.frame()["user_id"] == "user-4"
    assert driver.metrics.conflated == 4


def test_draining_sends_the_client_elsewhere_and_then_closes_with_4001() -> None:
    driver = live()
    driver.session.drain(1500, "resume-token")
    assert driver.frame() == {"type": "reconnect", "after_ms": 1500, "resume_token": "resume-token"}
    assert driver.closed() is None
    driver.session.end_drain()
    assert driver.closed() == 4001


def test_while_draining_answers_still_go_out_and_new_requests_are_refused() -> None:
    driver = live()
    driver.say("send_message", id="before", **SEND)
    call = driver.call()
    driver.session.drain(0, "t")
    assert not driver.session.quiet
    driver.say("send_message", id="after", **SEND)
    driver.session.answer(call, messaging_service_pb2.SendMessageResponse(), driver.now_s)
    told = [(frame["type"], frame.get("id"), frame.get("reason")) for frame in driver.frames()]
    assert told == [("reconnect", None, None), ("error", "after", "DRAINING"), ("ack", "before", None)]
    assert driver.session.quiet


# --- the other subprotocol ---


def test_protobuf_frames_do_the_same() -> None:
    driver = SessionDriver(codec=BINARY)
    hello = frames_pb2.Hello(token="alice/phone", cursor=3)
    driver.say_binary(frames_pb2.ClientFrame(type="hello", payload=hello.SerializeToString()).SerializeToString())
    driver.register()
    [raw] = driver.session.outbox.take(1 << 20)
    frame = frames_pb2.ServerFrame.FromString(raw)
    assert frame.type == "connected"
    assert frames_pb2.Connected.FromString(frame.payload).pos == 3


def test_json_frames_hold_nothing_but_the_type_beside_the_fields() -> None:
    driver = live()
    driver.deliver(1)
    [raw] = driver.session.outbox.take(1 << 20)
    assert raw.startswith(b'{"type":"message","pos":"1","message":{')
    assert json.loads(raw)["message"]["text"] == "hello"
