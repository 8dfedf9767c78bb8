"""Who is told: accepted friends, from the moment they are friends to the moment they are not."""

import asyncio

import pytest

from discovery.errors import InvalidArgument
from hither.directory.v1.directory_service_pb2 import ListFriendIdsRequest, ListFriendIdsResponse
from services.presence.settings import PresenceSettings
from tests.unit.presence.conftest import AWAY, OFFLINE, ONLINE, Desk, World


async def test_strangers_learn_nothing(desk: Desk, world: World) -> None:
    world.befriend("ann", "bob")
    ann, _, _ = await desk.arrive("ann", "bob", "stranger")

    await desk.set_presence("ann", AWAY)
    await desk.gather()
    await desk.disconnect(ann)
    await desk.gather()
    await desk.connect("stranger", "laptop")
    await desk.settle()

    assert world.told() == [("bob", "ann", AWAY), ("bob", "ann", OFFLINE)]
    assert list((await desk.friends_of("stranger")).friends) == []


async def test_a_user_whom_only_one_side_has_as_a_friend_learns_nothing(desk: Desk, world: World) -> None:
    world.directory.friends["bob"].add("ann")
    await desk.arrive("ann", "bob")

    await desk.set_presence("ann", AWAY)
    await desk.gather()
    await desk.connect("bob", "laptop")
    await desk.settle()

    assert world.told() == []


async def test_who_comes_is_told_which_friends_are_there(desk: Desk, world: World) -> None:
    world.befriend("ann", "bob", "carol", "dave", "eve")
    _, _, dave = await desk.arrive("bob", "carol", "dave")
    await desk.set_presence("carol", AWAY)
    await desk.disconnect(dave)
    await desk.gather()

    await desk.connect("ann")
    await desk.settle()

    assert sorted(world.told()) == [("ann", "bob", ONLINE), ("ann", "carol", AWAY)]


async def test_a_second_device_is_told_too_without_asking_the_directory_again(desk: Desk, world: World) -> None:
    world.befriend("ann", "bob")
    await desk.arrive("ann", "bob")
    asked = len(world.directory.asked)

    await desk.connect("ann", "laptop")
    await desk.settle()

    assert world.told() == [("ann", "bob", ONLINE)]
    assert len(world.directory.asked) == asked


async def test_a_watched_user_is_subscribed_once_for_all_watchers(desk: Desk, world: World) -> None:
    fans = [f"fan-{number}" for number in range(50)]
    world.befriend("star", *fans)
    await desk.arrive("star", *fans)
    batches = len(world.mesh.edges["edge"].batches)

    await desk.set_presence("star", AWAY)
    await desk.gather()

    assert world.bus.subscriptions("presence:star") == 1
    assert len(world.mesh.edges["edge"].batches) == batches + 1
    assert sorted(world.told()) == sorted((fan, "star", AWAY) for fan in fans)


async def test_nobody_is_followed_for_a_user_who_went(desk: Desk, world: World) -> None:
    world.befriend("ann", "bob", "carol")
    world.befriend("bob", "carol")
    ann, bob = await desk.arrive("ann", "bob")

    await desk.disconnect(ann)
    await desk.gather()
    assert world.bus.topics() == {"directory.changes", "presence.privacy", "presence:ann", "presence:carol"}

    await desk.disconnect(bob)
    await desk.gather()
    assert world.bus.topics() == {"directory.changes", "presence.privacy"}


async def test_a_new_friend_is_told_the_present_status_and_followed(desk: Desk, world: World) -> None:
    await desk.arrive("ann", "bob")
    world.befriend("ann", "bob")

    await world.announce("ann", "bob")
    await desk.settle()
    assert sorted(set(world.told())) == [("ann", "bob", ONLINE), ("bob", "ann", ONLINE)]

    await desk.set_presence("ann", AWAY)
    await desk.gather()
    assert world.told() == [("bob", "ann", AWAY)]


async def test_two_new_friends_are_told_of_each_other_however_far_apart_their_answers_come(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk = Desk(world, PresenceSettings(friends_at_once=1))
    await desk.start()
    await desk.arrive("ann", "bob")
    world.befriend("ann", "bob")
    answer = world.directory.ListFriendIds

    async def after_all_was_told(request: ListFriendIdsRequest, context: object) -> ListFriendIdsResponse:
        await desk.presence._telling.step()
        return await answer(request, context)

    monkeypatch.setattr(world.directory, "ListFriendIds", after_all_was_told)
    await world.announce("ann", "bob")
    await desk.settle()

    assert sorted(set(world.told())) == [("ann", "bob", ONLINE), ("bob", "ann", ONLINE)]


async def test_a_new_friend_who_is_not_there_is_told_of_as_such(desk: Desk, world: World) -> None:
    await desk.arrive("ann")
    world.befriend("ann", "bob")

    await world.announce("ann", "bob")
    await desk.settle()

    assert world.told() == [("ann", "bob", OFFLINE)]


async def test_news_stop_at_once_when_a_friendship_ends(desk: Desk, world: World) -> None:
    world.befriend("ann", "bob")
    await desk.arrive("ann", "bob")
    await desk.set_presence("ann", AWAY)
    world.part("ann", "bob")

    await world.announce("ann", "bob")
    await desk.presence._publishing.step()
    world.clock.advance(1)
    await desk.presence._publishing.step()
    await desk.presence._telling.step()
    await desk.gather()

    assert world.told() == []
    assert world.bus.topics() == {"directory.changes", "presence.privacy"}


async def test_news_that_wait_when_a_friendship_ends_are_not_told(desk: Desk, world: World) -> None:
    world.befriend("ann", "bob")
    await desk.arrive("ann", "bob")
    await desk.set_presence("ann", AWAY)
    await desk.presence._publishing.step()
    world.clock.advance(1)
    await desk.presence._publishing.step()

    await world.announce("ann", "bob")
    await desk.presence._telling.step()

    assert world.told() == []


async def test_an_answer_that_was_on_its_way_when_a_friendship_ended_is_thrown_away(
    desk: Desk, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.befriend("ann", "bob")
    elsewhere = Desk(world)
    await elsewhere.start()
    await elsewhere.arrive("bob")
    answer = world.directory.ListFriendIds

    async def late(request: ListFriendIdsRequest, context: object) -> ListFriendIdsResponse:
        friends = await answer(request, context)
        if "bob" in world.directory.friends["ann"]:
            world.part("ann", "bob")
            await world.announce("ann", "bob")
            world.directory.is_down = True
        return friends

    monkeypatch.setattr(world.directory, "ListFriendIds", late)
    await desk.connect("ann")
    await desk.gather()
    await elsewhere.set_presence("bob", AWAY)
    await elsewhere.gather()
    await desk.settle()

    assert world.told() == []


async def test_a_friendship_that_ends_while_records_are_read_is_respected(
    desk: Desk, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.befriend("ann", "bob")
    await desk.arrive("ann", "bob")
    get = world.cache.get

    async def late(keys: list[str]) -> object:
        found = await get(keys)
        world.part("ann", "bob")
        await world.announce("ann", "bob")
        return found

    monkeypatch.setattr(world.cache, "get", late)
    await desk.connect("ann", "laptop")
    await desk.presence._telling.step()

    assert world.told() == []


async def test_news_of_other_things_change_nothing(desk: Desk, world: World) -> None:
    world.befriend("ann", "bob")
    await desk.arrive("ann", "bob")
    asked = len(world.directory.asked)

    await world.bus.publish("directory.changes", b"conversation d.x\nfriends\n\xff\nfriends carol dave")
    await desk.settle()

    assert len(world.directory.asked) == asked
    await desk.set_presence("ann", AWAY)
    await desk.gather()
    assert world.told() == [("bob", "ann", AWAY)]


async def test_a_user_who_stays_a_friend_misses_nothing_by_an_announcement(desk: Desk, world: World) -> None:
    world.befriend("ann", "bob")
    ann, _ = await desk.arrive("ann", "bob")
    await desk.disconnect(ann)
    await desk.presence._publishing.step()
    world.clock.advance(1)

    await world.announce("ann", "bob")
    await desk.settle()

    assert world.told()[-1] == ("bob", "ann", OFFLINE)


async def test_an_announcement_that_was_lost_is_made_up_for(desk: Desk, world: World) -> None:
    world.befriend("ann", "bob")
    reports = await desk.arrive("ann", "bob")
    world.part("ann", "bob")

    for _ in range(31):
        world.clock.advance(10)
        await desk.report(*reports)
        await desk.settle()
    await desk.set_presence("ann", AWAY)
    await desk.gather()

    assert world.told() == []


async def test_friends_are_asked_for_again_when_the_directory_is_back(desk: Desk, world: World) -> None:
    world.befriend("ann", "bob")
    await desk.arrive("bob")
    world.directory.is_down = True
    await desk.connect("ann")
    await desk.settle()
    assert world.told() == []

    world.directory.is_down = False
    world.clock.advance(1)
    await desk.settle()

    assert ("ann", "bob", ONLINE) in world.told()


async def test_of_too_many_friends_the_first_ones_in_order_of_id_are_followed(world: World) -> None:
    desk = Desk(world, PresenceSettings(most_followed=2))
    world.befriend("ann", "bob", "carol", "dave")

    await desk.arrive("ann")

    assert world.bus.topics() == {"presence:bob", "presence:carol"}


async def test_the_list_has_who_is_there_first_and_goes_page_by_page(desk: Desk, world: World) -> None:
    world.befriend("ann", "bob", "carol", "dave", "eve")
    await desk.arrive("dave", "eve")

    first = await desk.friends_of("ann", page_size=3)
    second = await desk.friends_of("ann", page_size=3, page_token=first.next_page_token)

    assert [friend.user_id for friend in first.friends] == ["dave", "eve", "bob"]
    assert [friend.user_id for friend in second.friends] == ["carol"]
    assert second.next_page_token == ""


async def test_a_page_token_of_another_list_is_refused(desk: Desk, world: World) -> None:
    world.befriend("ann", "bob", "carol")
    token = (await desk.friends_of("ann", page_size=1)).next_page_token

    with pytest.raises(InvalidArgument):
        await desk.friends_of("bob", page_token=token)


async def test_everything_happens_by_itself_while_the_service_runs(world: World) -> None:
    world.befriend("ann", "bob")
    desk = Desk(world, PresenceSettings(tick_s=0.001))
    edge = world.mesh.edges["edge"]
    async with asyncio.TaskGroup() as group, asyncio.timeout(30):
        running = group.create_task(desk.presence.run())
        await desk.connect("bob")
        await desk.connect("ann")
        world.clock.advance(1)
        while not {("ann", "bob", ONLINE), ("bob", "ann", ONLINE)} <= set(all_told(world)):
            edge.came.clear()
            await edge.came.wait()
        running.cancel()

    assert world.bus.topics() == set()


def all_told(world: World) -> list[tuple[str, str, int]]:
    world._seen = 0
    return world.told()
