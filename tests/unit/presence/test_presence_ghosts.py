"""Nobody seems to be there who is not, whatever dies, stands still or cannot be reached; and who is there comes back."""

from hither.presence.v1.presence_pb2 import PresenceEvent
from hither.presence.v1.presence_service_pb2 import DeviceReport
from services.presence.settings import PresenceSettings
from tests.unit.presence.conftest import OFFLINE, ONLINE, Desk, World


async def pass_time(world: World, seconds: int, desk: Desk, *reports: DeviceReport) -> None:
    """Time goes by while these devices are reported, every 3 s."""
    for second in range(seconds):
        world.clock.advance(1)
        if second % 3 == 2:
            await desk.report(*reports)
        await desk.settle()


async def statuses(desk: Desk, user_id: str) -> list[tuple[str, int]]:
    return [(friend.user_id, friend.status) for friend in (await desk.friends_of(user_id)).friends]


async def test_a_killed_edge_leaves_no_ghosts(world: World) -> None:
    desk = Desk(world, PresenceSettings())
    await desk.start()
    world.befriend("ann", "bob")
    _, bob = await desk.arrive("ann", "bob")

    await pass_time(world, 40, desk, bob)

    assert world.told() == [("bob", "ann", OFFLINE)]
    assert await statuses(desk, "bob") == [("ann", OFFLINE)]


async def test_an_edge_that_was_cut_off_brings_its_users_back_when_it_is_heard_again(world: World) -> None:
    desk = Desk(world, PresenceSettings())
    await desk.start()
    world.befriend("ann", "bob")
    ann, bob = await desk.arrive("ann", "bob")
    await pass_time(world, 60, desk, bob)
    assert world.told() == [("bob", "ann", OFFLINE)]

    await desk.report(ann)
    await pass_time(world, 10, desk, ann, bob)

    assert sorted(world.told()) == [("ann", "bob", ONLINE), ("bob", "ann", ONLINE)]
    assert await statuses(desk, "bob") == [("ann", ONLINE)]


async def test_a_cut_that_is_shorter_than_a_life_is_told_to_nobody(world: World) -> None:
    desk = Desk(world, PresenceSettings())
    await desk.start()
    world.befriend("ann", "bob")
    ann, bob = await desk.arrive("ann", "bob")

    await pass_time(world, 25, desk, bob)
    await pass_time(world, 60, desk, ann, bob)

    assert world.told() == []


async def test_an_owner_that_stood_still_does_not_take_its_users_for_gone(world: World) -> None:
    desk = Desk(world, PresenceSettings())
    await desk.start()
    world.befriend("ann", "bob")
    ann, bob = await desk.arrive("ann", "bob")

    world.clock.advance(300)
    await desk.settle()
    await pass_time(world, 30, desk, ann, bob)

    assert world.told() == []


async def test_who_went_while_the_owner_stood_still_is_told_of_after_a_life(world: World) -> None:
    desk = Desk(world, PresenceSettings())
    await desk.start()
    world.befriend("ann", "bob")
    _, bob = await desk.arrive("ann", "bob")

    world.clock.advance(300)
    await desk.settle()
    await pass_time(world, 40, desk, bob)

    assert set(world.told()) == {("bob", "ann", OFFLINE)}


async def test_an_owner_that_dies_together_with_the_edge_leaves_no_ghosts(world: World) -> None:
    owner, desk = Desk(world, PresenceSettings()), Desk(world, PresenceSettings())
    await owner.start()
    await desk.start()
    world.befriend("ann", "bob")
    await owner.arrive("ann")
    [bob] = await desk.arrive("bob")

    await pass_time(world, 120, desk, bob)

    assert world.told() == [("bob", "ann", OFFLINE)]
    assert await statuses(desk, "bob") == [("ann", OFFLINE)]


async def test_news_that_were_lost_without_a_word_are_made_up_for(world: World) -> None:
    desk = Desk(world, PresenceSettings())
    await desk.start()
    world.befriend("ann", "bob")
    ann, bob = await desk.arrive("ann", "bob")
    world.bus.loses_news = True
    await desk.disconnect(ann)
    await pass_time(world, 10, desk, bob)
    world.bus.loses_news = False
    assert world.told() == []

    await pass_time(world, 60, desk, bob)

    assert world.told() == [("bob", "ann", OFFLINE)]


async def test_a_snapshot_of_friends_and_the_events_since_come_to_what_a_fresh_list_says(world: World) -> None:
    desk = Desk(world, PresenceSettings())
    await desk.start()
    friends = [f"f{number}" for number in range(12)]
    world.befriend("ann", *friends)
    [ann] = await desk.arrive("ann")
    seen: dict[str, PresenceEvent] = {}
    reports = [await desk.connect(friend) for friend in friends]
    for number, report in enumerate(reports):
        if number % 3 == 1:
            await desk.disconnect(report)
        await pass_time(world, 3, desk, ann, *reports[number + 1 :])
        seen |= {event.user_id: event for user, event in world.events() if user == "ann"}

    await pass_time(world, 40, desk, ann)
    seen |= {event.user_id: event for user, event in world.events() if user == "ann"}

    fresh = (await desk.friends_of("ann", page_size=100)).friends
    assert {one.user_id: (one.status, one.last_seen.seconds) for one in fresh} == {
        user_id: (event.status, event.last_seen.seconds) for user_id, event in seen.items()
    }


async def test_records_and_news_that_cannot_be_read_are_as_if_there_were_none(world: World) -> None:
    desk = Desk(world, PresenceSettings())
    await desk.start()
    world.befriend("ann", "bob")
    old = PresenceEvent(user_id="ann", status=ONLINE).SerializeToString()
    await world.cache.set({"presence:ann": old}, 1_000)
    _, bob = await desk.arrive("ann", "bob")
    await world.bus.publish("presence:ann", old)
    await world.bus.publish("presence:ann", b"\xff")
    await desk.settle()
    assert world.told() == []

    await pass_time(world, 45, desk, bob)

    assert ("bob", "ann", OFFLINE) in world.told()
