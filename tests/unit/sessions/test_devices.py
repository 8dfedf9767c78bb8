"""Devices: how a user sees them, and what becomes of a removed one."""

import asyncio

import pytest

from discovery.errors import DeadlineExceeded, HitherError, InvalidArgument, NotFound, Unavailable
from hither.sessions.v1 import sessions_service_pb2 as pb
from tests.unit.sessions.conftest import SessionsDesk, connection

ON_EDGE_1 = connection("edge-1", 7)


async def test_a_connected_device_is_seen_now(desk: SessionsDesk) -> None:
    await desk.register(ON_EDGE_1)
    desk.clock.advance(20)

    device = await desk.device("phone")

    assert device.connected
    assert device.last_seen.ToMilliseconds() == desk.clock.now_ms()


async def test_a_device_was_last_seen_when_its_connection_went(desk: SessionsDesk) -> None:
    await desk.register(ON_EDGE_1)
    desk.clock.advance(20)
    went_ms = desk.clock.now_ms()
    await desk.remove(ON_EDGE_1)
    desk.clock.advance(1000)

    device = await desk.device("phone")

    assert not device.connected
    assert device.last_seen.ToMilliseconds() == went_ms


async def test_a_late_removal_does_not_count_as_seen(desk: SessionsDesk) -> None:
    await desk.register(ON_EDGE_1)
    await desk.remove(ON_EDGE_1)
    seen_ms = desk.clock.now_ms()
    desk.clock.advance(1000)

    await desk.remove(ON_EDGE_1)

    assert (await desk.device("phone")).last_seen.ToMilliseconds() == seen_ms


async def test_cursors_advance_and_answer_what_was_before(desk: SessionsDesk) -> None:
    await desk.register(ON_EDGE_1)
    request = pb.AdvanceCursorsRequest(
        advances=[
            pb.CursorAdvance(user_id="ann", device_id="phone", pos=9),
            pb.CursorAdvance(user_id="ann", device_id="unknown", pos=9),
            pb.CursorAdvance(user_id="ann", device_id="phone", pos=4),
        ]
    )

    response = await desk.servicer.AdvanceCursors(request, None)

    assert list(response.previous) == [0, 0, 9]
    assert (await desk.device("phone")).cursor == 9


async def test_devices_are_listed_page_by_page(desk: SessionsDesk) -> None:
    for number, device_id in enumerate(("c", "a", "b")):
        await desk.register(connection("edge-1", number + 1, device_id))

    first = await desk.list_devices(page_size=2)
    second = await desk.list_devices(page_size=2, page_token=first.next_page_token)

    assert [device.device_id for device in first.devices] == ["a", "b"]
    assert [device.device_id for device in second.devices] == ["c"]
    assert second.next_page_token == ""


async def test_a_page_token_of_another_user_is_refused(desk: SessionsDesk) -> None:
    await desk.register(connection("edge-1", 1, "a"))
    await desk.register(connection("edge-1", 2, "b"))
    token = (await desk.list_devices(page_size=1)).next_page_token

    with pytest.raises(InvalidArgument) as refused:
        await desk.servicer.ListDevices(pb.ListDevicesRequest(user_id="bob", page_token=token), None)

    assert refused.value.reason == "BAD_PAGE_TOKEN"


async def test_removing_a_device_closes_its_connection_and_forgets_its_cursor(desk: SessionsDesk) -> None:
    await desk.register(ON_EDGE_1)
    request = pb.AdvanceCursorsRequest(advances=[pb.CursorAdvance(user_id="ann", device_id="phone", pos=9)])
    await desk.servicer.AdvanceCursors(request, None)

    await desk.remove_device("phone")

    assert await desk.lookup("ann") == []
    async with asyncio.TaskGroup() as group:
        running = group.create_task(desk.sessions.run())
        async with asyncio.timeout(30):
            await desk.mesh.edges["edge-1"].came.wait()
        running.cancel()
    assert [eviction.close_code for eviction in desk.mesh.edges["edge-1"].evictions()] == [4101]
    assert await desk.register(connection("edge-1", 8)) == 0


async def test_removing_a_device_that_there_is_not_fails(desk: SessionsDesk) -> None:
    with pytest.raises(NotFound) as refused:
        await desk.remove_device("phone")

    assert refused.value.reason == "NO_SUCH_DEVICE"
    assert desk.push.forgotten == []


async def test_a_removed_device_is_woken_up_no_more(desk: SessionsDesk) -> None:
    await desk.register(ON_EDGE_1)
    await desk.register(connection("edge-1", 8, "laptop"))

    await desk.remove_device("phone")

    assert desk.push.forgotten == [("ann", "phone")]


@pytest.mark.parametrize("failure", [Unavailable(reason="NO_OWNER"), DeadlineExceeded()], ids=["away", "silent"])
async def test_a_device_that_push_does_not_forget_stays_until_it_is_removed_again(
    desk: SessionsDesk, failure: HitherError
) -> None:
    await desk.register(ON_EDGE_1)
    desk.push.failure = failure

    with pytest.raises(Unavailable):
        await desk.remove_device("phone")

    assert await desk.lookup("ann") == [ON_EDGE_1]
    assert (await desk.device("phone")).connected
    desk.push.failure = None
    await desk.remove_device("phone")
    assert desk.push.forgotten == [("ann", "phone")]
    assert (await desk.list_devices()).devices == []
