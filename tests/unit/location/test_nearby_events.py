"""Friends who come near, move and go: who is told, at once, and of nobody else."""

import pytest

from hither.location.v1.location_pb2 import GONE_REASON_LEFT, FriendLocationGoneEvent, FriendLocationUpdateEvent
from services.location.settings import LocationSettings
from tests.unit.location.nearby_desk import (
    BERLIN,
    CITY,
    EXACT,
    EXPIRED,
    FAR,
    HIDDEN,
    KILOMETRE,
    LEFT,
    NEAR,
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


async def test_a_friend_who_comes_near_is_told_with_name_distance_and_time(desk: Desk, world: World) -> None:
    await world.befriend("ann", "bob")
    await desk.arrive("ann")
    await desk.share("bob")

    await desk.move("bob", NEAR)
    await desk.settle()

    [(viewer, event)] = world.events()
    assert viewer == "ann"
    assert isinstance(event, FriendLocationUpdateEvent)
    assert (event.friend_id, event.name, event.lat, event.lng) == ("bob", "Bob", *NEAR)
    assert event.distance == pytest.approx(0.691, abs=0.002)
    assert event.timestamp.ToMilliseconds() == world.clock.now_ms()
    assert event.precision == EXACT


async def test_friends_who_move_are_told_and_who_leaves_is_told_gone_once(desk: Desk, world: World) -> None:
    await world.befriend("ann", "bob")
    await desk.arrive("ann", "bob")

    for place in (NEAR, FAR, FAR):
        await desk.pass_time(120)
        await desk.move("bob", place)
        await desk.settle()

    assert sorted(world.told()) == sorted(
        [("ann", "bob", "near"), ("bob", "ann", "near"), ("ann", "bob", LEFT), ("bob", "ann", LEFT)]
    )


async def test_who_connects_gets_the_friends_nearby(desk: Desk, world: World) -> None:
    await world.befriend("ann", "bob", "carol", "dave")
    await desk.arrive("bob")
    await desk.arrive("carol", place=FAR)
    await desk.share("ann")
    await desk.move("ann", NEAR)

    await desk.connect("ann")
    await desk.settle()

    assert [one for one in world.told() if one[0] == "ann"] == [("ann", "bob", "near")]


async def test_a_second_device_is_told_too(desk: Desk, world: World) -> None:
    await world.befriend("ann", "bob")
    await desk.arrive("ann", "bob")

    await desk.connect("ann")
    await desk.settle()

    assert world.told() == [("ann", "bob", "near")]


async def test_what_did_not_arrive_is_told_again_when_the_edge_reports_again(desk: Desk, world: World) -> None:
    await world.befriend("ann", "bob", "carol")
    await desk.arrive("ann", "bob")
    world.mesh.edges["edge"].is_down = True
    await desk.grant("bob", "ann", HIDDEN)
    await desk.share("carol")
    await desk.move("carol", NEAR)
    await desk.settle()
    world.mesh.edges["edge"].is_down = False
    await desk.settle()
    assert world.told() == []

    await desk.pass_time(10)

    assert sorted(told for told in world.told() if told[0] == "ann") == [
        ("ann", "bob", STOPPED),
        ("ann", "carol", "near"),
    ]


async def test_strangers_are_told_nothing(desk: Desk, world: World) -> None:
    await world.befriend("ann", "bob")
    await desk.arrive("ann", "bob", "stranger")

    await desk.move("stranger", NEAR)
    await desk.settle()

    assert world.told() == []
    assert await desk.near_ids("stranger") == []


async def test_a_friend_whom_only_one_side_has_is_not_shown(desk: Desk, world: World) -> None:
    world.directory.friends["bob"].add("ann")
    await desk.arrive("ann", "bob")

    await desk.move("ann", NEAR)
    await desk.settle()

    assert world.told() == []


async def test_nobody_is_shown_without_both_sharing(desk: Desk, world: World) -> None:
    await world.befriend("ann", "bob")
    await desk.arrive("ann", "bob")
    await desk.share("ann", enabled=False)
    await desk.settle()
    assert sorted(world.told()) == [("ann", "bob", STOPPED), ("bob", "ann", STOPPED)]

    answer = await desk.move("ann", NEAR)
    await desk.move("bob", NEAR)
    await desk.settle()

    assert not answer.shared
    assert world.told() == []
    assert await desk.near_ids("ann") == []
    assert await desk.near_ids("bob") == []


async def test_sharing_again_shows_again_with_the_next_fix(desk: Desk, world: World) -> None:
    await world.befriend("ann", "bob")
    await desk.arrive("ann", "bob")
    await desk.share("ann", enabled=False)
    await desk.settle()
    world.events()

    await desk.share("ann")
    await desk.move("ann", NEAR)
    await desk.settle()

    assert sorted(world.told()) == [("ann", "bob", "near"), ("bob", "ann", "near")]


async def test_a_grant_that_is_revoked_in_mid_stream_ends_it_at_once(desk: Desk, world: World) -> None:
    await world.befriend("ann", "bob")
    await desk.share("ann", precision=HIDDEN)
    await desk.grant("ann", "bob", EXACT)
    await desk.connect("bob")
    await desk.share("bob")
    await desk.move("bob", BERLIN)
    await desk.move("ann", NEAR)
    await desk.settle()
    assert world.told() == [("bob", "ann", "near")]

    await desk.revoke("ann", "bob")
    await desk.move("ann", BERLIN)
    await desk.settle()

    assert world.told() == [("bob", "ann", STOPPED)]
    assert await desk.near_ids("bob") == []


async def test_what_is_taken_back_while_an_event_is_being_made_is_not_told(desk: Desk, world: World) -> None:
    await world.befriend("ann", "bob")
    await desk.arrive("ann")
    await desk.share("bob")
    world.directory.meanwhile = lambda: desk.grant("bob", "ann", HIDDEN)

    await desk.move("bob", NEAR)
    await desk.settle()

    assert [told for told in world.told() if told[0] == "ann"] == []
    assert world.view_log.rows == {}


async def test_a_decision_about_one_friend_is_not_about_another(desk: Desk, world: World) -> None:
    await world.befriend("ann", "bob", "carol")
    await desk.arrive("ann", "bob", "carol")

    await desk.grant("ann", "bob", HIDDEN)
    await desk.settle()

    assert world.told() == [("bob", "ann", STOPPED)]
    assert await desk.near_ids("carol") == ["ann"]
    assert await desk.near_ids("bob") == []


async def test_a_grant_that_runs_out_is_told_stopped_without_anybody_moving(desk: Desk, world: World) -> None:
    await world.befriend("ann", "bob")
    await desk.arrive("ann", "bob")
    await desk.grant("ann", "bob", KILOMETRE, duration_s=60)
    await desk.settle()
    assert world.told() == [("bob", "ann", "near")]

    await desk.pass_time(59)
    assert world.told() == []
    await desk.pass_time(1)

    assert world.told() == [("bob", "ann", STOPPED)]
    assert await desk.near_ids("bob") == []


async def test_ten_minutes_without_a_fix_are_told_as_expired_to_both(desk: Desk, world: World) -> None:
    await world.befriend("ann", "bob")
    await desk.arrive("ann", "bob")
    await desk.pass_time(599, ann=BERLIN)
    assert set(world.told()) == {("bob", "ann", "near")}
    await desk.pass_time(1)

    assert world.told() == [("ann", "bob", EXPIRED), ("bob", "ann", EXPIRED)]
    assert await desk.near_ids("ann") == []


@pytest.mark.parametrize("announced", [True, False])
async def test_who_is_blocked_is_told_gone_at_once_and_then_nothing(desk: Desk, world: World, announced: bool) -> None:
    await world.befriend("ann", "bob")
    await desk.arrive("ann", "bob")

    world.directory.friends["ann"].discard("bob")
    world.directory.friends["bob"].discard("ann")
    if announced:
        await world.announce("ann", "bob")
    else:  # the announcement was lost: found out when friends are asked for again
        await desk.pass_time(320)
    await desk.settle()
    assert sorted(world.told()) == [("ann", "bob", STOPPED), ("bob", "ann", STOPPED)]

    await desk.move("ann", NEAR)
    await desk.settle()
    assert world.told() == []


async def test_new_friends_see_each_other_without_moving(desk: Desk, world: World) -> None:
    await desk.arrive("ann", "bob")

    await world.befriend("ann", "bob")
    await desk.settle()

    assert sorted(world.told()) == [("ann", "bob", "near"), ("bob", "ann", "near")]


async def test_the_radius_is_the_users_own(desk: Desk, world: World) -> None:
    await world.befriend("ann", "bob")
    await desk.arrive("bob", place=FAR)
    await desk.arrive("ann")

    await desk.move("ann", BERLIN, radius=20)
    await desk.settle()

    assert world.told() == [("ann", "bob", "near")]
    assert await desk.near_ids("ann") == ["bob"]
    assert await desk.near_ids("ann", radius=5) == []
    assert await desk.near_ids("bob") == []


async def test_a_coarse_place_is_told_once_for_its_cell_and_ten_minutes(desk: Desk, world: World) -> None:
    await world.befriend("ann", "bob")
    await desk.arrive("ann")
    await desk.share("bob", precision=KILOMETRE)
    await desk.move("bob", NEAR)
    await desk.settle()
    [(_, first)] = world.events()

    for step in range(1, 6):
        await desk.pass_time(20, bob=(NEAR[0] + step * 0.004, NEAR[1]))

    assert world.events() == []
    assert isinstance(first, FriendLocationUpdateEvent)
    assert (first.lat, first.lng) != NEAR
    assert first.precision == KILOMETRE
    assert first.timestamp.ToMilliseconds() % 600_000 == 0
    [friend] = (await desk.near("ann")).friends
    assert (friend.fix.lat, friend.fix.lng, friend.distance) == (first.lat, first.lng, first.distance)
    assert friend.fix.timestamp == first.timestamp
    assert friend.fix.accuracy_m == 0


async def test_a_friend_shown_less_exactly_is_told_anew(desk: Desk, world: World) -> None:
    await world.befriend("ann", "bob")
    await desk.arrive("ann", "bob")

    await desk.grant("bob", "ann", CITY)
    await desk.settle()

    # The middle of the city's cell may lie outside the radius: then the friend has left.
    [(viewer, event)] = world.events()
    assert viewer == "ann"
    if isinstance(event, FriendLocationGoneEvent):
        assert event.reason == GONE_REASON_LEFT
    else:
        assert (event.lat, event.lng) != BERLIN


async def test_only_the_most_relevant_friends_are_followed_close_ones_first() -> None:
    world = World(LocationSettings(most_followed=2))
    desk = Desk(world)
    await desk.start()
    await world.befriend("ann", "a", "b", "c", "d")
    await desk.grant("d", "ann", CITY)
    await desk.grant("c", "ann", HIDDEN)
    for one in "abcd":
        await desk.share(one)
        await desk.move(one, BERLIN)
    await desk.grant("d", "ann", EXACT)

    await desk.arrive("ann")

    assert {topic for topic in world.bus.topics() if topic.startswith("location:")} == {
        "location:ann",
        "location:a",
        "location:d",
    }
    assert await desk.near_ids("ann") == ["a", "d"]


async def test_a_friend_is_subscribed_once_for_all_followers_and_let_go_of_after_the_last(
    desk: Desk, world: World
) -> None:
    fans = [f"fan-{number}" for number in range(50)]
    await world.befriend("star", *fans)
    reports = [await desk.connect(fan) for fan in fans]
    await desk.settle()
    assert world.bus.subscriptions("location:star") == 1

    for report in reports:
        await desk.disconnect(report)
    await desk.settle()

    assert world.bus.subscriptions("location:star") == 0
    assert not [topic for topic in world.bus.topics() if topic.startswith("location:")]
    assert desk.nearby._showing._known == {}
    assert desk.nearby._rules._rules == {}


async def test_a_viewer_who_is_not_reported_any_more_is_told_nothing(desk: Desk, world: World) -> None:
    await world.befriend("ann", "bob")
    await desk.arrive("ann", "bob")

    for _ in range(3):
        world.clock.advance(10)
        await desk.settle()
    await desk.move("bob", NEAR)
    await desk.settle()

    assert world.told() == []


async def test_a_process_that_stood_still_forgets_no_viewer_whose_edge_could_not_report_meanwhile(
    desk: Desk, world: World
) -> None:
    await world.befriend("ann", "bob")
    await desk.arrive("ann", "bob")
    world.clock.advance(3600)
    await desk.settle()

    assert world.told() == [("ann", "bob", EXPIRED), ("bob", "ann", EXPIRED)]


async def test_a_viewer_who_leaves_while_others_are_read_for_ends_nothing(
    desk: Desk, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.befriend("ann", "bob")
    showing = desk.nearby._showing
    load_viewer = showing._rules.load_viewer

    async def loaded(user_id: str, friends: object) -> None:
        await load_viewer(user_id, friends)  # type: ignore[arg-type]
        for other in {"ann", "bob"} - {user_id}:
            showing.forget_viewer(other)

    monkeypatch.setattr(showing._rules, "load_viewer", loaded)
    showing.introduce("ann", ["bob"])
    showing.introduce("bob", ["ann"])

    assert await showing.step()


async def a_follower_is_new(world: World) -> Desk:
    """Cem sees Ann and Bob at another instance, to which Ann comes, too, and walks on; what Bob decided about her, and who she was
    shown before, was not read there yet.
    """
    await world.befriend("ann", "bob", "cem")
    await world.befriend("bob", "cem")
    here = Desk(world)
    await here.start()
    await here.arrive("ann", "bob", "cem")
    there = Desk(world)
    await there.start()
    await there.connect("cem")
    await there.settle()
    await there.connect("ann")
    await there.nearby._friends.step()
    await there.move("ann", NEAR)
    world.events()
    return there


async def test_nobody_is_shown_to_a_viewer_about_whom_nothing_was_read_yet(world: World) -> None:
    there = await a_follower_is_new(world)
    showing = there.nearby._showing

    showing.look_at("bob")
    await showing._tell(showing._pairs())

    assert [viewer for viewer, _ in world.events() if viewer == "ann"] == []


async def test_who_came_with_others_under_way_is_told_of_those_who_went_meanwhile(world: World) -> None:
    there = await a_follower_is_new(world)
    showing = there.nearby._showing
    await there.share("bob", enabled=False)
    world.events()

    showing.look_at("cem")
    await showing._tell(showing._pairs())
    await there.settle()

    assert ("ann", "bob", "STOPPED") in world.told()
