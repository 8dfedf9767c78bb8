"""Owners that change: what one has told, the next does not tell again; what is owned elsewhere is forgotten."""

import asyncio

from discovery.partitions import partition_of
from hither.presence.v1.presence_pb2 import PresenceRecord
from tests.unit.presence.conftest import AWAY, OFFLINE, ONLINE, Desk, World


async def test_the_next_owner_tells_only_what_has_changed(desk: Desk, world: World) -> None:
    world.befriend("ann", "bob")
    ann, bob = await desk.arrive("ann", "bob")
    published = len(world.bus.published)
    heir = Desk(world)

    await heir.report(ann, bob)
    await heir.gather()
    assert len(world.bus.published) == published

    await heir.disconnect(ann)
    await heir.gather()
    assert len(world.bus.published) == published + 1


async def test_a_device_that_was_away_stays_so_with_the_next_owner(desk: Desk, world: World) -> None:
    world.befriend("ann", "bob")
    ann, _ = await desk.arrive("ann", "bob")
    await desk.set_presence("ann", AWAY)
    await desk.gather()
    published = len(world.bus.published)
    heir = Desk(world)

    await heir.report(ann)
    await heir.gather()
    await heir.gather()

    assert len(world.bus.published) == published


async def test_a_device_that_went_while_the_owner_changed_is_told_of(desk: Desk, world: World) -> None:
    [ann] = await desk.arrive("ann")
    heir = Desk(world)
    await heir.report(ann)
    await heir.settle()

    await heir.disconnect(ann)
    await heir.gather()

    topic, payload = world.bus.published[-1]
    assert (topic, PresenceRecord.FromString(payload).event.status) == ("presence:ann", OFFLINE)


async def test_users_who_are_owned_elsewhere_now_are_forgotten_and_nothing_is_told_of_them(world: World) -> None:
    world.befriend("ann", "bob")
    desk = Desk(world)
    await desk.arrive("ann", "bob")
    published = len(world.bus.published)
    others = frozenset(range(16)) - {partition_of("ann", 16)}
    assert partition_of("bob", 16) in others

    async with asyncio.TaskGroup() as group, asyncio.timeout(30):
        running = group.create_task(desk.presence._follow_ownership())
        await world.mesh.heeded.wait()
        world.mesh.heeded.clear()
        world.mesh.move(others)
        await world.mesh.heeded.wait()
        running.cancel()
    for _ in range(4):
        world.clock.advance(10)
        await desk.gather()

    assert [topic for topic, _ in world.bus.published[published:]] == ["presence:bob"]


async def test_watchers_on_another_instance_are_told_too(desk: Desk, world: World) -> None:
    world.befriend("ann", "bob")
    other = Desk(world)
    await other.connect("bob")
    await other.gather()

    await desk.connect("ann")
    await desk.gather()
    await other.settle()

    assert ("bob", "ann", ONLINE) in world.told()
