"""Points of live locations: who may send them, what is kept of them, and what becomes of them at the end."""

import asyncio
import logging
from collections.abc import Awaitable, Mapping

import pytest
import structlog

from discovery.errors import HitherError, Unavailable
from hither.location.v1.location_pb2 import EndReason, LiveLocationEndedEvent, LiveLocationEvent
from services.location.live_settings import LiveSettings
from services.storage.memory.cache import MemoryCache
from tests.unit.location.live_desk import Desk, World


async def reason(call: Awaitable[object]) -> str:
    with pytest.raises(HitherError) as refused:
        await call
    return refused.value.reason


class AwayCache(MemoryCache):
    """A cache that is away while `away` is set."""

    away = False

    async def put_field(self, key: str, field: str, value: bytes, ttl_s: float) -> None:
        self._check()
        await super().put_field(key, field, value, ttl_s)

    async def fields(self, keys: object) -> list[Mapping[str, bytes]]:
        self._check()
        return list(await super().fields(keys))  # type: ignore[arg-type] # as it came

    async def delete(self, keys: object) -> None:
        self._check()
        await super().delete(keys)  # type: ignore[arg-type] # as it came

    def _check(self) -> None:
        if self.away:
            raise Unavailable("The cache is away.", retry_after_s=1.0)


async def test_a_point_reaches_who_watches_and_nobody_else(desk: Desk) -> None:
    await desk.watch("ben")

    await desk.move(48.0)

    [told] = desk.told()
    assert told.type == "live_location"
    assert isinstance(told.event, LiveLocationEvent)
    assert (told.event.session_id, told.event.conversation_id, told.event.user_id) == ("g.1~a", "g.1", "ann")
    assert (told.event.lat, told.event.lng) == (48.0, -48.0)
    assert told.event.timestamp.ToMilliseconds() == desk.world.clock.now_ms()
    assert desk.told(1) == []


async def test_only_the_sharer_sends_points(desk: Desk) -> None:
    assert await reason(desk.move(1.0, "ben")) == "NOT_YOURSELF"


async def test_a_point_of_what_never_was_or_is_no_session_is_refused(desk: Desk) -> None:
    assert await reason(desk.move(1.0, session_id="g.1~other")) == "LIVE_LOCATION_ENDED"
    assert await reason(desk.move(1.0, session_id="no session")) == "LIVE_LOCATION_ENDED"


async def test_who_has_left_the_conversation_sends_no_more_points(desk: Desk) -> None:
    await desk.watch("ben")
    await desk.move(1.0)
    desk.world.directory.members["g.1"].remove("ann")

    await desk.news("conversation g.1")

    assert await reason(desk.move(2.0)) == "NOT_A_MEMBER"
    assert desk.lats() == [1.0]


async def test_after_its_time_a_session_takes_no_points_until_it_is_renewed(desk: Desk) -> None:
    desk.world.sessions.start("g.1~a", "ann", lasts_s=60)
    await desk.move(1.0)
    desk.world.clock.advance(60)

    assert await reason(desk.move(2.0)) == "LIVE_LOCATION_ENDED"

    desk.world.sessions.start("g.1~a", "ann", lasts_s=60)
    await desk.move(3.0)


async def test_sessions_is_asked_once_for_many_points(desk: Desk) -> None:
    await asyncio.gather(*(desk.move(float(n), settle=False) for n in range(5)))
    await desk.move(9.0)

    assert (desk.world.sessions.looked_up, desk.world.directory.asked) == (1, 1)


async def test_of_points_that_come_before_an_edge_takes_them_the_newest_is_told(desk: Desk) -> None:
    await desk.watch("ben")

    for lat in (1.0, 2.0, 3.0):
        await desk.move(lat, settle=False)
    await desk.live.step()

    assert desk.lats() == [3.0]


async def test_each_session_is_conflated_for_itself(desk: Desk) -> None:
    desk.world.sessions.start("g.1~c", "cleo")
    await desk.watch("ben")

    await desk.move(1.0, settle=False)
    await desk.move(2.0, "cleo", "g.1~c", settle=False)
    await desk.live.step()

    assert sorted(desk.lats()) == [1.0, 2.0]
    assert {told.key for told in desk.told()} == {"live:g.1~a", "live:g.1~c"}


async def test_an_end_is_told_and_nothing_of_the_session_stays(desk: Desk, world: World) -> None:
    await desk.watch("ben")
    await desk.move(1.0)

    await desk.end(reason=EndReason.END_REASON_EXPIRED)

    told = desk.told()[-1]
    assert isinstance(told.event, LiveLocationEndedEvent)
    assert (told.event.session_id, told.event.reason) == ("g.1~a", EndReason.END_REASON_EXPIRED)
    assert told.key == "live:g.1~a"
    assert await world.cache.fields(["live:points:g.1~a"]) == [{}]
    assert await desk.watch("ben") == []
    assert await reason(desk.move(2.0)) == "LIVE_LOCATION_ENDED"


async def test_a_point_that_is_on_its_way_when_the_session_ends_leaves_nothing(desk: Desk, world: World) -> None:
    put_field = world.cache.put_field
    await desk.watch("ben")
    await desk.move(1.0)

    async def end_first(key: str, field: str, value: bytes, ttl_s: float) -> None:
        await desk.end()
        await put_field(key, field, value, ttl_s)

    world.cache.put_field = end_first  # type: ignore[method-assign] # for this one call

    assert await reason(desk.move(2.0)) == "LIVE_LOCATION_ENDED"
    assert await world.cache.fields(["live:points:g.1~a"]) == [{}]
    assert desk.lats() == [1.0]


async def test_a_point_that_the_cache_takes_late_does_not_come_after_a_newer_one(desk: Desk, world: World) -> None:
    put_field = world.cache.put_field
    await desk.watch("ben")
    await desk.move(1.0)

    async def overtaken(key: str, field: str, value: bytes, ttl_s: float) -> None:
        world.cache.put_field = put_field  # type: ignore[method-assign]
        await desk.move(3.0)
        await put_field(key, field, value, ttl_s)

    world.cache.put_field = overtaken  # type: ignore[method-assign] # once
    await desk.move(2.0)
    [view] = await desk.watch("ben")

    assert desk.lats() == [1.0, 3.0]
    assert view.latest.lat == 3.0


async def test_a_successor_tells_those_who_watched_before_it_came(desk: Desk, world: World) -> None:
    await desk.watch("ben")
    await desk.move(1.0)

    successor = Desk(world)
    await successor.move(2.0)
    assert successor.lats() == [1.0, 2.0]
    third = Desk(world)
    await third.end()

    assert third.types()[-1] == "live_location_ended"


async def test_a_successor_goes_on_with_the_trail_where_it_was_left(world: World) -> None:
    settings = LiveSettings(trail_points=3)
    desk = Desk(world, settings)
    for lat in (1.0, 2.0, 3.0, 4.0):
        await desk.move(lat)
        world.clock.advance(1)

    successor = Desk(world, settings)
    await successor.move(5.0)
    [view] = await successor.watch("ben")

    assert [fix.lat for fix in view.trail] == [3.0, 4.0, 5.0]


async def test_the_newest_point_is_shown_for_hours_by_a_successor_too_and_the_trail_for_ten_minutes(
    world: World,
) -> None:
    world.sessions.going_on["g.1~a"].expires_at.FromMilliseconds(world.clock.now_ms() + 8 * 3600 * 1000)
    await Desk(world).move(1.0)
    world.clock.advance(5 * 3600)

    [view] = await Desk(world).watch("ben")

    assert (view.latest.lat, view.stale, list(view.trail)) == (1.0, True, [])


async def test_the_trail_ends_after_ten_minutes_also_where_the_cache_keeps_points_for_longer(
    desk: Desk, world: World
) -> None:
    await desk.move(1.0)
    world.clock.advance(599)
    await desk.move(2.0)
    [before] = await desk.watch("ben")
    world.clock.advance(1)
    [after] = await desk.watch("ben")

    assert [fix.lat for fix in before.trail] == [1.0, 2.0]
    assert [fix.lat for fix in after.trail] == [2.0]


async def test_without_the_cache_points_are_refused_and_sessions_go_on_when_it_is_back(world: World) -> None:
    cache = AwayCache(world.clock)
    world.cache = cache
    desk = Desk(world)
    await desk.watch("ben")
    await desk.move(1.0)

    cache.away = True
    with pytest.raises(Unavailable) as refused:
        await desk.move(2.0)
    [view] = await desk.watch("ben")
    cache.away = False
    await desk.move(3.0)

    assert (refused.value.reason, refused.value.retry_after_s) == ("ENGINE_DOWN", 1.0)
    assert (view.latest.lat, len(view.trail)) == (1.0, 0)
    assert desk.lats() == [1.0, 3.0]


async def test_a_cache_that_hangs_counts_as_away(world: World) -> None:
    desk = Desk(world, LiveSettings(engine_timeout_s=0.01))

    async def hang(*_: object) -> None:
        await asyncio.Event().wait()

    world.cache.put_field = hang  # type: ignore[method-assign, assignment] # for this test

    assert await reason(desk.move(1.0)) == "ENGINE_DOWN"


async def test_an_end_is_told_also_while_the_cache_is_away(world: World) -> None:
    cache = AwayCache(world.clock)
    world.cache = cache
    desk = Desk(world)
    await desk.watch("ben")

    cache.away = True
    await desk.end()

    assert desk.types() == ["live_location_ended"]


async def test_an_opaque_session_relays_ciphertexts_and_takes_no_places(desk: Desk) -> None:
    desk.world.sessions.start("g.1~a", "ann", opaque=True)
    await desk.watch("ben")

    await desk.move(0.0, ciphertext=b"\x00sealed")

    [told] = desk.told()
    assert isinstance(told.event, LiveLocationEvent)
    assert (told.event.ciphertext, told.event.lat, told.event.lng) == (b"\x00sealed", 0.0, 0.0)
    [view] = await desk.watch("ben")
    assert (view.opaque, view.latest.ciphertext, [fix.ciphertext for fix in view.trail]) == (
        True,
        b"\x00sealed",
        [b"\x00sealed"],
    )
    assert await reason(desk.move(1.0)) == "INVALID_REQUEST"
    assert await reason(desk.move(1.0, ciphertext=b"sealed")) == "INVALID_REQUEST"


async def test_a_session_that_is_not_opaque_takes_no_ciphertext(desk: Desk) -> None:
    assert await reason(desk.move(0.0, ciphertext=b"sealed")) == "INVALID_REQUEST"


async def test_the_null_island_is_a_place(desk: Desk) -> None:
    await desk.watch("ben")

    await desk.move(0.0)

    assert desk.lats() == [0.0]


async def test_more_sessions_than_a_process_may_keep_are_refused(world: World) -> None:
    world.sessions.start("g.1~b", "ben")

    assert await reason(Desk(world, LiveSettings(most_shared=1)).move(1.0)) == "OVERLOADED"


async def test_what_another_process_owns_now_is_forgotten(desk: Desk) -> None:
    await desk.watch("ben")
    await desk.move(1.0)

    desk.live.locations.keep_only(lambda conversation_id: conversation_id != "g.1")

    assert not desk.live.locations.concerns("g.1")
    assert len(desk.live._watchers) == 0


async def test_what_ran_out_without_a_word_is_forgotten_after_a_while(desk: Desk) -> None:
    desk.world.sessions.start("g.1~a", "ann", lasts_s=60)
    await desk.move(1.0)

    await desk.wait(61)
    assert desk.live.locations.concerns("g.1")
    await desk.wait(61)

    assert not desk.live.locations.concerns("g.1")


async def test_no_place_is_ever_logged(desk: Desk, world: World, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    cache = AwayCache(world.clock)
    world.cache = cache
    desk = Desk(world)
    world.mesh.edges["edge"].is_down = True
    with structlog.testing.capture_logs() as lines:
        await desk.watch("ben")
        await desk.move(48.858222)
        cache.away = True
        assert await reason(desk.move(48.858222)) == "ENGINE_DOWN"
        await desk.watch("ben")
        await desk.end()
        world.sessions.fails = Unavailable()
        await desk.wait(500)

    assert len(lines) > 3
    assert "48.85" not in str(lines) + caplog.text
