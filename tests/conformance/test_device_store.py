"""What every device store promises."""

import asyncio
import itertools
from collections.abc import Awaitable, Callable

import pytest

from discovery.errors import Unavailable
from services.ports.device_store import CursorMove, DeviceRow, DeviceStore
from tests.conformance.conftest import DeviceStoreRig


async def test_touching_makes_a_device_at_cursor_zero(devices: DeviceStore) -> None:
    assert await devices.touch("ann", "phone", 1_000, 32) == DeviceRow("ann", "phone", 0, 1_000)

    assert await devices.list_devices("ann", "", 10) == [DeviceRow("ann", "phone", 0, 1_000)]


async def test_last_seen_only_grows_and_the_cursor_stays(devices: DeviceStore) -> None:
    await devices.touch("ann", "phone", 2_000, 32)
    await devices.advance([CursorMove("ann", "phone", 5)])

    assert await devices.touch("ann", "phone", 1_000, 32) == DeviceRow("ann", "phone", 5, 2_000)
    assert await devices.touch("ann", "phone", 3_000, 32) == DeviceRow("ann", "phone", 5, 3_000)


async def test_a_device_too_many_is_not_made(devices: DeviceStore) -> None:
    await devices.touch("ann", "one", 1, 2)
    await devices.touch("ann", "two", 1, 2)

    assert await devices.touch("ann", "three", 1, 2) is None

    assert [row.device_id for row in await devices.list_devices("ann", "", 10)] == ["one", "two"]
    assert await devices.touch("ann", "two", 5, 2) == DeviceRow("ann", "two", 0, 5)
    assert await devices.touch("bob", "three", 1, 2) is not None


async def test_concurrent_touches_stay_within_the_most(devices: DeviceStore) -> None:
    rows = await asyncio.gather(*(devices.touch("ann", f"d{n}", 1, 5) for n in range(20)))

    assert sum(row is not None for row in rows) == 5
    assert len(await devices.list_devices("ann", "", 100)) == 5


async def test_cursors_only_grow_and_each_move_answers_what_was_before(devices: DeviceStore) -> None:
    await devices.touch("ann", "phone", 1, 32)

    assert await devices.advance([CursorMove("ann", "phone", 5)]) == [0]
    assert await devices.advance([CursorMove("ann", "phone", 3)]) == [5]
    assert await devices.advance([CursorMove("ann", "phone", 9)]) == [5]

    assert [row.cursor for row in await devices.list_devices("ann", "", 10)] == [9]


async def test_moves_of_several_devices_answer_in_their_order(devices: DeviceStore) -> None:
    await devices.touch("ann", "phone", 1, 32)
    await devices.touch("bob", "phone", 1, 32)
    await devices.advance([CursorMove("bob", "phone", 4)])

    before = await devices.advance(
        [
            CursorMove("bob", "phone", 6),
            CursorMove("ann", "phone", 2),
            CursorMove("ann", "phone", 1),
            CursorMove("bob", "phone", 7),
        ]
    )

    assert before == [4, 0, 2, 6]
    assert await devices.advance([]) == []


async def test_an_unknown_device_stays_unknown_and_answers_zero(devices: DeviceStore) -> None:
    assert await devices.advance([CursorMove("ann", "phone", 5)]) == [0]

    assert await devices.list_devices("ann", "", 10) == []
    assert await devices.touch("ann", "phone", 1, 32) == DeviceRow("ann", "phone", 0, 1)


async def test_many_cursors_move_at_once(devices: DeviceStore) -> None:
    await asyncio.gather(*(devices.touch(f"user{n}", "phone", 1, 32) for n in range(600)))

    moves = [CursorMove(f"user{n}", "phone", n + 1) for n in range(600)]
    assert await devices.advance(moves) == [0] * 600
    assert await devices.advance(moves) == [n + 1 for n in range(600)]


async def test_moves_of_concurrent_calls_never_cover_a_place_twice_nor_leave_one_out(devices: DeviceStore) -> None:
    for user in ("ann", "bob"):
        await devices.touch(user, "phone", 1, 32)
    places = [1 + (37 * n) % 60 for n in range(60)]
    calls = [[CursorMove("ann", "phone", pos), CursorMove("bob", "phone", pos)][:: 1 - 2 * (pos % 2)] for pos in places]

    answers = await asyncio.gather(*(devices.advance(moves) for moves in calls))

    covered = {"ann": 0, "bob": 0}
    for move, before in zip(itertools.chain(*calls), itertools.chain(*answers), strict=True):
        covered[move.user_id] += max(move.pos - before, 0)
    assert covered == {"ann": 60, "bob": 60}


async def test_devices_are_listed_by_id_from_one_on(devices: DeviceStore) -> None:
    for device in ("c", "a", "b"):
        await devices.touch("ann", device, 1, 32)
    await devices.touch("bob", "z", 1, 32)

    assert [row.device_id for row in await devices.list_devices("ann", "", 10)] == ["a", "b", "c"]
    assert [row.device_id for row in await devices.list_devices("ann", "a", 1)] == ["b"]
    assert await devices.list_devices("ann", "c", 10) == []
    assert await devices.list_devices("ann", "", 0) == []


async def test_a_removed_device_is_forgotten_with_its_cursor(devices: DeviceStore) -> None:
    await devices.touch("ann", "phone", 9_000, 32)
    await devices.advance([CursorMove("ann", "phone", 5)])

    assert await devices.remove("ann", "phone")
    assert not await devices.remove("ann", "phone")
    assert await devices.touch("ann", "phone", 1, 32) == DeviceRow("ann", "phone", 0, 1)


async def test_devices_and_cursors_survive_reopening(device_store_rig: DeviceStoreRig) -> None:
    devices = await device_store_rig.open()
    await devices.touch("ann", "phone", 1_000, 32)
    await devices.touch("ann", "gone", 1_000, 32)
    await devices.advance([CursorMove("ann", "phone", 5)])
    await devices.remove("ann", "gone")

    devices = await device_store_rig.reopen(devices)

    assert await devices.list_devices("ann", "", 10) == [DeviceRow("ann", "phone", 5, 1_000)]


LATER_CALLS: dict[str, Callable[[DeviceStore], Awaitable[object]]] = {
    "touch": lambda devices: devices.touch("ann", "phone", 1, 1),
    "advance": lambda devices: devices.advance([CursorMove("ann", "phone", 1)]),
    "list_devices": lambda devices: devices.list_devices("ann", "", 1),
    "remove": lambda devices: devices.remove("ann", "phone"),
}


@pytest.mark.parametrize("call", LATER_CALLS.values(), ids=list(LATER_CALLS))
async def test_a_closed_store_is_unavailable(
    devices: DeviceStore, call: Callable[[DeviceStore], Awaitable[object]]
) -> None:
    await devices.close()
    await devices.close()

    with pytest.raises(Unavailable) as caught:
        await call(devices)

    assert caught.value.reason == "ENGINE_DOWN"
