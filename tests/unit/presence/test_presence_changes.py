"""What friends are told: once for each change that lasts, and of nobody else."""

import pytest

from discovery.errors import NotFound, ResourceExhausted
from services.presence.settings import PresenceSettings
from tests.unit.presence.conftest import AWAY, GATHER_S, OFFLINE, ONLINE, Desk, World


async def test_friends_are_told_that_a_user_came(desk: Desk, world: World) -> None:
    world.befriend("ann", "bob")
    await desk.arrive("bob")

    await desk.connect("ann")
    await desk.gather()

    assert ("bob", "ann", ONLINE) in world.told()


async def test_changes_are_told_only_after_they_have_gathered(desk: Desk, world: World) -> None:
    world.befriend("ann", "bob")
    await desk.arrive("bob")
    await desk.connect("ann")
    world.clock.advance(GATHER_S * 0.9)

    await desk.settle()

    assert ("bob", "ann", ONLINE) not in world.told()


async def test_friends_are_told_that_a_user_went_and_when(desk: Desk, world: World) -> None:
    world.befriend("ann", "bob")
    ann, _ = await desk.arrive("ann", "bob")
    world.clock.advance(5)
    went_ms = world.clock.now_ms()

    await desk.disconnect(ann)
    await desk.gather()

    [(user, event)] = world.events()
    assert (user, event.user_id, event.status) == ("bob", "ann", OFFLINE)
    assert event.last_seen.ToMilliseconds() == went_ms


async def test_nobody_is_told_of_a_user_who_goes_and_returns_within_a_second(desk: Desk, world: World) -> None:
    world.befriend("ann", "bob")
    ann, _ = await desk.arrive("ann", "bob")

    await desk.disconnect(ann)
    world.clock.advance(GATHER_S * 0.9)
    await desk.settle()
    await desk.connect("ann")
    await desk.gather()
    await desk.gather()

    assert [told for told in world.told() if told[0] == "bob"] == []


async def test_nobody_is_told_of_a_user_who_comes_and_goes_within_a_second(desk: Desk, world: World) -> None:
    world.befriend("ann", "bob")
    await desk.arrive("bob")

    await desk.disconnect(await desk.connect("ann"))
    await desk.gather()
    await desk.gather()

    assert [told for told in world.told() if told[0] == "bob"] == []


async def test_a_user_who_flaps_is_told_of_at_most_once_a_second(desk: Desk, world: World) -> None:
    world.befriend("ann", "bob")
    ann, _ = await desk.arrive("ann", "bob")

    for _ in range(40):
        await desk.disconnect(ann)
        world.clock.advance(0.13)
        await desk.settle()
        ann = await desk.connect("ann")
        world.clock.advance(0.12)
        await desk.settle()

    assert len([told for told in world.told() if told[0] == "bob"]) <= 10


async def test_a_killed_edge_makes_its_users_offline_once_as_of_their_last_report(desk: Desk, world: World) -> None:
    world.befriend("ann", "bob")
    ann, bob = await desk.arrive("ann", "bob")
    world.clock.advance(5)
    await desk.report(ann)
    last_report_ms = world.clock.now_ms()

    for _ in range(120):
        world.clock.advance(0.5)
        await desk.report(bob)
        await desk.settle()

    [(user, event)] = world.events()
    assert (user, event.user_id, event.status) == ("bob", "ann", OFFLINE)
    assert event.last_seen.ToMilliseconds() == last_report_ms


async def test_a_device_that_is_reported_again_stays(desk: Desk, world: World) -> None:
    world.befriend("ann", "bob")
    reports = await desk.arrive("ann", "bob")

    for _ in range(12):
        world.clock.advance(10)
        await desk.report(*reports)
        await desk.settle()

    assert world.told() == []
    assert [friend.status for friend in (await desk.friends_of("bob")).friends] == [ONLINE]


async def test_two_devices_fold_into_the_more_present_one(desk: Desk, world: World) -> None:
    world.befriend("ann", "bob")
    phone, _ = await desk.arrive("ann", "bob")
    laptop = await desk.connect("ann", "laptop")
    await desk.gather()
    world.events()

    await desk.set_presence("ann", AWAY, "phone")
    await desk.gather()
    assert world.told() == []

    await desk.set_presence("ann", AWAY, "laptop")
    await desk.gather()
    assert world.told() == [("bob", "ann", AWAY)]

    await desk.disconnect(laptop)
    await desk.gather()
    assert world.told() == []

    await desk.set_presence("ann", ONLINE, "phone")
    await desk.gather()
    assert world.told() == [("bob", "ann", ONLINE)]

    await desk.disconnect(phone)
    await desk.gather()
    assert world.told() == [("bob", "ann", OFFLINE)]


async def test_the_late_end_of_an_old_connection_does_not_make_its_device_offline(desk: Desk, world: World) -> None:
    world.befriend("ann", "bob")
    old, _ = await desk.arrive("ann", "bob")
    await desk.connect("ann")

    await desk.disconnect(old)
    await desk.gather()

    assert [told for told in world.told() if told[0] == "bob"] == []


async def test_a_user_without_a_connected_device_cannot_be_away(desk: Desk) -> None:
    with pytest.raises(NotFound) as refused:
        await desk.set_presence("ann", AWAY)

    assert refused.value.reason == "NO_SUCH_DEVICE"


async def test_a_device_whose_first_report_is_still_on_its_way_can_say_that_it_is_away(
    desk: Desk, world: World
) -> None:
    world.befriend("ann", "bob")
    await desk.arrive("bob")
    ann = await desk.connect("ann")
    await desk.disconnect(ann)
    await desk.gather()
    world.events()

    await desk.set_presence("ann", AWAY)
    await desk.report(ann)
    await desk.gather()

    assert ("bob", "ann", AWAY) in world.told()


async def test_more_devices_than_there_may_be_are_refused(world: World) -> None:
    desk = Desk(world, PresenceSettings(most_devices=1))
    ann = await desk.connect("ann")

    with pytest.raises(ResourceExhausted) as refused:
        await desk.connect("bob")

    assert refused.value.reason == "OVERLOADED"
    await desk.report(ann)


async def test_what_could_not_be_published_is_published_later(desk: Desk, world: World) -> None:
    world.befriend("ann", "bob")
    ann, _ = await desk.arrive("ann", "bob")
    world.bus.is_down = True
    await desk.disconnect(ann)
    await desk.gather()
    assert world.told() == []

    world.bus.is_down = False
    await desk.gather()

    assert world.told() == [("bob", "ann", OFFLINE)]


async def test_the_last_time_seen_is_known_for_days_and_not_for_ever(desk: Desk, world: World) -> None:
    world.befriend("ann", "bob")
    [ann] = await desk.arrive("ann")
    went_ms = world.clock.now_ms()
    await desk.disconnect(ann)
    await desk.gather()

    world.clock.advance(29 * 24 * 3600)
    [friend] = (await desk.friends_of("bob")).friends
    assert (friend.status, friend.last_seen.ToMilliseconds()) == (OFFLINE, went_ms)

    world.clock.advance(2 * 24 * 3600)
    [friend] = (await desk.friends_of("bob")).friends
    assert (friend.status, friend.HasField("last_seen")) == (OFFLINE, False)
