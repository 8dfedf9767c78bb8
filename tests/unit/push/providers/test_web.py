"""Web Push: what a browser reads, what its push service is told, and where nobody may send us."""

import asyncio
import json
from collections.abc import Awaitable
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

import pytest

from services.ports.push_provider import Outcome, Urgency, Verdict
from services.ports.push_store import Platform
from services.push.providers.opening import open_providers
from services.push.providers.settings import WEB_HOSTS
from services.push.providers.web import PAYLOAD_MOST_BYTES, VAPID_LIFE_S, VAPID_RENEWED_S, WebHosts
from tests.support.certs import Pki
from tests.support.clock import ManualClock
from tests.support.push.behaviour import HANG, answers
from tests.support.push.server import Connection, server_context
from tests.support.push.wake_ups import DATA, WakeUps
from tests.support.push.web_push_server import WebPushServer
from tests.unit.push.providers.conftest import provider_for

_POINT = "BCVxsr7N_eNgVRqvHtD0zTZsEc6-VV-JvLexhqUzORcxaOzi6-AYWXvTBHm4bjyPjs7Vd8pZGH6SRpkNtoIAiw4"


async def test_the_subscriber_reads_what_was_sent(web: WebPushServer, clock: ManualClock, wake_ups: WakeUps) -> None:
    async with provider_for(web, clock) as provider:
        await provider.send(wake_ups.to(web, "ann", body="Grüße 👋"))
    [accepted] = web.accepted
    assert accepted.token == web.endpoint("ann")
    assert accepted.payload == {
        "title": "Hither",
        "body": "Grüße 👋",
        "data": DATA,
        "tag": "conversation-7",
        "badge": 3,
    }
    sent = {name: accepted.headers[name] for name in ("ttl", "urgency", "topic", "content-encoding")}
    assert sent == {"ttl": "60", "urgency": "high", "topic": "conversation-7", "content-encoding": "aes128gcm"}


async def test_a_silent_push_shows_nothing(web: WebPushServer, clock: ManualClock, wake_ups: WakeUps) -> None:
    silent: dict[str, Any] = {"title": "", "body": "", "badge": None, "collapse_id": ""}
    async with provider_for(web, clock) as provider:
        await provider.send(wake_ups.to(web, "ann", urgency=Urgency.LOW, **silent))
    assert web.accepted[0].payload == {"data": DATA}
    assert web.accepted[0].headers["urgency"] == "low"
    assert "topic" not in web.accepted[0].headers


async def test_the_largest_push_is_taken_and_a_larger_one_is_not_sent(
    web: WebPushServer, clock: ManualClock, wake_ups: WakeUps
) -> None:
    frame = len('{"data":{},"title":"T","body":"","tag":"c"}')
    wishes: dict[str, Any] = {"title": "T", "badge": None, "data": {}, "collapse_id": "c"}
    async with provider_for(web, clock) as provider:
        full = await provider.send(wake_ups.to(web, "ann", body="x" * (PAYLOAD_MOST_BYTES - frame), **wishes))
        over = await provider.send(wake_ups.to(web, "ann", body="x" * (PAYLOAD_MOST_BYTES - frame + 1), **wishes))
    assert full.outcome is Outcome.ACCEPTED
    assert (over.outcome, over.reason) == (Outcome.REFUSED, "PAYLOAD_TOO_LARGE")
    assert web.asked == 1


async def test_subscriptions_that_hold_no_more_are_gone(
    web: WebPushServer, clock: ManualClock, wake_ups: WakeUps
) -> None:
    old, unknown = wake_ups.to(web, "old"), wake_ups.to(web, "unknown")
    web.gone.add(web.endpoint("old"))
    web.behave(answers(404), token=web.endpoint("unknown"))
    async with provider_for(web, clock) as provider:
        verdicts = [await provider.send(old), await provider.send(unknown)]
    assert [(verdict.outcome, verdict.reason) for verdict in verdicts] == [
        (Outcome.GONE, "HTTP_410"),
        (Outcome.GONE, "HTTP_404"),
    ]


@pytest.mark.parametrize(
    ("status", "outcome"),
    [
        (200, Outcome.ACCEPTED),
        (202, Outcome.ACCEPTED),
        (400, Outcome.REFUSED),
        (401, Outcome.REFUSED),
        (403, Outcome.REFUSED),
        (413, Outcome.REFUSED),
        (408, Outcome.RETRY),
        (429, Outcome.RETRY),
        (502, Outcome.RETRY),
    ],
)
async def test_each_status_has_its_outcome(
    status: int, outcome: Outcome, web: WebPushServer, clock: ManualClock, wake_ups: WakeUps
) -> None:
    web.behave(answers(status))
    async with provider_for(web, clock) as provider:
        assert (await provider.send(wake_ups.to(web, "ann"))).outcome is outcome


async def test_a_signature_serves_its_push_service_until_it_is_renewed(
    web: WebPushServer, clock: ManualClock, wake_ups: WakeUps
) -> None:
    async with provider_for(web, clock) as provider:
        await asyncio.gather(*(provider.send(wake_ups.to(web, f"u{number}")) for number in range(30)))
        clock.advance(VAPID_LIFE_S - VAPID_RENEWED_S - 1)
        await provider.send(wake_ups.to(web, "ann"))
        assert len(web.authorizations) == 1
        clock.advance(1)
        await provider.send(wake_ups.to(web, "ann"))
    assert len(web.authorizations) == 2
    assert web.refused == []


async def test_each_push_service_gets_a_signature_of_its_own(
    web: WebPushServer, pki: Pki, clock: ManualClock, wake_ups: WakeUps
) -> None:
    async with WebPushServer(pki, clock=clock) as other:
        other.take_key_of(web)
        ports = f"{urlsplit(web.url).port} {urlsplit(other.url).port}"
        [provider] = open_providers(replace(web.settings, web_ports=ports), clock).values()
        await provider.send(wake_ups.to(web, "ann"))
        await provider.send(wake_ups.to(other, "ben"))
        await provider.close()
        assert len(other.accepted) == 1
    assert web.authorizations != other.authorizations


@pytest.mark.parametrize(
    "endpoint",
    [
        "https://localhost:{port}/push/ann",
        "https://127.0.0.1:{port}.example/push/ann",
        "https://127.0.0.1.example:{port}/push/ann",
        "https://user@127.0.0.1:{port}/push/ann",
        "https://allowed.example\\@127.0.0.1:{port}/push/ann",
        "https://127.1:{port}/push/ann",
        "https://2130706433:{port}/push/ann",
        "https://[::1]:{port}/push/ann",
        "https://127.0.0.1/push/ann",
        "https://127.0.0.1:22/",
        "http://127.0.0.1:{port}/push/ann",
        "https:127.0.0.1:{port}/push/ann",
        "https://127.0.0.1:{port}0000/push/ann",
        "https://127.0.0.1:{port}/push/ann\r\nx: y",
        "https://127.0.0.1:{port}/push/\tann",
        "https://127.0.0.1:{port}/push/änn",
        "https://",
        "file:///etc/passwd",
        "",
    ],
)
async def test_an_endpoint_elsewhere_is_never_connected_to(
    endpoint: str, web: WebPushServer, clock: ManualClock, wake_ups: WakeUps
) -> None:
    subscription = json.loads(web.subscription("ann")) | {"endpoint": endpoint.format(port=urlsplit(web.url).port)}
    async with provider_for(web, clock) as provider:
        verdict = await provider.send(wake_ups.of(Platform.WEB, json.dumps(subscription)))
    assert (verdict.outcome, verdict.reason) in (
        (Outcome.REFUSED, "ENDPOINT_NOT_ALLOWED"),
        (Outcome.GONE, "BAD_SUBSCRIPTION"),
    )
    assert web.connections == 0


@pytest.mark.parametrize(
    "changes",
    [
        {"endpoint": None},
        {"endpoint": 7},
        {"keys": None},
        {"keys": []},
        {"keys": {"p256dh": "AAAA"}},
        {"keys": {"p256dh": 1, "auth": 2}},
        {"keys": {"p256dh": _POINT, "auth": "AAAA"}},
        {"keys": {"p256dh": "é", "auth": "AAAAAAAAAAAAAAAAAAAAAA"}},
        {"keys": {"p256dh": "B" + "A" * 86, "auth": "AAAAAAAAAAAAAAAAAAAAAA"}},
    ],
)
async def test_a_malformed_subscription_is_gone(
    changes: dict[str, object], web: WebPushServer, clock: ManualClock, wake_ups: WakeUps
) -> None:
    subscription = json.loads(web.subscription("ann")) | changes
    async with provider_for(web, clock) as provider:
        verdict = await provider.send(wake_ups.of(Platform.WEB, json.dumps(subscription)))
    assert (verdict.outcome, verdict.reason) == (Outcome.GONE, "BAD_SUBSCRIPTION")
    assert web.connections == 0


@pytest.mark.parametrize("token", ["", "no", "[]", "7", "null", "[" * 100_000, '{"endpoint":'])
async def test_what_is_no_subscription_is_gone(
    token: str, web: WebPushServer, clock: ManualClock, wake_ups: WakeUps
) -> None:
    async with provider_for(web, clock) as provider:
        verdict = await provider.send(wake_ups.of(Platform.WEB, token))
    assert (verdict.outcome, verdict.reason) == (Outcome.GONE, "BAD_SUBSCRIPTION")


@pytest.mark.parametrize(
    ("endpoint", "allowed"),
    [
        ("https://fcm.googleapis.com/fcm/send/x", True),
        ("https://updates.push.services.mozilla.com/wpush/v2/x", True),
        ("https://wns2-db5p.notify.windows.com/w/?token=x", True),
        ("https://web.push.apple.com/x", True),
        ("https://a.web.push.apple.com/x", True),
        ("https://WEB.push.APPLE.com/x", True),
        ("https://push.services.mozilla.com/x", False),
        ("https://evilnotify.windows.com/x", False),
        ("https://notify.windows.com.evil.example/x", False),
        ("https://fcm.googleapis.com./x", False),
        ("https://fcm.googleapis.com:8443/x", False),
        ("https://googleapis.com/x", False),
        ("https://169.254.169.254/latest/meta-data", False),
        ("https:///x", False),
    ],
)
def test_push_services_in_use_are_allowed_and_nobody_else(endpoint: str, allowed: bool) -> None:
    assert WebHosts.parse(WEB_HOSTS, "443").allow(urlsplit(endpoint)) is allowed


async def test_push_services_are_left_for_others_when_there_are_many(
    web: WebPushServer, pki: Pki, clock: ManualClock, wake_ups: WakeUps, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.push.providers.web.ORIGINS_MOST", 1)
    async with WebPushServer(pki, clock=clock) as other:
        other.take_key_of(web)
        ports = f"{urlsplit(web.url).port} {urlsplit(other.url).port}"
        [provider] = open_providers(replace(web.settings, web_ports=ports), clock).values()
        [first] = await _connections_after(web, provider.send(wake_ups.to(web, "ann")))
        await provider.send(wake_ups.to(other, "ben"))
        await first.ended.wait()
        other.behave(HANG)
        under_way = asyncio.create_task(provider.send(wake_ups.to(other, "ben")))
        await other.until_asked(2)
        busy = await provider.send(wake_ups.to(web, "ann"))
        await provider.close()
        assert (await under_way).reason == "CLOSED"
    assert (busy.outcome, busy.reason) == (Outcome.RETRY, "BUSY")


async def test_a_closed_provider_connects_to_nobody(web: WebPushServer, clock: ManualClock, wake_ups: WakeUps) -> None:
    async with provider_for(web, clock) as provider:
        await provider.close()
        verdict = await provider.send(wake_ups.to(web, "ann"))
    assert (verdict.outcome, verdict.reason) == (Outcome.RETRY, "CLOSED")
    assert web.connections == 0


async def test_a_push_service_may_speak_http_1(web: WebPushServer, clock: ManualClock, wake_ups: WakeUps) -> None:
    asked: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(int(line.split(b":")[1]) for line in head.lower().splitlines() if b"content-length" in line)
        asked.append(head + await reader.readexactly(length))
        writer.write(b"HTTP/1.1 201 Created\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
        await writer.drain()
        writer.close()

    pushes = [wake_ups.to(web, f"u{number}") for number in range(5)]
    async with provider_for(web, clock) as provider:
        await web.close()
        context = server_context(web.files, "http/1.1")
        async with await asyncio.start_server(answer, "127.0.0.1", web.port, ssl=context):
            verdicts = await asyncio.gather(*map(provider.send, pushes))
    assert {verdict.outcome for verdict in verdicts} == {Outcome.ACCEPTED}
    assert len(asked) == 5
    assert all(b"POST /push/u" in request for request in asked)


async def _connections_after(server: WebPushServer, sending: Awaitable[Verdict]) -> list[Connection]:
    assert (await sending).outcome is Outcome.ACCEPTED
    return list(server.open)
