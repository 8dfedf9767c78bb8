import asyncio

import pytest

from discovery.errors import Unavailable
from services.storage.sqlite.room import Room


async def entering(room: Room, weight: int) -> "asyncio.Task[None]":
    """A task that has begun to enter."""
    task = asyncio.create_task(room.enter(weight))
    for _ in range(3):
        await asyncio.sleep(0)
    return task


async def turn() -> None:
    for _ in range(3):
        await asyncio.sleep(0)


async def test_what_fits_comes_in_and_what_does_not_waits_until_another_leaves() -> None:
    room = Room(10)
    assert room.try_enter(6)
    assert not room.try_enter(5)
    waiting = await entering(room, 5)
    assert not waiting.done()

    room.leave(6)

    await waiting


async def test_first_come_first_served_even_if_a_later_one_would_fit() -> None:
    room = Room(10)
    assert room.try_enter(6)
    large = await entering(room, 9)

    assert not room.try_enter(1)
    small = await entering(room, 1)
    room.leave(6)

    await large
    await small


async def test_what_is_heavier_than_all_the_room_comes_in_alone() -> None:
    room = Room(10)

    assert room.try_enter(100)
    assert not room.try_enter(1)
    room.leave(100)
    assert room.try_enter(1)
    assert not room.try_enter(100)


async def test_who_waits_too_long_gets_unavailable_and_those_behind_go_on() -> None:
    room = Room(10, patience_s=0.01)
    assert room.try_enter(6)

    with pytest.raises(Unavailable) as caught:
        await room.enter(9)

    assert caught.value.reason == "ENGINE_DOWN"
    assert room.try_enter(4)


async def test_one_who_gives_up_lets_the_next_in() -> None:
    room = Room(10)
    assert room.try_enter(6)
    large = await entering(room, 9)
    small = await entering(room, 4)

    large.cancel()
    await turn()

    await small
    assert large.cancelled()


async def test_one_who_is_cancelled_just_as_there_is_room_gives_it_back() -> None:
    room = Room(10)
    assert room.try_enter(10)
    first = await entering(room, 10)
    second = await entering(room, 10)

    room.leave(10)
    first.cancel()
    await turn()

    await second
    assert first.cancelled()


async def test_the_queue_for_room_has_an_end() -> None:
    room = Room(1, most_waiting=1)
    assert room.try_enter(1)
    waiting = await entering(room, 1)

    with pytest.raises(Unavailable):
        await room.enter(1)

    room.leave(1)
    await waiting


async def test_who_waits_can_be_sent_away() -> None:
    room = Room(1)
    assert room.try_enter(1)
    waiting = [await entering(room, 1) for _ in range(3)]

    room.refuse_waiting(Unavailable("closed"))

    outcomes = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [Unavailable] * 3
    assert len({id(outcome) for outcome in outcomes}) == 3
