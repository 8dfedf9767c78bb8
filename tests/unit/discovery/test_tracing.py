"""Places in traces, and the spans of calls."""

import time

import pytest
from google.protobuf.message import Message
from opentelemetry.trace import SpanKind, StatusCode

from discovery.errors import HitherError, Internal, NotFound
from discovery.rpc.call import Call
from discovery.rpc.tracing import (
    Trace,
    begin_trace,
    kept_traceparent,
    onward,
    open_span,
    read_traceparent,
    received_trace,
    traceparent,
)
from hither.messaging.v1 import messaging_service_pb2 as pb
from tests.support.cluster import ALICE, SEND, Scripted, new_dispatcher
from tests.support.tracing import parent_of, place_of, recording

TRACE = "0af7651916cd43dd8448eb211c80319c"
SPAN = "b7ad6b7169203331"
SAMPLED = Trace(TRACE, SPAN, sampled=True)
UNSAMPLED = Trace(TRACE, SPAN, sampled=False)
REQUEST = pb.SendMessageRequest(conversation_id="g.1", client_id="1", text="hi")


def call(place: Trace = SAMPLED) -> Call:
    return Call(SEND, ALICE, time.monotonic() + 5, *place)


async def fails_with(error: Exception) -> None:
    servicer = Scripted()

    async def fail(_request: Message) -> Message:
        raise error

    servicer.behaviour = fail
    with pytest.raises(HitherError):
        await new_dispatcher(servicer).dispatch(SEND, REQUEST, call())


@pytest.mark.parametrize("place", [SAMPLED, UNSAMPLED])
def test_a_place_crosses_the_wire_and_back(place: Trace) -> None:
    assert read_traceparent(traceparent(place)) == place
    assert read_traceparent(traceparent(place).encode()) == place


def test_a_place_without_a_span_goes_out_under_one_that_it_makes_up() -> None:
    read = read_traceparent(traceparent(Trace(TRACE, "", sampled=False)))

    assert read is not None
    assert (read.trace_id, len(read.span_id), read.sampled) == (TRACE, 16, False)


def test_only_sampled_places_are_kept() -> None:
    assert kept_traceparent(UNSAMPLED) == ""
    assert kept_traceparent(SAMPLED) == f"00-{TRACE}-{SPAN}-01"


def test_flags_and_fields_of_later_versions_are_passed_over() -> None:
    assert read_traceparent(f"cc-{TRACE}-{SPAN}-03-what-the-future-brings") == SAMPLED


@pytest.mark.parametrize(
    "value",
    [
        None,
        "",
        "x",
        f"00-short-{SPAN}-01",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-01\n",
        b"\xff" * 55,
        "00-" + "\n" * 32 + "-b7-01",
    ],
)
def test_what_is_no_traceparent_begins_a_new_trace(value: str | bytes | None) -> None:
    assert read_traceparent(value) is None
    assert received_trace(value).trace_id != received_trace(value).trace_id


def test_without_an_exporter_nothing_is_sampled_and_no_span_is_made() -> None:
    assert not begin_trace().sampled
    assert open_span("work", SpanKind.INTERNAL, SAMPLED, {}) is None


def test_a_trace_that_comes_in_sampled_goes_on_sampled_through_a_process_that_exports_nothing() -> None:
    assert onward(open_span("work", SpanKind.INTERNAL, SAMPLED, {}), SAMPLED) == traceparent(SAMPLED)


@pytest.mark.parametrize(("ratio", "sampled"), [(0.0, {False}), (1.0, {True}), (0.5, {True, False})])
def test_a_ratio_of_the_traces_that_begin_here_is_sampled(ratio: float, sampled: set[bool]) -> None:
    with recording(ratio):
        assert {begin_trace().sampled for _ in range(200)} == sampled


def test_the_first_span_of_a_trace_has_the_traces_id_and_no_parent() -> None:
    with recording() as recorded:
        place = begin_trace()
        span = open_span("work", SpanKind.INTERNAL, place, {})
        assert span is not None
        span.end()

    [made] = recorded.spans
    assert (place_of(made).trace_id, parent_of(made)) == (place.trace_id, "")


async def test_a_served_call_is_a_span_and_what_it_calls_comes_out_of_it() -> None:
    servicer = Scripted()

    with recording() as recorded:
        await new_dispatcher(servicer).dispatch(SEND, REQUEST, call())

    [span] = recorded.spans
    assert (span.kind, place_of(span).trace_id, parent_of(span)) == (SpanKind.SERVER, TRACE, SPAN)
    assert dict(span.attributes or {}) == {
        "rpc.system": "grpc",
        "rpc.service": "hither.messaging.v1.MessagingService",
        "rpc.method": "SendMessage",
        "rpc.grpc.status_code": 0,
    }
    assert servicer.seen[0][1][3:] == place_of(span)


async def test_a_served_call_that_is_not_sampled_is_no_span() -> None:
    with recording() as recorded:
        await new_dispatcher(Scripted()).dispatch(SEND, REQUEST, call(UNSAMPLED))

    assert recorded.spans == []


@pytest.mark.parametrize(
    ("error", "status", "kind"),
    [
        (Internal("what happened to alice", reason="INTERNAL"), StatusCode.ERROR, "INTERNAL"),
        (RuntimeError("what happened to alice"), StatusCode.ERROR, "RuntimeError"),
        (
            NotFound("no such conversation of alice", reason="NO_SUCH_CONVERSATION"),
            StatusCode.UNSET,
            "NO_SUCH_CONVERSATION",
        ),
    ],
)
async def test_a_failure_of_the_server_fails_its_span_and_a_mistake_of_the_caller_does_not(
    error: Exception, status: StatusCode, kind: str
) -> None:
    with recording() as recorded:
        await fails_with(error)

    [span] = recorded.spans
    assert (span.status.status_code, (span.attributes or {})["error.type"]) == (status, kind)
    assert "alice" not in span.to_json()
