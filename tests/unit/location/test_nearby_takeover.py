"""Whom viewers may have on their screens, told on: by the next owner of a viewer, and on a viewer's next connection."""

import asyncio

import pytest

from hither.location.v1 import location_service_pb2 as pb
from tests.unit.location.nearby_desk import (
    BERLIN,
    HIDDEN,
    STOPPED,
    Desk,
    World,
)


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
async def desk(world: World) -> Desk:
    desk = Desk(world)
    await desk.start()
    return desk


async def test_the_next_owner_of_a_viewer_tells_who_went_meanwhile(world: World) -> None:
    before, after = Desk(world), Desk(world)
    await before.start()
    await after.start()
    await world.befriend("ann", "bob", "carol")
    await before.arrive("ann", "bob", "carol")
    await before.report(pb.ViewerReport(user_id="ann", connection_id=1, edge_id="edge"))
    await before.share("bob", enabled=False)
    await world.part("ann", "carol")

    await after.report(pb.ViewerReport(user_id="ann", connected=True, connection_id=1, edge_id="edge"))
    await after.settle()

    assert sorted(told for told in world.told() if told[0] == "ann") == [
        ("ann", "bob", STOPPED),
        ("ann", "carol", STOPPED),
    ]


async def test_the_next_connection_is_told_again_of_who_went_lately(desk: Desk, world: World) -> None:
    await world.befriend("ann", "bob", "carol")
    await desk.arrive("ann", "bob", "carol")
    await desk.grant("carol", "ann", HIDDEN)
    await desk.settle()
    world.clock.advance(61)
    await desk.arrive("ann", "bob")
    await desk.grant("bob", "ann", HIDDEN)
    await desk.settle()
    world.events()

    await desk.connect("ann")
    await desk.settle()

    assert world.told() == [("ann", "bob", STOPPED)]


async def owners_of_ann(world: World) -> tuple[Desk, Desk]:
    """Ann is near Bob, and an instance tells her; another is there too."""
    before, after = Desk(world), Desk(world)
    await before.start()
    await after.start()
    await world.befriend("ann", "bob")
    await before.arrive("ann", "bob")
    return before, after


async def take_over(world: World, after: Desk) -> None:
    """The other instance owns Ann now. Her edge has reported her connection to it, and then again."""
    report = pb.ViewerReport(user_id="ann", connected=True, connection_id=1, edge_id="edge")
    for _ in range(2):
        await after.report(report)
        await after.settle()


async def test_the_next_owner_knows_also_who_was_near_all_the_time_for_longer_than_a_place_lives(world: World) -> None:
    before, after = await owners_of_ann(world)
    await before.pass_time(900, ann=BERLIN, bob=BERLIN)
    await before.report(pb.ViewerReport(user_id="ann", connection_id=1, edge_id="edge"))
    await before.share("bob", enabled=False)
    world.told()

    await take_over(world, after)

    assert world.told() == [("ann", "bob", STOPPED)]


async def test_the_next_owner_tells_again_what_did_not_arrive(world: World) -> None:
    before, after = await owners_of_ann(world)
    world.mesh.edges["edge"].is_down = True
    await before.grant("bob", "ann", HIDDEN)
    await before.settle()
    world.mesh.edges["edge"].is_down = False

    await take_over(world, after)

    assert world.told() == [("ann", "bob", STOPPED)]


async def test_the_next_owner_knows_who_was_shown_at_the_very_end(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, after = Desk(world), Desk(world)
    await before.start()
    await after.start()
    await world.befriend("ann", "bob")
    world.mesh.edges["edge"].hangs = True
    dying = asyncio.create_task(before.arrive("ann", "bob"))
    async with asyncio.timeout(30):
        await world.mesh.edges["edge"].came.wait()
    dying.cancel()
    world.mesh.edges["edge"].hangs = False
    await after.grant("bob", "ann", HIDDEN)

    await take_over(world, after)

    assert ("ann", "bob", STOPPED) in world.told()


async def test_the_next_owner_knows_who_was_shown_by_the_one_before_after_it_took_over(world: World) -> None:
    before, after = await owners_of_ann(world)
    await world.befriend("ann", "carol")
    report = pb.ViewerReport(user_id="ann", connected=True, connection_id=1, edge_id="edge")
    await after.report(report)
    await after.settle()
    await before.arrive("carol")
    await before.settle()
    await after.share("carol", enabled=False)
    await after.settle()
    world.events()

    await after.report(report)
    await after.settle()

    assert ("ann", "carol", STOPPED) in world.told()
