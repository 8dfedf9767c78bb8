"""Watching live locations: what a viewer is shown first, what after that, and how watching ends."""

import asyncio
from collections.abc import Awaitable

import pytest

from discovery.errors import HitherError, Unavailable
from discovery.ids import direct_conversation_id
from hither.location.v1 import location_service_pb2 as pb
from hither.location.v1.location_pb2 import EndReason, LiveLocationEndedEvent, LiveLocationStaleEvent
from services.location.live_settings import LiveSettings
from tests.unit.location.live_desk import BEN, Desk, World, _as


async def reason(call: Awaitable[object]) -> str:
    with pytest.raises(HitherError) as refused:
        await call
    return refused.value.reason


async def test_a_late_viewer_gets_the_newest_point_and_the_trail(desk: Desk) -> None:
    for lat in (1.0, 2.0, 3.0):
        await desk.move(lat)
        desk.world.clock.advance(5)

    [view] = await desk.watch("ben")

    assert (view.session_id, view.user_id, view.opaque, view.stale) == ("g.1~a", "ann", False, False)
    assert view.latest.lat == 3.0
    assert [fix.lat for fix in view.trail] == [1.0, 2.0, 3.0]
    assert view.expires_at == desk.world.sessions.going_on["g.1~a"].expires_at


async def test_a_session_without_a_point_is_shown_without_one(desk: Desk) -> None:
    [view] = await desk.watch("ben")

    assert (view.session_id, view.HasField("latest"), len(view.trail), view.stale) == ("g.1~a", False, 0, False)


async def test_the_trail_holds_the_last_hundred_points_of_ten_minutes(desk: Desk) -> None:
    await desk.move(-1.0)
    await desk.wait(599)
    for number in range(105):
        await desk.move(number / 10)
        desk.world.clock.advance(0.01)
    [view] = await desk.watch("ben")
    assert [fix.lat for fix in view.trail] == [number / 10 for number in range(5, 105)]

    await desk.wait(600)
    [view] = await desk.watch("ben")
    assert (len(view.trail), view.latest.lat, view.stale) == (0, 10.4, True)


async def test_long_trails_are_cut_to_their_newest_points(world: World) -> None:
    world.sessions.start("g.1~a", "ann", opaque=True)
    desk = Desk(world, LiveSettings(trail_bytes=3_000))
    for number in range(5):
        await desk.move(0.0, ciphertext=bytes([number]) * 1_000)
        world.clock.advance(1)

    [view] = await desk.watch("ben")

    assert [fix.ciphertext[0] for fix in view.trail] == [3, 4]


async def test_all_who_share_are_shown(desk: Desk) -> None:
    desk.world.sessions.start("g.1~b", "ben")
    desk.world.sessions.start("g.2~c", "cleo")
    await desk.move(1.0)
    await desk.move(2.0, "ben", "g.1~b")

    views = await desk.watch("ben")

    assert {view.session_id: view.latest.lat for view in views} == {"g.1~a": 1.0, "g.1~b": 2.0}


async def test_who_is_no_member_may_not_watch(desk: Desk) -> None:
    desk.world.sessions.connect("eve", 9)

    assert await reason(desk.watch("eve")) == "NOT_A_MEMBER"

    await desk.move(1.0)
    assert desk.told(9) == []


async def test_a_device_without_a_connection_cannot_watch(desk: Desk) -> None:
    assert await reason(desk.watch("cleo")) == "NO_SUCH_DEVICE"


async def test_only_the_devices_that_watch_are_told(desk: Desk) -> None:
    desk.world.sessions.connect("ben", 7, "laptop", "other edge")
    await desk.watch("ben", "laptop")

    await desk.move(1.0)

    assert desk.told(BEN) == []
    assert desk.lats(7, "other edge") == [1.0]


async def test_watching_twice_tells_once(desk: Desk) -> None:
    await desk.watch("ben")
    await desk.watch("ben")

    await desk.move(1.0)

    assert desk.lats() == [1.0]


async def test_who_has_stopped_watching_is_told_nothing_more_also_by_a_successor(desk: Desk, world: World) -> None:
    await desk.watch("ben")
    await desk.unwatch("ben")
    await desk.unwatch("ben")

    await desk.move(1.0)
    await Desk(world).move(2.0)

    assert desk.told() == []


async def test_a_connection_that_is_gone_is_forgotten(desk: Desk) -> None:
    await desk.watch("ben")
    desk.world.mesh.edges["edge"].gone = {BEN}

    await desk.move(1.0)
    await desk.move(2.0)

    assert desk.lats() == [1.0]
    assert len(desk.live._watchers) == 0


async def test_a_viewer_who_connects_again_and_watches_is_told_by_the_new_connection_only(desk: Desk) -> None:
    await desk.watch("ben")
    desk.world.sessions.connect("ben", 8)
    await desk.watch("ben")

    await desk.move(1.0)

    assert (desk.lats(BEN), desk.lats(8)) == ([], [1.0])
    assert len(desk.live._watchers) == 1


async def test_a_silent_watcher_stays_while_its_connection_lives(desk: Desk) -> None:
    await desk.watch("ben")
    for _ in range(5):
        await desk.wait(121)
        desk.world.sessions.start("g.1~a", "ann")

    await desk.move(1.0)

    assert desk.lats() == [1.0]


async def test_a_silent_watcher_whose_connection_is_gone_is_forgotten_when_its_lease_is_over(desk: Desk) -> None:
    await desk.watch("ben")
    desk.world.sessions.disconnect("ben")

    await desk.wait(121)
    await desk.wait(38)
    assert len(desk.live._watchers) == 1
    await desk.wait(3)

    assert len(desk.live._watchers) == 0


async def test_a_watcher_whom_the_registry_has_lost_for_a_moment_watches_on(desk: Desk) -> None:
    await desk.watch("ben")
    for _ in range(2):
        desk.world.sessions.disconnect("ben")
        await desk.wait(121)
        desk.world.sessions.connect("ben", BEN)
        await desk.wait(41)

    await desk.move(1.0)

    assert desk.lats() == [1.0]


async def test_a_lease_that_was_renewed_comes_to_its_end_too(desk: Desk) -> None:
    await desk.watch("ben")
    await desk.wait(121)
    desk.world.sessions.disconnect("ben")

    await desk.wait(121)
    await desk.wait(41)

    assert len(desk.live._watchers) == 0


async def test_a_registry_that_is_away_ends_no_watching(desk: Desk) -> None:
    await desk.watch("ben")
    desk.world.sessions.fails = Unavailable()
    await desk.wait(121)
    desk.world.sessions.fails = None

    await desk.move(1.0)

    assert desk.lats() == [1.0]


async def test_a_removed_member_is_told_that_all_has_ended_there_and_nothing_more(desk: Desk) -> None:
    await desk.watch("ben")
    await desk.move(1.0)
    desk.world.directory.members["g.1"].remove("ben")

    await desk.news("conversation g.1")
    await desk.move(2.0)

    assert desk.types() == ["live_location", "live_location_ended"]
    last = desk.told()[-1].event
    assert isinstance(last, LiveLocationEndedEvent)
    assert (last.session_id, last.reason) == ("g.1~a", EndReason.END_REASON_REMOVED)


async def test_no_point_that_comes_after_the_news_of_a_removal_is_told_to_the_removed(desk: Desk) -> None:
    await desk.watch("ben")
    await desk.move(1.0)
    desk.world.directory.members["g.1"].remove("ben")
    desk.live._members.changed("directory.changes", b"conversation g.1")

    await desk.move(2.0, settle=False)
    await desk.live._feeds.step()

    assert desk.lats() == [1.0]


async def test_a_removal_of_which_no_news_came_is_noticed_all_the_same(desk: Desk) -> None:
    await desk.watch("ben")
    await desk.move(1.0)
    desk.world.directory.members["g.1"].remove("ben")

    await desk.wait(61)

    assert desk.types()[-1] == "live_location_ended"
    assert len(desk.live._watchers) == 0


async def test_after_a_gap_in_the_news_nothing_is_shown_before_the_members_are_known(desk: Desk) -> None:
    await desk.watch("ben")
    await desk.move(1.0)
    desk.world.directory.members["g.1"].remove("ben")
    desk.live._members.gap("directory.changes")

    await desk.move(2.0)

    assert desk.types() == ["live_location", "live_location_ended"]


async def test_a_removal_during_the_question_for_members_counts(desk: Desk) -> None:
    await desk.watch("ben")
    resolve = desk.live._members._resolve

    async def remove_meanwhile(conversation_id: str, user_id: str) -> frozenset[str]:
        members = await resolve(conversation_id, user_id)
        desk.world.directory.members["g.1"].remove("ben")
        desk.live._members.changed("directory.changes", b"conversation g.1")
        return members

    desk.live._members.changed("directory.changes", b"conversation g.1")
    desk.live._members._resolve = remove_meanwhile
    await desk.live._members.of("g.1", "ann")
    desk.live._members._resolve = resolve

    await desk.move(2.0)

    assert desk.lats() == []


async def test_a_block_ends_watching_between_the_two(world: World) -> None:
    direct = direct_conversation_id("ann", "ben")
    world.directory.members[direct] = ["ann", "ben"]
    session_id = world.sessions.start(f"{direct}~a", "ann")
    desk = Desk(world)
    _as("ben")
    await desk.servicer.WatchLiveLocation(pb.WatchLiveLocationRequest(conversation_id=direct), None)
    await desk.move(1.0, session_id=session_id)
    world.directory.members[direct] = []

    await desk.news("friends ann ben")

    assert desk.types() == ["live_location", "live_location_ended"]
    assert await reason(desk.move(2.0, session_id=session_id)) == "NOT_A_MEMBER"


async def test_a_directory_that_is_away_ends_nothing_for_a_while(desk: Desk) -> None:
    await desk.watch("ben")
    await desk.move(1.0)
    desk.world.directory.fails = Unavailable()

    await desk.wait(61)
    await desk.move(2.0)
    asked = desk.world.directory.asked
    await desk.move(3.0)
    assert desk.world.directory.asked == asked
    await desk.wait(240)

    assert await reason(desk.move(4.0)) == "ENGINE_DOWN"
    assert desk.lats() == [1.0, 2.0, 3.0]


async def test_after_news_an_old_answer_serves_nobody(desk: Desk) -> None:
    await desk.watch("ben")
    await desk.move(1.0)
    desk.world.directory.fails = Unavailable()
    await desk.news("conversation g.1")

    assert await reason(desk.move(2.0)) == "ENGINE_DOWN"
    desk.world.directory.fails = None
    await desk.move(3.0)

    assert desk.lats() == [1.0, 3.0]


async def test_a_removal_that_cannot_be_looked_into_at_once_is_when_the_directory_is_back(desk: Desk) -> None:
    await desk.watch("ben")
    await desk.move(1.0)
    desk.world.directory.members["g.1"].remove("ben")
    desk.world.directory.fails = Unavailable()
    await desk.news("conversation g.1")
    desk.world.directory.fails = None

    await desk.live.step()

    assert desk.types() == ["live_location", "live_location_ended"]


async def test_silence_is_told_once_and_a_new_point_makes_it_live_again(desk: Desk) -> None:
    await desk.watch("ben")
    await desk.move(1.0)
    seen_ms = desk.world.clock.now_ms()

    await desk.wait(29.9)
    assert desk.types() == ["live_location"]
    await desk.wait(0.1)
    await desk.wait(30)
    assert desk.types() == ["live_location", "live_location_stale"]
    stale = desk.told()[-1]
    assert isinstance(stale.event, LiveLocationStaleEvent)
    assert (stale.event.session_id, stale.event.last_seen.ToMilliseconds()) == ("g.1~a", seen_ms)
    assert stale.key == "live:g.1~a"
    [view] = await desk.watch("ben")
    assert view.stale

    await desk.move(2.0)
    [view] = await desk.watch("ben")
    assert not view.stale
    await desk.wait(30)

    assert desk.types()[2:] == ["live_location", "live_location_stale"]


async def test_who_moves_all_the_time_is_never_stale(desk: Desk) -> None:
    await desk.watch("ben")
    for _ in range(10):
        await desk.move(1.0)
        await desk.wait(20)

    assert set(desk.types()) == {"live_location"}


async def test_what_has_ended_falls_silent_without_a_word(desk: Desk) -> None:
    await desk.watch("ben")
    await desk.move(1.0)
    await desk.end()

    await desk.wait(31)

    assert desk.types() == ["live_location", "live_location_ended"]


async def test_a_successor_finds_out_who_has_been_silent(desk: Desk, world: World) -> None:
    await desk.watch("ben")
    await desk.move(1.0)
    world.clock.advance(20)

    successor = Desk(world)
    [view] = await successor.watch("ben")
    assert not view.stale
    await successor.wait(10)

    assert successor.types()[-1] == "live_location_stale"


async def test_more_viewers_than_a_conversation_may_have_are_refused(world: World) -> None:
    desk = Desk(world, LiveSettings(most_watchers_of_one=1))
    await desk.watch("ben")

    assert await reason(desk.watch("ann")) == "OVERLOADED"
    await desk.watch("ben")


async def test_an_edge_that_is_down_gets_the_newest_when_it_is_back(desk: Desk) -> None:
    await desk.watch("ben")
    desk.world.mesh.edges["edge"].is_down = True
    await desk.move(1.0)
    await desk.move(2.0)
    desk.world.mesh.edges["edge"].is_down = False

    await desk.live.step()

    assert desk.lats() == [2.0]


async def test_an_edge_that_stays_down_holds_up_nothing_and_nothing_piles_up(desk: Desk) -> None:
    desk.world.sessions.connect("ben", 7, "laptop", "dead edge")
    desk.world.mesh.edges["dead edge"].is_down = True
    await desk.watch("ben", "laptop")
    await desk.watch("ben")

    await desk.move(1.0)
    for _ in range(5):
        await desk.live.step()

    assert desk.lats() == [1.0]
    assert not desk.live._feeds._waiting


async def test_a_thousand_viewers_on_two_edges_cost_two_batches(world: World) -> None:
    world.directory.members["g.1"] = ["ann", *(f"u{number}" for number in range(1_000))]
    desk = Desk(world)
    for number in range(1_000):
        world.sessions.connect(f"u{number}", 100 + number, edge_id=f"edge {number % 2}")
        await desk.watch(f"u{number}")

    await desk.move(1.0)

    for edge_id in ("edge 0", "edge 1"):
        [batch] = world.mesh.edges[edge_id].batches
        [delivery] = batch.deliveries
        assert len(delivery.targets) == 500


async def test_viewers_are_told_while_the_background_work_runs(world: World) -> None:
    desk = Desk(world, LiveSettings(tick_s=0.001))
    running = asyncio.create_task(desk.live.run())
    await desk.watch("ben")
    edge = world.mesh.edges["edge"]

    async def next_batch() -> None:
        async with asyncio.timeout(30):
            await edge.came.wait()
        edge.came.clear()

    await desk.move(1.0, settle=False)
    await next_batch()
    world.clock.advance(30)
    await next_batch()
    world.directory.members["g.1"].remove("ben")
    await world.bus.publish("directory.changes", b"conversation g.1")
    await next_batch()
    running.cancel()

    with pytest.raises(asyncio.CancelledError):
        await running
    assert desk.types() == ["live_location", "live_location_stale", "live_location_ended"]
