"""A trace that goes on in another process, over loopback gRPC."""

from collections.abc import AsyncIterator

import pytest
from opentelemetry.trace import SpanKind, StatusCode

from discovery.errors import NotFound
from discovery.registry.embedded import EmbeddedRegistry
from discovery.rpc.tracing import Trace, surround
from hither.messaging.v1 import messaging_service_pb2 as pb
from tests.support.cluster import ALICE, MESSAGING, SEND, Keys, Process, key_in, running_process
from tests.support.tracing import parent_of, place_of, recording

NAME = SEND.removeprefix("/")
OUTER = Trace("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331", sampled=True)
Pair = tuple[Process, Process]


@pytest.fixture
async def pair() -> AsyncIterator[Pair]:
    registry, keys = EmbeddedRegistry(), Keys()
    async with running_process(registry, keys, "here") as here, running_process(registry, keys, "there") as there:
        for process in (here, there):
            await process.mesh._refresh()
        yield here, there


async def send(here: Process, there: Process) -> None:
    key = key_in(there.mesh.owned(MESSAGING), there.mesh)
    request = pb.SendMessageRequest(conversation_id=key, client_id="1", text="hi")
    await here.mesh.call(SEND, request, caller=ALICE, timeout_s=3)


async def test_a_trace_goes_on_where_the_call_is_served(pair: Pair) -> None:
    here, there = pair
    surround(OUTER)

    with recording(ratio=0.0) as recorded:
        await send(here, there)

    called, served = recorded.spans
    assert [(span.name, span.kind) for span in recorded.spans] == [(NAME, SpanKind.CLIENT), (NAME, SpanKind.SERVER)]
    assert place_of(called).trace_id == place_of(served).trace_id == OUTER.trace_id
    assert (parent_of(called), parent_of(served)) == (OUTER.span_id, place_of(called).span_id)
    assert there.servicer.seen[0][1][3:] == place_of(served)


async def test_a_call_that_stands_in_no_trace_begins_one(pair: Pair) -> None:
    with recording(ratio=1.0) as recorded:
        await send(*pair)

    called, served = recorded.spans
    assert (parent_of(called), parent_of(served)) == ("", place_of(called).span_id)


async def test_a_trace_that_is_not_sampled_keeps_its_id_in_the_other_process_and_makes_no_spans(pair: Pair) -> None:
    here, there = pair
    surround(OUTER._replace(sampled=False))

    with recording(ratio=1.0) as recorded:
        await send(here, there)

    assert recorded.spans == []
    seen = there.servicer.seen[0][1]
    assert (seen.trace_id, seen.sampled) == (OUTER.trace_id, False)


async def test_the_callers_span_of_a_refused_call_has_failed(pair: Pair) -> None:
    here, there = pair

    async def refuse(_request: object) -> pb.SendMessageResponse:
        raise NotFound("no such conversation", reason="NO_SUCH_CONVERSATION")

    there.servicer.behaviour = refuse
    with recording() as recorded, pytest.raises(NotFound):
        await send(here, there)

    assert [span.status.status_code for span in recorded.spans] == [StatusCode.ERROR, StatusCode.UNSET]
    assert recorded.spans[0].status.description == "NO_SUCH_CONVERSATION"
