"""APNs: what it is sent, what its answers mean, and the provider token."""

import asyncio

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key

from services.ports.push_provider import Outcome, Urgency
from services.ports.push_store import Platform
from services.push.providers.apns import TOKEN_KEPT_S, TOKEN_RENEWED_S, ApnsKey, ApnsTokens
from tests.support.clock import ManualClock
from tests.support.push.apns_server import KEY_ID, TEAM_ID, TOPIC, ApnsServer
from tests.support.push.behaviour import answers
from tests.support.push.wake_ups import WakeUps, apns_token
from tests.unit.push.providers.conftest import provider_for


async def test_an_alert_goes_out_as_apple_wants_it(apns: ApnsServer, clock: ManualClock, wake_ups: WakeUps) -> None:
    push = wake_ups.ios("ann")
    async with provider_for(apns, clock) as provider:
        verdict = await provider.send(push)
    [accepted] = apns.accepted
    assert verdict.provider_id == push.push_id
    assert accepted.token == push.token
    assert accepted.payload == {
        "aps": {
            "alert": {"title": "Hither", "body": "There is a message"},
            "sound": "default",
            "thread-id": "d.2f1",
            "badge": 3,
        },
        "conversation_id": "d.2f1",
        "seq": "42",
    }
    sent = {name: value for name, value in accepted.headers.items() if name.startswith("apns-")}
    assert sent == {
        "apns-topic": TOPIC,
        "apns-push-type": "alert",
        "apns-priority": "10",
        "apns-expiration": str(push.expires_ms // 1000),
        "apns-id": push.push_id,
        "apns-collapse-id": "conversation-7",
    }


async def test_a_silent_push_is_in_the_background_however_urgent(
    apns: ApnsServer, clock: ManualClock, wake_ups: WakeUps
) -> None:
    async with provider_for(apns, clock) as provider:
        await provider.send(wake_ups.ios("ann", title="", body="", badge=None, data={}, collapse_id=""))
    [accepted] = apns.accepted
    assert accepted.payload == {"aps": {"content-available": 1}}
    assert accepted.headers["apns-push-type"] == "background"
    assert accepted.headers["apns-priority"] == "5"
    assert "apns-collapse-id" not in accepted.headers


async def test_an_alert_that_can_wait_is_of_low_priority(
    apns: ApnsServer, clock: ManualClock, wake_ups: WakeUps
) -> None:
    async with provider_for(apns, clock) as provider:
        await provider.send(wake_ups.ios("ann", urgency=Urgency.LOW))
    assert apns.accepted[0].headers["apns-priority"] == "5"


async def test_data_cannot_take_the_place_of_what_apple_reads(
    apns: ApnsServer, clock: ManualClock, wake_ups: WakeUps
) -> None:
    async with provider_for(apns, clock) as provider:
        await provider.send(wake_ups.ios("ann", data={"aps": "no", "kind": "direct"}))
    assert apns.accepted[0].payload["aps"]["badge"] == 3
    assert apns.accepted[0].payload["kind"] == "direct"


async def test_tokens_of_no_device_are_gone(apns: ApnsServer, clock: ManualClock, wake_ups: WakeUps) -> None:
    apns.gone.add(apns_token("old"))
    apns.foreign.add(apns_token("foreign"))
    async with provider_for(apns, clock) as provider:
        old = await provider.send(wake_ups.ios("old"))
        foreign = await provider.send(wake_ups.ios("foreign"))
        short = await provider.send(wake_ups.of(Platform.IOS, "abc"))
        odd = await provider.send(wake_ups.of(Platform.IOS, "../../x\r\n"))
    assert (old.outcome, old.reason) == (Outcome.GONE, "Unregistered")
    assert (foreign.outcome, foreign.reason) == (Outcome.GONE, "DeviceTokenNotForTopic")
    assert (short.outcome, short.reason) == (Outcome.GONE, "BadDeviceToken")
    assert (odd.outcome, odd.reason) == (Outcome.GONE, "BadDeviceToken")
    assert apns.asked == 3


@pytest.mark.parametrize(
    ("status", "reason", "outcome"),
    [
        (400, "BadTopic", Outcome.REFUSED),
        (400, "PayloadTooLarge", Outcome.REFUSED),
        (403, "Forbidden", Outcome.REFUSED),
        (403, "InvalidProviderToken", Outcome.REFUSED),
        (403, "ExpiredProviderToken", Outcome.RETRY),
        (404, "BadPath", Outcome.REFUSED),
        (410, "ExpiredToken", Outcome.GONE),
        (410, "NewWord", Outcome.GONE),
        (429, "TooManyRequests", Outcome.RETRY),
        (500, "InternalServerError", Outcome.RETRY),
        (503, "ServiceUnavailable", Outcome.RETRY),
    ],
)
async def test_each_refusal_has_its_outcome(
    status: int, reason: str, outcome: Outcome, apns: ApnsServer, clock: ManualClock, wake_ups: WakeUps
) -> None:
    apns.behave(answers(status, reason))
    async with provider_for(apns, clock) as provider:
        verdict = await provider.send(wake_ups.ios("ann"))
    assert (verdict.outcome, verdict.reason) == (outcome, reason)


async def test_what_is_too_large_is_not_sent(apns: ApnsServer, clock: ManualClock, wake_ups: WakeUps) -> None:
    async with provider_for(apns, clock) as provider:
        verdict = await provider.send(wake_ups.ios("ann", body="é" * 2100))
    assert (verdict.outcome, verdict.reason) == (Outcome.REFUSED, "PayloadTooLarge")
    assert apns.asked == 0


async def test_one_provider_token_serves_until_it_is_renewed(
    apns: ApnsServer, clock: ManualClock, wake_ups: WakeUps
) -> None:
    async with provider_for(apns, clock) as provider:
        await asyncio.gather(*(provider.send(wake_ups.ios(f"u{number}")) for number in range(50)))
        clock.advance(TOKEN_RENEWED_S - 1)
        await provider.send(wake_ups.ios("ann"))
        assert len(apns.provider_tokens) == 1
        clock.advance(1)
        await provider.send(wake_ups.ios("ann"))
    assert len(apns.provider_tokens) == 2
    assert apns.refused == []


async def test_a_provider_token_is_renewed_after_the_machine_slept(
    apns: ApnsServer, clock: ManualClock, wake_ups: WakeUps
) -> None:
    async with provider_for(apns, clock) as provider:
        await provider.send(wake_ups.ios("ann"))
        clock.wake_after(2 * 3600)
        verdict = await provider.send(wake_ups.ios("ann"))
    assert verdict.outcome is Outcome.ACCEPTED
    assert apns.refused == []


async def test_a_provider_token_that_apple_takes_for_expired_is_made_anew_at_once_and_once(
    apns: ApnsServer, clock: ManualClock, wake_ups: WakeUps
) -> None:
    async with provider_for(apns, clock) as provider:
        await provider.send(wake_ups.ios("ann"))
        apns.revoked.update(apns.provider_tokens)
        clock.advance(60)
        verdicts = await asyncio.gather(*(provider.send(wake_ups.ios(f"u{number}")) for number in range(20)))
        assert {verdict.outcome for verdict in verdicts} == {Outcome.ACCEPTED}
        assert len(apns.provider_tokens) == 2
        apns.revoked.update(apns.provider_tokens)
        clock.advance(60)
        before = apns.asked
        verdict = await provider.send(wake_ups.ios("ann"))
        assert (verdict.outcome, verdict.reason) == (Outcome.RETRY, "ExpiredProviderToken")
        assert apns.asked == before + 1
        assert len(apns.provider_tokens) == 2
        clock.advance(TOKEN_KEPT_S)
        assert (await provider.send(wake_ups.ios("ann"))).outcome is Outcome.ACCEPTED
    claims = [jwt.decode(token, options={"verify_signature": False}) for token in apns.provider_tokens]
    assert all(set(claim) == {"iss", "iat"} for claim in claims)


def test_a_token_that_was_renewed_meanwhile_is_not_made_anew(clock: ManualClock) -> None:
    tokens = ApnsTokens(ApnsKey(generate_private_key(SECP256R1()), KEY_ID, TEAM_ID), clock)
    old = tokens.current()
    clock.advance(TOKEN_RENEWED_S)
    renewed = tokens.current()
    assert renewed != old
    assert tokens.instead_of(old) == renewed
    assert tokens.instead_of(renewed) != renewed
