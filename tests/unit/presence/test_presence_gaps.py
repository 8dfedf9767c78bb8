"""News that the Bus lost: when it says so, what was missed is found in the records, and told once."""

import pytest

from services.presence.settings import PresenceSettings
from tests.unit.presence.conftest import AWAY, OFFLINE, ONLINE, Desk, World


async def test_who_came_while_news_were_lost_is_told_after_the_gap(desk: Desk, world: World) -> None:
    world.befriend("ann", "bob")
    await desk.arrive("bob")
    world.bus.loses_news = True
    await desk.connect("ann")
    await desk.gather()
    assert [told for told in world.told() if told[0] == "bob"] == []

    world.bus.come_back()
    await desk.settle()

    assert world.told() == [("bob", "ann", ONLINE)]


async def test_who_went_while_news_were_lost_is_no_ghost_after_the_gap(desk: Desk, world: World) -> None:
    world.befriend("ann", "bob")
    ann, _ = await desk.arrive("ann", "bob")
    went_ms = world.clock.now_ms()
    world.bus.loses_news = True
    await desk.disconnect(ann)
    await desk.gather()

    world.bus.come_back()
    await desk.settle()

    [(user, event)] = world.events()
    assert (user, event.user_id, event.status) == ("bob", "ann", OFFLINE)
    assert event.last_seen.ToMilliseconds() == went_ms


async def test_nobody_is_told_of_friends_whose_presence_did_not_change(desk: Desk, world: World) -> None:
    world.befriend("ann", "bob", "carol")
    _, _, carol = await desk.arrive("ann", "bob", "carol")
    await desk.disconnect(carol)
    await desk.gather()
    world.events()

    world.bus.come_back()
    await desk.settle()

    assert world.told() == []


async def test_who_was_told_before_is_told_although_another_found_the_change_in_the_record(
    desk: Desk, world: World
) -> None:
    world.befriend("ann", "bob", "carol")
    ann, _ = await desk.arrive("ann", "bob")
    world.bus.loses_news = True
    await desk.disconnect(ann)
    await desk.gather()

    await desk.connect("carol")
    await desk.gather()
    world.bus.come_back()
    await desk.settle()

    assert ("bob", "ann", OFFLINE) in world.told()


async def test_who_came_during_a_change_that_was_undone_is_told_so_after_the_gap(desk: Desk, world: World) -> None:
    world.befriend("ann", "bob", "carol")
    await desk.arrive("ann", "bob")
    world.bus.loses_news = True
    await desk.set_presence("ann", AWAY)
    await desk.gather()
    await desk.arrive("carol")
    await desk.set_presence("ann", ONLINE)
    await desk.gather()

    world.bus.come_back()
    await desk.settle()

    assert ("carol", "ann", ONLINE) in world.told()


async def test_news_after_the_gap_are_told_and_the_record_does_not_repeat_them(desk: Desk, world: World) -> None:
    world.befriend("ann", "bob")
    await desk.arrive("ann", "bob")

    world.bus.come_back()
    await desk.set_presence("ann", AWAY)
    await desk.gather()
    await desk.settle()

    assert world.told() == [("bob", "ann", AWAY)]


async def test_records_that_were_lost_with_the_news_make_nobody_seem_gone(desk: Desk, world: World) -> None:
    world.befriend("ann", "bob")
    ann, bob = await desk.arrive("ann", "bob")
    await world.cache.forget("ann", "bob")

    world.bus.come_back()
    await desk.settle()
    world.clock.advance(10)
    await desk.report(ann, bob)
    world.clock.advance(20)
    await desk.settle()

    assert world.told() == []


async def test_who_has_no_record_for_long_after_a_gap_is_not_there(desk: Desk, world: World) -> None:
    world.befriend("ann", "bob")
    _, bob = await desk.arrive("ann", "bob")
    desk.presence._publishing.drop(lambda user_id: user_id == "bob")  # the owner of ann died
    await world.cache.forget("ann")

    world.bus.come_back()
    await desk.settle()
    before = world.told()
    for _ in range(3):
        world.clock.advance(10)
        await desk.report(bob)
        await desk.settle()

    assert before == []
    assert world.told() == [("bob", "ann", OFFLINE)]


async def test_records_are_read_again_many_at_once_and_in_bounded_batches(world: World) -> None:
    desk = Desk(world, PresenceSettings(records_at_once=100))
    await desk.start()
    friends = [f"f{number:03}" for number in range(250)]
    world.befriend("ann", *friends)
    await desk.arrive("ann")
    world.cache.asked.clear()

    world.bus.come_back()
    await desk.settle()

    assert world.cache.asked == [100, 100, 50]


async def test_records_that_cannot_be_read_after_a_gap_are_read_later(desk: Desk, world: World) -> None:
    world.befriend("ann", "bob")
    await desk.arrive("bob")
    world.bus.loses_news = True
    await desk.connect("ann")
    await desk.gather()
    world.events()
    world.cache.is_down = True
    world.bus.come_back()

    assert not await desk.presence._telling.step()
    assert world.told() == []
    world.cache.is_down = False
    await desk.settle()

    assert world.told() == [("bob", "ann", ONLINE)]


async def test_what_was_told_is_forgotten_with_the_last_watcher(desk: Desk, world: World) -> None:
    world.befriend("ann", "bob")
    _, bob = await desk.arrive("ann", "bob")
    assert desk.presence._watching.last_told("ann") is not None

    await desk.disconnect(bob)
    await desk.gather()

    assert desk.presence._watching.last_told("ann") is None


@pytest.mark.parametrize("is_told", [True, False], ids=["told of the gap", "not told"])
async def test_a_friendship_that_ended_while_news_were_lost_is_noticed_at_the_gap(
    desk: Desk, world: World, is_told: bool
) -> None:
    world.befriend("ann", "bob")
    await desk.arrive("ann", "bob")
    world.bus.loses_news = True
    world.part("ann", "bob")
    await world.announce("ann", "bob")
    world.bus.loses_news = False
    if is_told:
        world.bus.come_back()

    await desk.settle()
    await desk.set_presence("ann", AWAY)
    await desk.gather()

    assert world.told() == ([] if is_told else [("bob", "ann", AWAY)])
