"""A message's way as its operator sees it: the spans that a server sends to a collector."""

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from websockets.asyncio.client import connect

from tests.support.otlp import Collector, running_collector
from tests.support.people import JSON, WAIT_S, Line, Person, befriend, line, sign_up
from tests.support.runner import RunningHither, running_hither

SECRET = "the eagle has landed"
SEND = "hither.messaging.v1.MessagingService/SendMessage"
TRACE = "0af7651916cd43dd8448eb211c80319c"
SPAN = "b7ad6b7169203331"


@pytest.fixture
async def collector() -> AsyncIterator[Collector]:
    async with running_collector() as collector:
        yield collector


def sampling(collector: Collector, ratio: str) -> dict[str, str]:
    return {"HITHER_TELEMETRY_OTLP_ENDPOINT": collector.address, "HITHER_TELEMETRY_TRACE_RATIO": ratio}


async def two_friends(http: httpx.AsyncClient) -> tuple[Person, Person]:
    alice, bob = await sign_up(http, "alice"), await sign_up(http, "bob")
    await befriend(alice, bob)
    return alice, bob


async def send_and_receive(server: RunningHither, sender: Line, recipient: Person) -> None:
    async with line(server.websocket_url, recipient) as theirs:
        ack = await sender.ask("send_message", to=recipient.user_id, client_id="c1", text=SECRET)
        assert ack["type"] == "ack"
        await theirs.next("message")


async def test_a_message_is_one_trace_from_the_senders_frame_to_the_recipients_socket(
    collector: Collector, tmp_path: Path
) -> None:
    async with running_hither(tmp_path / "data", sampling(collector, "1")) as server:
        async with httpx.AsyncClient(base_url=server.url, timeout=WAIT_S) as http:
            alice, bob = await two_friends(http)
            async with line(server.websocket_url, alice) as hers:
                await send_and_receive(server, hers, bob)
        await server.terminate()

    [frame] = collector.named("frame send_message")
    trace = collector.trace(frame.trace_id)
    assert trace.way("write message") == [
        "frame send_message",
        SEND,  # as the edge calls
        SEND,  # as the owner serves
        "append messages",
        "project inbox",
        "deliver message",
        "write message",
    ]
    assert trace.way("project messages")[-2:] == ["append messages", "project messages"]
    assert [(span.kind, span.parent_id == frame.span_id) for span in trace.named(SEND)] == [
        ("CLIENT", True),
        ("SERVER", False),
    ]
    assert frame.parent_id == ""
    assert not [span for span in trace.spans if span.failed]
    message_id = trace.one("append messages").attributes["messaging.message.id"]
    assert message_id.isdecimal()
    assert SECRET not in repr(collector.spans)
    assert alice.token not in repr(collector.spans)


async def test_a_trace_that_is_not_sampled_leaves_no_spans(collector: Collector, tmp_path: Path) -> None:
    async with running_hither(tmp_path / "data", sampling(collector, "0")) as server:
        async with httpx.AsyncClient(base_url=server.url, timeout=WAIT_S) as http:
            alice, bob = await two_friends(http)
            async with line(server.websocket_url, alice) as hers:
                await send_and_receive(server, hers, bob)
        await server.terminate()

    assert collector.spans == []


async def test_what_comes_in_sampled_is_traced_whatever_the_ratio(collector: Collector, tmp_path: Path) -> None:
    headers = {"traceparent": f"00-{TRACE}-{SPAN}-01"}
    async with running_hither(tmp_path / "data", sampling(collector, "0")) as server:
        async with httpx.AsyncClient(base_url=server.url, timeout=WAIT_S) as http:
            alice, bob = await two_friends(http)
            asked = await http.get("/api/v1/friends", headers={**headers, "Authorization": f"Bearer {alice.token}"})
            assert asked.status_code == 200
            url = f"{server.websocket_url}?token={alice.token}"
            async with connect(url, subprotocols=[JSON], additional_headers=headers) as socket:
                await send_and_receive(server, Line(socket), bob)
        await server.terminate()

    trace = collector.trace(TRACE)
    assert trace.spans == collector.spans
    for name in ("frame send_message", "GET /api/v1/friends"):
        assert trace.one(name).parent_id == SPAN
    assert trace.one("GET /api/v1/friends").attributes["http.response.status_code"] == 200
    assert trace.way("write message")[0] == "frame send_message"


async def test_a_refused_frame_names_its_reason(collector: Collector, tmp_path: Path) -> None:
    async with running_hither(tmp_path / "data", sampling(collector, "1")) as server:
        async with httpx.AsyncClient(base_url=server.url, timeout=WAIT_S) as http:
            alice = await sign_up(http, "alice")
            async with line(server.websocket_url, alice) as hers:
                refused = await hers.ask("send_message", to="nobody", client_id="c1", text=SECRET)
        await server.terminate()

    [frame] = collector.named("frame send_message")
    assert frame.attributes["error.type"] == refused["reason"]
    assert not frame.failed  # it is the client's mistake
    [called] = [span for span in collector.trace(frame.trace_id).named(SEND) if span.kind == "CLIENT"]
    assert (called.failed, called.status) == (True, refused["reason"])
