"""How places are kept, listed, logged and recovered; and what happens while an engine is away."""

import asyncio
import re
from collections.abc import Collection, Mapping

import pytest
from structlog.testing import capture_logs

from discovery.errors import FailedPrecondition, InvalidArgument, NotFound, ResourceExhausted, Unavailable
from hither.location.v1 import location_service_pb2 as pb
from hither.location.v1.location_pb2 import FriendLocationUpdateEvent
from services.location.plausibility import FixOutOfTime, ImplausibleMove
from services.location.settings import LocationSettings
from services.ports.location_history import FixRow
from services.ports.privacy_store import Precision
from services.ports.view_log import SLOT_MS
from services.storage.memory.cache import MemoryCache
from tests.support.clock import ManualClock
from tests.unit.location.nearby_desk import BERLIN, EXACT, FAR, HIDDEN, KILOMETRE, NEAR, STOPPED, Desk, World


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
async def desk(world: World) -> Desk:
    desk = Desk(world)
    await desk.start()
    return desk


class FragileCache(MemoryCache):
    """Can be away."""

    def __init__(self, clock: ManualClock) -> None:
        super().__init__(clock)
        self.is_down = False

    async def set(self, items, ttl_s) -> None:  # type: ignore[no-untyped-def]
        if self.is_down:
            raise Unavailable("away")
        await super().set(items, ttl_s)

    async def get(self, keys):  # type: ignore[no-untyped-def]
        if self.is_down:
            raise Unavailable("away")
        return await super().get(keys)


async def test_an_update_is_answered_with_when_the_next_is_wanted(desk: Desk, world: World) -> None:
    await desk.share("ann")

    first = await desk.move("ann", BERLIN)
    driving = await desk.move("ann", NEAR, after_s=60, speed_mps=20)

    assert (first.next_update_s, first.min_move_m, first.shared) == (30, 50, True)
    assert (driving.next_update_s, driving.shared) == (5, True)


async def test_a_fix_that_cannot_be_true_is_refused_and_changes_nothing(desk: Desk, world: World) -> None:
    await world.befriend("ann", "bob")
    await desk.arrive("ann", "bob")
    with pytest.raises(ImplausibleMove):
        await desk.move("ann", FAR)
    late = pb.UpdateLocationRequest(user_id="ann", lat=52, lng=13)
    late.timestamp.FromMilliseconds(world.clock.now_ms() - 600_001)
    with pytest.raises(FixOutOfTime):
        await desk.servicer.UpdateLocation(late, None)
    await desk.settle()

    assert world.told() == []
    [friend] = (await desk.near("bob")).friends
    assert (friend.fix.lat, friend.fix.lng) == BERLIN


async def test_a_jump_is_seen_by_an_instance_that_never_saw_the_user(desk: Desk, world: World) -> None:
    await desk.share("ann")
    await desk.move("ann", BERLIN)

    with pytest.raises(ImplausibleMove):
        await Desk(world).move("ann", FAR)


async def test_an_older_fix_changes_nothing(desk: Desk, world: World) -> None:
    await world.befriend("ann", "bob")
    await desk.arrive("ann", "bob")
    old = pb.UpdateLocationRequest(user_id="ann", lat=NEAR[0], lng=NEAR[1])
    old.timestamp.FromMilliseconds(world.clock.now_ms() - 60_000)

    answer = await desk.servicer.UpdateLocation(old, None)
    await desk.settle()

    assert answer.shared
    assert world.told() == []


async def test_a_clock_that_is_ahead_does_not_hold_up_the_next_fixes(desk: Desk, world: World) -> None:
    await desk.share("ann")
    ahead = pb.UpdateLocationRequest(user_id="ann", lat=BERLIN[0], lng=BERLIN[1])
    ahead.timestamp.FromMilliseconds(world.clock.now_ms() + 60_000)
    await desk.servicer.UpdateLocation(ahead, None)

    await desk.move("ann", NEAR)
    await desk.settle()

    assert [(fix.lat, fix.lng) for fix in world.history.fixes] == [BERLIN, NEAR]


async def test_history_gets_moves_and_signs_of_life_of_those_who_share(desk: Desk, world: World) -> None:
    await desk.share("ann")
    for place in (BERLIN, (BERLIN[0] + 0.0003, BERLIN[1]), NEAR, NEAR):
        await desk.move("ann", place)
    await desk.move("ann", NEAR, after_s=300)
    await desk.move("stranger", NEAR)
    await desk.settle()

    assert [(fix.user_id, fix.lat) for fix in world.history.fixes] == [
        ("ann", BERLIN[0]),
        ("ann", NEAR[0]),
        ("ann", NEAR[0]),
    ]


async def test_history_that_is_away_gets_what_waited_later_within_a_bound() -> None:
    world = World(LocationSettings(history_waiting=2))
    desk = Desk(world)
    await desk.share("ann")
    world.history.fails = Unavailable("away")
    for place in (BERLIN, NEAR, BERLIN):
        await desk.move("ann", place)
        await desk.settle()

    world.history.fails = None
    await desk.settle()

    assert [fix.lat for fix in world.history.fixes] == [NEAR[0], BERLIN[0]]


@pytest.mark.parametrize("engine", ["cache", "bus"])
async def test_without_the_engine_of_places_updates_are_refused_and_go_on_after_it(engine: str) -> None:
    world = World()
    world.cache = cache = FragileCache(world.clock)
    desk = Desk(world)
    await desk.start()
    await world.befriend("ann", "bob")
    await desk.arrive("ann", "bob")
    cache.is_down = world.bus.is_down = True
    if engine == "bus":
        cache.is_down = False

    with pytest.raises(Unavailable) as refused:
        await desk.move("ann", NEAR)
    await desk.settle()
    assert refused.value.reason == "ENGINE_DOWN"
    assert refused.value.retry_after_s is not None
    assert world.told() == []

    cache.is_down = world.bus.is_down = False
    await desk.move("ann", NEAR)
    await desk.settle()
    assert ("bob", "ann", "near") in world.told()


async def test_rules_that_cannot_be_read_show_nobody(desk: Desk, world: World) -> None:
    await world.befriend("ann", "bob")
    await desk.arrive("ann", "bob")
    await world.privacy.put_privacy(world.privacy.rows["ann"])
    world.privacy.fails = Unavailable("away")
    other = Desk(world)
    world.privacy.fails = None
    await other.move("ann", NEAR)  # says the newer version
    world.privacy.fails = Unavailable("away")
    await desk.settle()
    assert sorted(world.told()) == [("ann", "bob", STOPPED), ("bob", "ann", STOPPED)]

    world.privacy.fails = None
    await desk.settle()
    assert sorted(world.told()) == [("ann", "bob", "near"), ("bob", "ann", "near")]


async def test_a_fix_of_a_newer_version_has_the_rules_read_before_anything_is_shown(desk: Desk, world: World) -> None:
    """The news of the change itself were lost; the next fix says the version."""
    await world.befriend("ann", "bob")
    await desk.arrive("ann", "bob")
    elsewhere = Desk(world)
    world.bus.is_down = True
    with pytest.raises(Unavailable):
        await elsewhere.grant("ann", "bob", HIDDEN)
    world.bus.is_down = False

    await elsewhere.move("ann", NEAR)
    await desk.settle()

    assert ("bob", "ann", "near") not in (told := world.told())
    assert ("bob", "ann", STOPPED) in told


async def test_after_a_gap_in_the_news_places_and_rules_are_read_again(desk: Desk, world: World) -> None:
    await world.befriend("ann", "bob")
    await desk.arrive("ann", "bob")
    await world.privacy.put_privacy(world.privacy.rows["bob"].__class__("bob"))

    desk.nearby._showing.take_gap("location:bob")
    await desk.settle()

    assert sorted(world.told()) == [("ann", "bob", STOPPED), ("bob", "ann", STOPPED)]


async def test_a_lost_cache_is_made_up_for_by_the_history_of_ten_minutes(world: World) -> None:
    before = Desk(world)
    await before.start()
    await world.befriend("ann", "bob", "carol")
    await before.arrive("carol")
    world.clock.advance(540)
    await before.arrive("ann", "bob")
    world.cache = MemoryCache(world.clock)
    world.bus = type(world.bus)()
    world.clock.advance(65)

    after = Desk(world)
    await after.start()
    await after.connect("ann")
    await after.settle()
    reads = world.history.reads

    assert world.told() == [("ann", "bob", "near")]
    assert await after.near_ids("ann") == ["bob"]
    assert len([key for key in ("location:ann", "location:bob") if (await world.cache.get([key]))[0]]) == 2
    world.clock.advance(600)
    assert await after.near_ids("ann") == []
    assert await after.near_ids("ann") == []
    assert world.history.reads <= reads + 1


async def test_the_list_is_sorted_by_distance_and_paged(desk: Desk, world: World) -> None:
    friends = [f"friend-{number:02}" for number in range(25)]
    await world.befriend("ann", *friends)
    for number, friend in enumerate(friends):
        await desk.share(friend)
        await desk.move(friend, (BERLIN[0] + (number % 5) * 0.01, BERLIN[1]))
    await desk.share("ann")
    await desk.move("ann", BERLIN)

    first = await desk.near("ann")
    second = await desk.near("ann", page_token=first.next_page_token)

    found = [*first.friends, *second.friends]
    assert (len(first.friends), len(second.friends), second.next_page_token) == (20, 5, "")
    assert found == sorted(found, key=lambda one: (one.distance, one.friend_id))
    assert {one.friend_id for one in found} == set(friends)
    assert found[0].name == "Friend-00"
    assert len((await desk.near("ann", page_size=3)).friends) == 3
    with pytest.raises(InvalidArgument):
        await desk.near("ann", radius=7, page_token=first.next_page_token)


async def test_a_name_that_cannot_be_found_holds_nothing_up(desk: Desk, world: World) -> None:
    world.directory.fails.add("FindNames")
    await world.befriend("ann", "bob")
    await desk.arrive("ann")
    await desk.share("bob")

    await desk.move("bob", NEAR)
    await desk.settle()

    [(_, event)] = world.events()
    assert isinstance(event, FriendLocationUpdateEvent)
    assert event.name == ""


async def test_a_grant_is_for_friends_and_there_are_not_too_many() -> None:
    world = World(LocationSettings(most_grants=1))
    desk = Desk(world)
    await world.befriend("ann", "bob", "carol")
    with pytest.raises(NotFound) as stranger:
        await desk.grant("ann", "stranger", EXACT)
    await desk.grant("ann", "bob", EXACT)
    with pytest.raises(ResourceExhausted) as too_many:
        await desk.grant("ann", "carol", EXACT)

    assert (stranger.value.reason, too_many.value.reason) == ("NOT_FRIENDS", "QUOTA_EXCEEDED")


async def test_grants_are_listed_in_pages_with_their_end(desk: Desk, world: World) -> None:
    await world.befriend("ann", "a", "b", "c")
    await desk.grant("ann", "a", HIDDEN)
    await desk.grant("ann", "b", KILOMETRE, duration_s=60)
    await desk.grant("ann", "c", EXACT)

    first = await desk.servicer.ListLocationGrants(pb.ListLocationGrantsRequest(user_id="ann", page_size=2), None)
    request = pb.ListLocationGrantsRequest(user_id="ann", page_size=2, page_token=first.next_page_token)
    second = await desk.servicer.ListLocationGrants(request, None)

    grants = [*first.grants, *second.grants]
    assert [(one.friend_id, one.precision) for one in grants] == [("a", HIDDEN), ("b", KILOMETRE), ("c", EXACT)]
    assert grants[1].expires_at.ToMilliseconds() == world.clock.now_ms() + 60_000
    assert not grants[0].HasField("expires_at")
    assert second.next_page_token == ""


async def test_sharing_is_off_at_first_and_a_precision_stays_as_it_was(desk: Desk, world: World) -> None:
    request = pb.GetLocationSharingRequest(user_id="ann")
    before = await desk.servicer.GetLocationSharing(request, None)
    await desk.share("ann", precision=KILOMETRE)
    await desk.share("ann", enabled=False)
    after = await desk.servicer.GetLocationSharing(request, None)

    assert (before.enabled, before.default_precision) == (False, EXACT)
    assert (after.enabled, after.default_precision) == (False, KILOMETRE)


async def views(desk: Desk, user_id: str, page_size: int = 0, page_token: str = "") -> pb.ListLocationViewsResponse:
    request = pb.ListLocationViewsRequest(user_id=user_id, page_size=page_size, page_token=page_token)
    return await desk.servicer.ListLocationViews(request, None)


async def test_views_are_one_entry_for_each_viewer_and_five_minutes_with_a_count(desk: Desk, world: World) -> None:
    await world.befriend("ann", "bob", "carol")
    world.clock.advance((SLOT_MS - world.clock.now_ms() % SLOT_MS) / 1000)
    await desk.arrive("ann", "bob")
    for _ in range(3):
        await desk.near("bob")
    await desk.settle()
    await desk.pass_time(300, ann=BERLIN, bob=BERLIN)
    await desk.settle()

    [newest, oldest] = (await views(desk, "ann")).views
    assert (oldest.viewer_id, oldest.precision) == ("bob", EXACT)
    assert oldest.count >= 4
    assert newest.start_time.ToMilliseconds() == oldest.start_time.ToMilliseconds() + SLOT_MS
    assert oldest.start_time.ToMilliseconds() <= oldest.last_time.ToMilliseconds() < newest.start_time.ToMilliseconds()
    assert (await views(desk, "carol")).views == []
    first = await views(desk, "ann", page_size=1)
    second = await views(desk, "ann", page_size=1, page_token=first.next_page_token)
    assert [*first.views, *second.views] == [newest, oldest]
    with pytest.raises(InvalidArgument):
        await views(desk, "bob", page_token=first.next_page_token)


async def test_views_wait_for_a_log_that_is_away_with_their_greatest_precision(desk: Desk, world: World) -> None:
    world.view_log.fails = Unavailable("away")
    for precision in (Precision.CITY, Precision.EXACT, Precision.KILOMETRE):
        desk.nearby.views.note("ann", "bob", precision)
        await desk.nearby.views.step()

    world.view_log.fails = None
    await desk.nearby.views.step()

    [row] = world.view_log.rows.values()
    assert (row.count, row.precision) == (3, Precision.EXACT)


async def test_nobody_is_logged_as_a_viewer_who_was_shown_nothing(desk: Desk, world: World) -> None:
    await world.befriend("ann", "bob")
    await desk.arrive("ann")
    await desk.arrive("bob", place=(0.0, 0.0))
    await desk.near("bob", radius=100)
    await desk.settle()

    assert world.view_log.rows == {}


async def test_the_service_works_in_the_background_until_it_is_cancelled(desk: Desk, world: World) -> None:
    running = asyncio.create_task(desk.nearby.run())
    await world.mesh.heeded.wait()
    await world.befriend("ann", "bob")
    for user_id in ("ann", "bob"):
        await desk.share(user_id)
        await desk.connect(user_id)
        await desk.move(user_id, BERLIN)
    async with asyncio.timeout(30):
        while len(world.mesh.edges["edge"].deliveries()) < 2:
            came = world.mesh.edges["edge"].came
            came.clear()
            await came.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running

    assert {told[:2] for told in world.told()} == {("ann", "bob"), ("bob", "ann")}
    assert world.bus.topics() == {"directory.changes"}  # what the desk itself began
    assert len(world.history.fixes) == 2
    assert len(world.view_log.rows) == 2


async def test_users_who_are_owned_elsewhere_are_followed_no_more(desk: Desk, world: World) -> None:
    running = asyncio.create_task(desk.nearby.run())
    await world.mesh.heeded.wait()
    await world.befriend("ann", "bob")
    await desk.arrive("ann", "bob")
    world.mesh.heeded.clear()

    world.mesh.move(frozenset())
    await world.mesh.heeded.wait()
    await desk.settle()
    await desk.move("bob", NEAR)
    await desk.settle()
    running.cancel()

    assert world.told() == []
    assert not [topic for topic in world.bus.topics() if topic.startswith("location:")]


async def test_no_position_is_in_any_line_of_the_log(
    desk: Desk, world: World, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    place = (48.208173, 16.373819)
    await world.befriend("ann", "bob")
    with capture_logs() as lines:
        await desk.arrive("ann", "bob", place=place)
        await desk.move("ann", (place[0] + 0.001, place[1]))
        for fails in (Unavailable("away"), None):
            world.privacy.fails = world.history.fails = world.view_log.fails = fails
            world.bus.is_down = fails is not None
            with pytest.raises((Unavailable, FailedPrecondition)) as refused:
                await desk.move("ann", place if fails else (place[0] + 5, place[1]))
            desk.nearby._showing.take_gap("location:bob")
            await desk.settle()
            assert not re.search(POSITION, str(refused.value))
        await desk.near("ann")
        await desk.settle()

    assert {"reading.failed", "history.failed"} <= {line["event"] for line in lines}
    assert not re.search(POSITION, repr(lines) + caplog.text)


POSITION = r"48\.2|16\.37|20[89]173|373819|53\.2"


async def test_who_is_nowhere_is_looked_for_once_until_news_may_have_been_missed(desk: Desk, world: World) -> None:
    looked_for: list[str] = []
    latest = world.history.latest

    async def remembering(user_ids: Collection[str], since_ms: int) -> Mapping[str, FixRow]:
        looked_for.extend(user_ids)
        return await latest(user_ids, since_ms)

    world.history.latest = remembering  # type: ignore[method-assign]
    await world.befriend("bob", "ann", "carol")
    await desk.connect("ann")
    await desk.settle()
    await desk.connect("carol")
    await desk.settle()
    assert sorted(looked_for) == ["ann", "bob", "carol"]
    await desk.share("ann")
    await desk.move("ann", BERLIN)
    assert sorted(looked_for) == ["ann", "bob", "carol"]

    desk.nearby._showing.take_gap("location:bob")
    await desk.settle()

    assert sorted(looked_for) == ["ann", "bob", "bob", "carol"]


async def test_who_could_not_be_looked_for_is_looked_for_again(desk: Desk, world: World) -> None:
    await world.befriend("bob", "ann")
    world.history.fails = Unavailable("away")
    await desk.connect("ann")
    await desk.settle()
    world.history.fails = None
    reads = world.history.reads

    await desk.connect("bob")
    await desk.settle()

    assert world.history.reads == reads + 1
