"""A message's way as its operator sees it: the spans that a server sends to a collector."""

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from tests.support.otlp import Collector, running_collector
from tests.support.people import JSON, WAIT_S, Line, Person, befriend, line, sign_up
from tests.support.runner import RunningHither, running_hither

SECRET = "the eagle has landed"
SEND = "hither.messaging.v1.MessagingService/SendMessage"


@pytest.fixture
async def collector() -> AsyncIterator[Collector]:
    async with running_collector() as collector:
        yield collector


async def two_friends(http: httpx.AsyncClient) -> tuple[Person, Person]:
    alice, bob = await sign_up(http, "alice"), await sign_up(http, "bob")
    await befriend(alice, bob)
    return alice, bob


async def send_and_receive(server: RunningHither, alice: Person, bob: Person) -> None:
    async with line(server.websocket_url, alice) as hers, line(server.websocket_url, bob) as his:
        ack = await hers.ask("send_message", to=bob.user_id, client_id="c1", text=SECRET)
        assert ack["type"] == "ack"
        await his.next("message")


def sampling(collector: Collector, ratio: str) -> dict[str, str]:
    return {"HITHER_TELEMETRY_OTLP_ENDPOINT": collector.address, "HITHER_TELEMETRY_TRACE_RATIO": ratio}


async def test_a_message_is_one_trace_from_the_senders_frame_to_the_recipients_socket(
    collector: Collector, tmp_path: Path
) -> None:
    async with running_hither(tmp_path / "data", sampling(collector, "1")) as server:
        async with httpx.AsyncClient(base_url=server.url, timeout=WAIT_S) as http:
            alice, bob = await two_friends(http)
            await send_and_receive(server, alice, bob)
        await collector.until(lambda: bool(collector.named("frame send_message") and collector.named("write message")))

        [frame] = collector.named("frame send_message")
        trace = collector.trace(frame.trace_id)

    assert frame.parent_id == ""
