"""Where users can be woken up: registering, listing, moving and forgetting tokens."""

import pytest

from discovery.errors import InvalidArgument, ResourceExhausted
from hither.push.v1 import push_pb2
from hither.push.v1 import push_service_pb2 as pb
from services.ports.push_store import Platform, PushTokenRow
from tests.support.push_subscriptions import IOS_TOKEN
from tests.unit.push.conftest import PushDesk, delivery


async def test_a_token_is_registered_as_of_now_and_listed_without_itself(desk: PushDesk) -> None:
    await desk.register(IOS_TOKEN.upper(), platform=push_pb2.PUSH_PLATFORM_IOS)

    [token] = (await desk.tokens()).tokens

    assert (token.device_id, token.platform) == ("phone", push_pb2.PUSH_PLATFORM_IOS)
    assert token.update_time.ToMilliseconds() == desk.clock.now_ms()
    assert IOS_TOKEN not in str(token)
    assert await desk.store.tokens(["ann"]) == {
        "ann": [PushTokenRow("ann", "phone", Platform.IOS, IOS_TOKEN, desk.clock.now_ms())]
    }


async def test_what_is_no_token_of_the_platform_is_refused(desk: PushDesk) -> None:
    with pytest.raises(InvalidArgument) as refused:
        await desk.register("no hex", platform=push_pb2.PUSH_PLATFORM_IOS)

    assert refused.value.violations[0].field == "token"
    assert await desk.devices() == []


async def test_a_token_moves_with_the_phone_to_another_user(desk: PushDesk) -> None:
    await desk.register("shared")

    await desk.register("shared", "bobs", "bob")

    assert (await desk.devices(), await desk.devices("bob")) == ([], ["bobs"])


async def test_a_token_too_many_is_refused_until_one_is_removed(desk: PushDesk) -> None:
    for device_id in ("a", "b", "c"):
        await desk.register(f"token of {device_id}".replace(" ", "-"), device_id)

    with pytest.raises(ResourceExhausted) as refused:
        await desk.register("new", "d")
    await desk.servicer.RemovePushToken(pb.RemovePushTokenRequest(user_id="ann", device_id="b"), None)
    await desk.register("new", "d")

    assert refused.value.reason == "QUOTA_EXCEEDED"
    assert await desk.devices() == ["a", "c", "d"]


async def test_removing_a_token_that_there_is_not_does_nothing(desk: PushDesk) -> None:
    await desk.register("t")

    await desk.servicer.RemovePushToken(pb.RemovePushTokenRequest(user_id="bob", device_id="phone"), None)

    assert await desk.devices() == ["phone"]


async def test_tokens_are_listed_page_by_page(desk: PushDesk) -> None:
    for device_id in ("c", "a", "b"):
        await desk.register(device_id, device_id)

    first = await desk.tokens(page_size=2)
    second = await desk.tokens(page_size=2, page_token=first.next_page_token)

    assert [token.device_id for token in first.tokens] == ["a", "b"]
    assert ([token.device_id for token in second.tokens], second.next_page_token) == (["c"], "")
    assert (await desk.tokens(page_size=3)).next_page_token == ""
    with pytest.raises(InvalidArgument):
        await desk.tokens(page_token=first.next_page_token, user_id="bob")


async def test_a_forgotten_device_has_neither_token_nor_deliveries(desk: PushDesk) -> None:
    await desk.register("t")
    await desk.register("u", "laptop")
    await desk.record(delivery("p1", 1), delivery("p2", 2, device_id="laptop"))
    request = pb.ForgetDeviceRequest(user_id="ann", device_id="phone")

    await desk.servicer.ForgetDevice(request, None)
    await desk.servicer.ForgetDevice(request, None)

    assert await desk.devices() == ["laptop"]
    assert (await desk.deliveries()).deliveries == []
    assert len((await desk.deliveries(device_id="laptop")).deliveries) == 1
