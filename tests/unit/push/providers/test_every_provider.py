"""What all providers have in common, towards a server of their own: connections that break, and what nobody may see."""

import asyncio
import logging

import pytest
import structlog

from services.ports.push_provider import Outcome
from tests.support.clock import ManualClock
from tests.support.push.apns_server import ApnsServer
from tests.support.push.behaviour import CUT, ENDLESS, GOAWAY, HANG, RESET, Behaviour, answers, slow
from tests.support.push.server import PushServer
from tests.support.push.wake_ups import WakeUps
from tests.unit.push.providers.conftest import provider_for


async def test_a_push_is_accepted_with_what_it_carries(
    server: PushServer, clock: ManualClock, wake_ups: WakeUps
) -> None:
    async with provider_for(server, clock) as provider:
        verdict = await provider.send(wake_ups.to(server, "ann"))
    assert verdict.outcome is Outcome.ACCEPTED
    assert verdict.reason == ""
    assert server.refused == []
    assert "There is a message" in str(server.accepted[0].payload)
    assert "d.2f1" in str(server.accepted[0].payload)


@pytest.mark.parametrize(("behaviour", "reason"), [(HANG, "TIMEOUT"), (RESET, "UNREACHABLE"), (CUT, "UNREACHABLE")])
async def test_a_connection_that_fails_is_retried_on_another_one(
    behaviour: Behaviour, reason: str, server: PushServer, clock: ManualClock, wake_ups: WakeUps
) -> None:
    async with provider_for(server, clock, timeout_s=1.5) as provider:
        await provider.send(wake_ups.to(server, "ann"))
        before = server.connections
        server.behave(behaviour, times=1)
        failed = await provider.send(wake_ups.to(server, "ben"))
        again = await provider.send(wake_ups.to(server, "ben"))
    assert (failed.outcome, failed.reason) == (Outcome.RETRY, reason)
    assert again.outcome is Outcome.ACCEPTED
    assert server.connections == before + 1
    assert server.accepted[-1].connection == server.connections


async def test_what_a_leaving_server_did_not_look_at_goes_over_another_connection(
    server: PushServer, clock: ManualClock, wake_ups: WakeUps
) -> None:
    async with provider_for(server, clock) as provider:
        await provider.send(wake_ups.to(server, "ann"))
        before = server.connections
        server.behave(GOAWAY, times=1)
        verdict = await provider.send(wake_ups.to(server, "ben"))
    assert verdict.outcome is Outcome.ACCEPTED
    assert [push.connection for push in server.accepted] == [before, before + 1]


async def test_a_connection_that_was_ended_while_it_was_idle_costs_no_push(
    server: PushServer, clock: ManualClock, wake_ups: WakeUps
) -> None:
    async with provider_for(server, clock) as provider:
        await provider.send(wake_ups.to(server, "ann"))
        before = server.connections
        await server.leave()
        verdict = await provider.send(wake_ups.to(server, "ben"))
    assert verdict.outcome is Outcome.ACCEPTED
    assert server.connections == before + 1


async def test_what_no_text_can_hold_is_replaced(server: PushServer, clock: ManualClock, wake_ups: WakeUps) -> None:
    async with provider_for(server, clock) as provider:
        verdict = await provider.send(wake_ups.to(server, "ann", body="half \ud83d"))
    assert verdict.outcome is Outcome.ACCEPTED
    assert "half ?" in str(server.accepted[0].payload)


async def test_a_server_that_leaves_amid_many_loses_none_that_is_tried_again(
    server: PushServer, clock: ManualClock, wake_ups: WakeUps
) -> None:
    pushes = [wake_ups.to(server, f"u{number}") for number in range(60)]
    async with provider_for(server, clock) as provider:
        server.behave(slow(0.05))
        first = [asyncio.create_task(provider.send(push)) for push in pushes[:10]]
        await asyncio.sleep(0)
        server.behave(GOAWAY, times=1)
        rest = [asyncio.create_task(provider.send(push)) for push in pushes[10:]]
        verdicts = await asyncio.gather(*first, *rest)
        assert {verdict.outcome for verdict in verdicts} <= {Outcome.ACCEPTED, Outcome.RETRY}
        missed = [push for push, verdict in zip(pushes, verdicts, strict=True) if verdict.outcome is Outcome.RETRY]
        again = await asyncio.gather(*map(provider.send, missed))
    assert {verdict.outcome for verdict in again} <= {Outcome.ACCEPTED}
    assert len({push.token for push in server.accepted}) == 60


async def test_many_at_a_time_get_through_few_streams(
    server: PushServer, clock: ManualClock, wake_ups: WakeUps
) -> None:
    pushes = [wake_ups.to(server, f"u{number}") for number in range(200)]
    async with provider_for(server, clock) as provider:
        verdicts = await asyncio.gather(*map(provider.send, pushes))
    assert {verdict.outcome for verdict in verdicts} == {Outcome.ACCEPTED}
    assert len({push.token for push in server.accepted}) == 200
    assert server.most_streams <= 20
    assert server.connections <= 3  # FCM's token endpoint is at another connection


async def test_a_server_that_cannot_be_reached_is_retried(
    server: PushServer, clock: ManualClock, wake_ups: WakeUps
) -> None:
    push = wake_ups.to(server, "ann")
    async with provider_for(server, clock) as provider:
        await server.close()
        verdict = await provider.send(push)
    assert (verdict.outcome, verdict.reason) == (Outcome.RETRY, "UNREACHABLE")


async def test_a_server_of_another_authority_is_told_nothing(
    server: PushServer, clock: ManualClock, wake_ups: WakeUps
) -> None:
    push = wake_ups.to(server, "ann")
    server.ca_file = ""
    async with provider_for(server, clock) as provider:
        verdict = await provider.send(push)
    assert (verdict.outcome, verdict.reason) == (Outcome.RETRY, "UNREACHABLE")
    assert server.accepted == []


async def test_attempts_under_way_end_with_retry_when_the_provider_is_closed(
    server: PushServer, clock: ManualClock, wake_ups: WakeUps
) -> None:
    async with provider_for(server, clock, timeout_s=3600) as provider:
        server.behave(HANG)
        attempts = [asyncio.create_task(provider.send(wake_ups.to(server, f"u{number}"))) for number in range(5)]
        await server.until_asked(5)
        await provider.close()
        verdicts = await asyncio.gather(*attempts)
        late = await provider.send(wake_ups.to(server, "late"))
    assert {(verdict.outcome, verdict.reason) for verdict in [*verdicts, late]} == {(Outcome.RETRY, "CLOSED")}


async def test_a_cancelled_attempt_leaves_the_provider_usable(
    server: PushServer, clock: ManualClock, wake_ups: WakeUps
) -> None:
    async with provider_for(server, clock) as provider:
        server.behave(HANG, times=1)
        attempt = asyncio.create_task(provider.send(wake_ups.to(server, "ann")))
        await server.until_asked(1)
        attempt.cancel()
        with pytest.raises(asyncio.CancelledError):
            await attempt
        assert (await provider.send(wake_ups.to(server, "ann"))).outcome is Outcome.ACCEPTED


async def test_a_connection_whose_first_attempt_was_cancelled_is_closed_in_the_end(
    server: PushServer, clock: ManualClock, wake_ups: WakeUps
) -> None:
    pushes = [wake_ups.to(server, "ann"), wake_ups.to(server, "ben")]
    async with provider_for(server, clock) as provider:
        first, second = (asyncio.create_task(provider.send(push)) for push in pushes)
        await asyncio.sleep(0)
        first.cancel()
        assert (await second).outcome is Outcome.ACCEPTED
    for connection in list(server.open):
        await connection.ended.wait()


@pytest.mark.parametrize(
    ("retry_after", "waits_s"),
    [("7", 7.0), ("Mon, 21 Sep 2026 14:13:30 GMT", 10.0), ("soon", None), ("", None), ("99999999", 3600.0)],
)
async def test_a_provider_says_when_it_may_be_asked_again(
    retry_after: str, waits_s: float | None, server: PushServer, clock: ManualClock, wake_ups: WakeUps
) -> None:
    async with provider_for(server, clock) as provider:
        server.behave(answers(429, "QUOTA_EXCEEDED", retry_after=retry_after))
        verdict = await provider.send(wake_ups.to(server, "ann"))
    assert verdict.outcome is Outcome.RETRY
    assert verdict.retry_after_s == waits_s


@pytest.mark.parametrize("status", [500, 503])
async def test_a_server_with_troubles_of_its_own_is_retried(
    status: int, server: PushServer, clock: ManualClock, wake_ups: WakeUps
) -> None:
    async with provider_for(server, clock) as provider:
        server.behave(answers(status, "INTERNAL"))
        assert (await provider.send(wake_ups.to(server, "ann"))).outcome is Outcome.RETRY


@pytest.mark.parametrize("body", [b"<html>no</html>", b"[]", b"[" * 2000, b'{"reason":1,"error":[]}', b"\xff"])
async def test_an_answer_that_is_none_of_the_providers_is_a_refusal_by_its_status(
    body: bytes, server: PushServer, clock: ManualClock, wake_ups: WakeUps
) -> None:
    async with provider_for(server, clock) as provider:
        server.behave(answers(418, body=body))
        verdict = await provider.send(wake_ups.to(server, "ann"))
    assert (verdict.outcome, verdict.reason) == (Outcome.REFUSED, "HTTP_418")


async def test_of_an_endless_answer_a_few_kilobytes_are_read(
    server: PushServer, clock: ManualClock, wake_ups: WakeUps
) -> None:
    async with provider_for(server, clock) as provider:
        await provider.send(wake_ups.to(server, "ann"))
        before = server.connections
        server.behave(ENDLESS, times=1)
        verdict = await provider.send(wake_ups.to(server, "ann"))
        again = await provider.send(wake_ups.to(server, "ann"))
    assert (verdict.outcome, verdict.reason) == (Outcome.REFUSED, "HTTP_400")
    assert again.outcome is Outcome.ACCEPTED
    assert server.connections == before + 1


async def test_no_redirect_is_followed(server: PushServer, clock: ManualClock, wake_ups: WakeUps) -> None:
    async with provider_for(server, clock) as provider:
        server.behave(answers(307, location=f"{server.url}/elsewhere"))
        verdict = await provider.send(wake_ups.to(server, "ann"))
    assert (verdict.outcome, verdict.reason) == (Outcome.REFUSED, "HTTP_307")
    assert server.asked == 1


async def test_nobody_sees_a_token_a_key_or_what_is_said(
    server: PushServer,
    clock: ManualClock,
    wake_ups: WakeUps,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    caplog.set_level(logging.INFO)
    push = wake_ups.to(server, "secret-token", title="secret title", body="secret body")
    with structlog.testing.capture_logs() as logs:
        async with provider_for(server, clock, timeout_s=1.5) as provider:
            for behaviour in (None, answers(400, "secret-token it is"), HANG, CUT):
                server.behave(behaviour)
                verdict = await provider.send(push)
                assert push.token not in repr(verdict)
                assert "secret" not in repr(verdict)
            seen = repr(provider) + repr(vars(provider)) + repr(push)
    told = "".join([seen, caplog.text, str(logs), *capsys.readouterr()])
    assert "secret" not in told
    assert push.token not in told
    assert "PRIVATE KEY" not in told


async def test_a_handshake_that_hangs_leaves_no_connection_behind(
    server: PushServer, clock: ManualClock, wake_ups: WakeUps
) -> None:
    ended = asyncio.Event()

    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(4096):
            pass
        ended.set()
        writer.close()

    push = wake_ups.to(server, "ann")
    async with provider_for(server, clock, timeout_s=0.3) as provider:
        await server.close()
        async with await asyncio.start_server(say_nothing, "127.0.0.1", server.port):
            verdict = await provider.send(push)
            await ended.wait()
    assert (verdict.outcome, verdict.reason) == (Outcome.RETRY, "TIMEOUT")


async def test_who_finds_no_room_in_time_tries_again_later(
    apns: ApnsServer, clock: ManualClock, wake_ups: WakeUps, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.push.providers.connections.STREAMS", 0)
    async with provider_for(apns, clock, timeout_s=0.05) as provider:
        verdict = await provider.send(wake_ups.ios("ann"))
    assert (verdict.outcome, verdict.reason) == (Outcome.RETRY, "BUSY")
    assert apns.connections == 0
