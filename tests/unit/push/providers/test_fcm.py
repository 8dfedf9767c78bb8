"""FCM: what it is sent, what its answers mean, and the access token."""

import asyncio
import json

import pytest

from services.ports.push_provider import Outcome, Urgency
from services.push.providers.fcm import TOKEN_KEPT_S, TOKEN_RENEWED_S
from tests.support.clock import ManualClock
from tests.support.push.behaviour import answers
from tests.support.push.fcm_server import PROJECT, FcmServer
from tests.support.push.server import Reply
from tests.support.push.wake_ups import DATA, WakeUps
from tests.unit.push.providers.conftest import provider_for


async def test_a_notification_goes_out_as_google_wants_it(
    fcm: FcmServer, clock: ManualClock, wake_ups: WakeUps
) -> None:
    async with provider_for(fcm, clock) as provider:
        verdict = await provider.send(wake_ups.to(fcm, "ann"))
    assert verdict.provider_id == f"projects/{PROJECT}/messages/0:1"
    assert fcm.accepted[0].payload == {
        "token": "ann",
        "data": DATA,
        "notification": {"title": "Hither", "body": "There is a message"},
        "android": {
            "priority": "HIGH",
            "ttl": "60s",
            "collapse_key": "conversation-7",
            "notification": {"tag": "conversation-7", "notification_count": 3},
        },
    }


async def test_a_silent_push_is_data_only(fcm: FcmServer, clock: ManualClock, wake_ups: WakeUps) -> None:
    async with provider_for(fcm, clock) as provider:
        await provider.send(wake_ups.to(fcm, "ann", title="", body="", collapse_id="", urgency=Urgency.LOW))
    assert fcm.accepted[0].payload == {
        "token": "ann",
        "data": DATA,
        "android": {"priority": "NORMAL", "ttl": "60s"},
    }


async def test_what_has_run_out_is_for_now_or_never(fcm: FcmServer, clock: ManualClock, wake_ups: WakeUps) -> None:
    push = wake_ups.to(fcm, "ann")
    clock.advance(3600)
    async with provider_for(fcm, clock) as provider:
        await provider.send(push)
    assert fcm.accepted[0].payload["android"]["ttl"] == "0s"


async def test_tokens_of_no_device_are_gone(fcm: FcmServer, clock: ManualClock, wake_ups: WakeUps) -> None:
    fcm.gone.add("old")
    fcm.foreign.add("foreign")
    async with provider_for(fcm, clock) as provider:
        old = await provider.send(wake_ups.to(fcm, "old"))
        foreign = await provider.send(wake_ups.to(fcm, "foreign"))
        bad = await provider.send(wake_ups.to(fcm, "bad-token"))
        fcm.behave(answers(400, body=_invalid("message.token")))
        named = await provider.send(wake_ups.to(fcm, "ann"))
    assert (old.outcome, old.reason) == (Outcome.GONE, "UNREGISTERED")
    assert (foreign.outcome, foreign.reason) == (Outcome.GONE, "SENDER_ID_MISMATCH")
    assert (bad.outcome, bad.reason) == (Outcome.GONE, "INVALID_ARGUMENT")
    assert named.outcome is Outcome.GONE


async def test_an_argument_that_is_not_the_token_costs_no_device_its_token(
    fcm: FcmServer, clock: ManualClock, wake_ups: WakeUps
) -> None:
    async with provider_for(fcm, clock) as provider:
        verdict = await provider.send(wake_ups.to(fcm, "ann", data={"from": "reserved"}))
    assert (verdict.outcome, verdict.reason) == (Outcome.REFUSED, "INVALID_ARGUMENT")


@pytest.mark.parametrize(
    ("status", "reason", "outcome"),
    [
        (400, "INVALID_ARGUMENT", Outcome.REFUSED),
        (401, "THIRD_PARTY_AUTH_ERROR", Outcome.REFUSED),
        (403, "PERMISSION_DENIED", Outcome.REFUSED),
        (404, "NOT_FOUND", Outcome.REFUSED),
        (429, "QUOTA_EXCEEDED", Outcome.RETRY),
        (500, "INTERNAL", Outcome.RETRY),
        (503, "UNAVAILABLE", Outcome.RETRY),
    ],
)
async def test_each_refusal_has_its_outcome(
    status: int, reason: str, outcome: Outcome, fcm: FcmServer, clock: ManualClock, wake_ups: WakeUps
) -> None:
    fcm.behave(answers(status, reason))
    async with provider_for(fcm, clock) as provider:
        verdict = await provider.send(wake_ups.to(fcm, "ann"))
    assert (verdict.outcome, verdict.reason) == (outcome, reason)


async def test_what_is_too_large_is_not_sent(fcm: FcmServer, clock: ManualClock, wake_ups: WakeUps) -> None:
    async with provider_for(fcm, clock) as provider:
        verdict = await provider.send(wake_ups.to(fcm, "ann", body="é" * 2100))
    assert (verdict.outcome, verdict.reason) == (Outcome.REFUSED, "PAYLOAD_TOO_LARGE")
    assert fcm.asked == 0


async def test_one_access_token_serves_many_until_shortly_before_it_runs_out(
    fcm: FcmServer, clock: ManualClock, wake_ups: WakeUps
) -> None:
    async with provider_for(fcm, clock) as provider:
        await asyncio.gather(*(provider.send(wake_ups.to(fcm, f"u{number}")) for number in range(50)))
        clock.advance(fcm.token_life_s - TOKEN_RENEWED_S - 1)
        await provider.send(wake_ups.to(fcm, "ann"))
        assert len(fcm.issued) == 1
        clock.advance(1)
        await asyncio.gather(*(provider.send(wake_ups.to(fcm, f"u{number}")) for number in range(50)))
    assert len(fcm.issued) == 2
    assert len(fcm.accepted) == 101
    assert fcm.refused == []


async def test_an_access_token_that_is_not_taken_is_replaced_at_once_and_once(
    fcm: FcmServer, clock: ManualClock, wake_ups: WakeUps
) -> None:
    async with provider_for(fcm, clock) as provider:
        await provider.send(wake_ups.to(fcm, "ann"))
        fcm.revoked.update(fcm.issued)
        verdicts = await asyncio.gather(*(provider.send(wake_ups.to(fcm, f"u{number}")) for number in range(20)))
        assert {verdict.outcome for verdict in verdicts} == {Outcome.ACCEPTED}
        assert len(fcm.issued) == 2
        fcm.revoked.update(fcm.issued)
        verdict = await provider.send(wake_ups.to(fcm, "ann"))
        assert (verdict.outcome, verdict.reason) == (Outcome.RETRY, "UNAUTHENTICATED")
        assert len(fcm.issued) == 2
        clock.advance(TOKEN_KEPT_S)
        assert (await provider.send(wake_ups.to(fcm, "ann"))).outcome is Outcome.ACCEPTED


async def test_without_an_access_token_everybody_tries_again_later(
    fcm: FcmServer, clock: ManualClock, wake_ups: WakeUps
) -> None:
    fcm.token_behaviour = Reply(400, b'{"error":"invalid_grant","error_description":"of push@..."}')
    async with provider_for(fcm, clock) as provider:
        verdicts = await asyncio.gather(*(provider.send(wake_ups.to(fcm, f"u{number}")) for number in range(20)))
        fcm.token_behaviour = Reply(503, b"", {"retry-after": "9"})
        busy = await provider.send(wake_ups.to(fcm, "ann"))
        fcm.token_behaviour = None
        again = await provider.send(wake_ups.to(fcm, "ann"))
    assert {(verdict.outcome, verdict.reason) for verdict in verdicts} == {(Outcome.RETRY, "invalid_grant")}
    assert (busy.outcome, busy.reason, busy.retry_after_s) == (Outcome.RETRY, "HTTP_503", 9.0)
    assert again.outcome is Outcome.ACCEPTED
    assert len(fcm.token_requests) == 3


async def test_who_is_cancelled_takes_no_token_from_the_others(
    fcm: FcmServer, clock: ManualClock, wake_ups: WakeUps
) -> None:
    async with provider_for(fcm, clock) as provider:
        first = asyncio.create_task(provider.send(wake_ups.to(fcm, "ann")))
        second = asyncio.create_task(provider.send(wake_ups.to(fcm, "ben")))
        await asyncio.sleep(0)
        first.cancel()
        assert (await second).outcome is Outcome.ACCEPTED
    assert len(fcm.token_requests) == 1


async def test_a_token_endpoint_that_hangs_holds_up_nobody_for_long(
    fcm: FcmServer, clock: ManualClock, wake_ups: WakeUps
) -> None:
    fcm.token_hangs = True
    async with provider_for(fcm, clock, timeout_s=1.5) as provider:
        verdicts = await asyncio.gather(*(provider.send(wake_ups.to(fcm, f"u{number}")) for number in range(20)))
        fcm.token_hangs = False
        again = await provider.send(wake_ups.to(fcm, "ann"))
    assert {(verdict.outcome, verdict.reason) for verdict in verdicts} == {(Outcome.RETRY, "TIMEOUT")}
    assert again.outcome is Outcome.ACCEPTED


async def test_a_provider_that_is_closed_amid_asking_for_a_token_ends(
    fcm: FcmServer, clock: ManualClock, wake_ups: WakeUps
) -> None:
    fcm.token_hangs = True
    async with provider_for(fcm, clock, timeout_s=3600) as provider:
        attempt = asyncio.create_task(provider.send(wake_ups.to(fcm, "ann")))
        await fcm.until_token_asked(1)
        await provider.close()
        assert (await attempt).outcome is Outcome.RETRY


def _invalid(field: str) -> bytes:
    violations = [{"field": field, "description": "Invalid registration token"}]
    details = [{"@type": "type.googleapis.com/google.rpc.BadRequest", "fieldViolations": violations}]
    error = {"code": 400, "message": "Invalid", "status": "INVALID_ARGUMENT", "details": details}
    return json.dumps({"error": error}).encode()
