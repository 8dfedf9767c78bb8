"""Tests that users ask for, and what became of pushes."""

import asyncio

import pytest

from discovery.errors import FailedPrecondition, InvalidArgument, NotFound, ResourceExhausted, Unavailable
from hither.push.v1 import push_pb2
from hither.push.v1 import push_service_pb2 as pb
from services.push.service import Push
from tests.unit.push.conftest import PushDesk, delivery


async def test_a_test_tells_what_the_provider_said_and_is_recorded(desk: PushDesk) -> None:
    await desk.register("t")

    told = await desk.test()

    assert [token.token for token in desk.sender.asked] == ["t"]
    assert (told.fate, told.reason, told.latency_ms) == (push_pb2.PUSH_FATE_REFUSED, "BadTopic", 45)
    assert told.kind == push_pb2.PUSH_KIND_TEST
    assert list((await desk.deliveries()).deliveries) == [told]


async def test_a_device_without_a_token_cannot_be_tested_and_nobody_tests_anothers(desk: PushDesk) -> None:
    await desk.register("t")

    for device_id, user_id in (("laptop", "ann"), ("phone", "bob")):
        with pytest.raises(NotFound) as refused:
            await desk.test(device_id, user_id)
        assert refused.value.reason == "NO_SUCH_DEVICE"

    assert desk.sender.asked == []


async def test_a_device_is_tested_again_after_ten_seconds_and_others_at_once(desk: PushDesk) -> None:
    await desk.register("t")
    await desk.register("u", "laptop")
    await desk.test()
    desk.clock.advance(4)

    with pytest.raises(ResourceExhausted) as refused:
        await desk.test()
    await desk.test("laptop")
    desk.clock.advance(6)
    await desk.test()

    assert (refused.value.reason, refused.value.retry_after_s) == ("RATE_LIMITED", 6)
    assert len(desk.sender.asked) == 3


async def test_a_browser_gets_the_key_to_subscribe_with_unless_there_is_none(desk: PushDesk) -> None:
    request = pb.GetApplicationServerKeyRequest(user_id="ann")
    answer = await desk.servicer.GetApplicationServerKey(request, None)
    assert answer.application_server_key == "BKey"

    without = Push(desk.store, desk.log, desk.sender, (), desk.clock)
    with pytest.raises(FailedPrecondition) as refused:
        await without.servicer.GetApplicationServerKey(request, None)
    assert refused.value.reason == "NO_PROVIDER"


async def test_without_a_provider_that_is_said_each_time(desk: PushDesk) -> None:
    await desk.register("t")
    desk.sender.has_provider = False

    for _ in range(2):
        with pytest.raises(FailedPrecondition) as refused:
            await desk.test()
        assert refused.value.reason == "NO_PROVIDER"

    assert (await desk.deliveries()).deliveries == []


async def test_a_test_that_cannot_be_recorded_is_answered_all_the_same(
    desk: PushDesk, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(_rows: object) -> None:
        raise Unavailable

    await desk.register("t")
    monkeypatch.setattr(desk.log, "record", away)

    assert (await desk.test()).push_id == "test1"


async def test_deliveries_are_told_whole_newest_first_and_page_by_page(desk: PushDesk) -> None:
    await desk.record(*(delivery(f"p{n}", 1_790_000_000_000 + n) for n in range(5)))

    first = await desk.deliveries(page_size=2)
    second = await desk.deliveries(page_size=2, page_token=first.next_page_token)
    third = await desk.deliveries(page_size=2, page_token=second.next_page_token)

    told = [one.push_id for page in (first, second, third) for one in page.deliveries]
    assert (told, third.next_page_token) == (["p4", "p3", "p2", "p1", "p0"], "")
    newest = first.deliveries[0]
    assert newest.time.ToMilliseconds() == 1_790_000_000_004
    assert (newest.fate, newest.reason, newest.kind) == (
        push_pb2.PUSH_FATE_REFUSED,
        "BadTopic",
        push_pb2.PUSH_KIND_DIRECT,
    )
    assert (newest.conversation_id, newest.messages, newest.collapse_id, newest.attempts) == ("d.1", 3, "c1", 2)


async def test_nobody_reads_what_became_of_anothers_pushes(desk: PushDesk) -> None:
    await desk.record(*(delivery(f"p{n}", n) for n in range(3)))
    token = (await desk.deliveries(page_size=1)).next_page_token

    assert (await desk.deliveries(user_id="bob")).deliveries == []
    assert (await desk.deliveries(device_id="laptop")).deliveries == []
    for user_id, device_id in (("bob", "phone"), ("ann", "laptop")):
        with pytest.raises(InvalidArgument) as refused:
            await desk.deliveries(page_token=token, user_id=user_id, device_id=device_id)
        assert refused.value.reason == "BAD_PAGE_TOKEN"


async def test_a_kind_that_this_version_does_not_know_is_told_as_such(desk: PushDesk) -> None:
    await desk.record(delivery("p", 1, kind="poke"))

    [told] = (await desk.deliveries()).deliveries

    assert told.kind == push_pb2.PUSH_KIND_UNSPECIFIED


async def test_the_service_runs_until_it_is_cancelled_and_closes_its_providers(desk: PushDesk) -> None:
    running = asyncio.ensure_future(desk.push.run())
    done, _ = await asyncio.wait([running], timeout=0)
    assert not done
    assert not desk.provider.is_closed

    running.cancel()

    with pytest.raises(asyncio.CancelledError):
        await running
    assert desk.provider.is_closed
