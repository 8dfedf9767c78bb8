"""Where somebody is for a quarter of an hour, or a day: live locations to the end of their time, by a clock that is moved."""

from collections.abc import Sequence

import pytest

from tests.scenarios.test_live_location import QUARTER_S, a_group, move, said, start, watch
from tests.support.people import Frame, Line, Person, sign_up, until
from tests.support.times import Times

pytestmark = pytest.mark.asyncio(loop_scope="module")

HOUR_S = 3600


async def some(times: Times, *names: str) -> tuple[list[Person], str]:
    """People, and a conversation of theirs."""
    async with times.http as http:
        people = [await sign_up(http, name) for name in names]
        return people, await a_group(people[0], people[1:])


async def spoken(one: Line, conversation_id: str) -> list[tuple[str, str]]:
    """What stands in the conversation about live locations: by whom, and what."""
    return said(await one.ask("history", conversation_id=conversation_id, limit=50))


def lats(points: Sequence[Frame]) -> list[float]:
    return [point["lat"] for point in points]


@pytest.mark.parametrize("duration_s", [QUARTER_S, HOUR_S, 8 * HOUR_S, 24 * HOUR_S])
async def test_it_ends_by_itself_at_its_time_and_the_conversation_is_told(times: Times, duration_s: int) -> None:
    (alice, bob), conversation_id = await some(times, "alice", "bob")
    async with times.line(alice) as hers, times.line(bob) as his:
        session_id = await start(hers, conversation_id, duration_s)
        await watch(his, conversation_id)
        await his.next("message")
        times.pass_(seconds=duration_s - 60)
        assert (await move(hers, session_id, 1.0))["type"] == "ok"
        assert (await his.next("live_location"))["lat"] == 1.0
        times.pass_(seconds=60)
        ended = await his.next("live_location_ended")
        refused = await move(hers, session_id, 2.0)
        await his.next("message")
        assert await spoken(his, conversation_id) == [(alice.user_id, "started"), (alice.user_id, "ended")]
        assert await watch(his, conversation_id) == []
    assert (ended["session_id"], ended["reason"]) == (session_id, "EXPIRED")
    assert (refused["code"], refused["reason"]) == ("FAILED_PRECONDITION", "LIVE_LOCATION_ENDED")


async def test_more_than_a_day_is_refused_and_so_is_going_on_for_more(times: Times) -> None:
    (alice, _), conversation_id = await some(times, "alice", "bob")
    async with times.line(alice) as hers:
        too_long = await hers.ask(
            "start_live_location", conversation_id=conversation_id, duration_s=24 * HOUR_S + 1, request_id="once"
        )
        session_id = await start(hers, conversation_id, QUARTER_S)
        too_much = await hers.ask("renew_live_location", session_id=session_id, duration_s=24 * HOUR_S + 1)
    for refused in (too_long, too_much):
        assert (refused["type"], refused["code"]) == ("error", "INVALID_ARGUMENT")


async def test_it_goes_on_for_as_long_as_it_is_renewed_and_cannot_be_once_it_is_over(times: Times) -> None:
    (alice, bob), conversation_id = await some(times, "alice", "bob")
    async with times.line(alice) as hers, times.line(bob) as his:
        session_id = await start(hers, conversation_id, QUARTER_S)
        await watch(his, conversation_id)
        for lat in range(8):
            times.pass_(minutes=14)
            assert (await move(hers, session_id, lat))["type"] == "ok"
            assert (await his.next("live_location"))["lat"] == lat
            renewed = await hers.ask("renew_live_location", session_id=session_id, duration_s=QUARTER_S)
            assert renewed["type"] == "live_location_renewed"
        [view] = await watch(his, conversation_id)
        assert view["expires_at"] == renewed["expires_at"]
        assert his.passed_over("live_location_ended") == []
        times.pass_(minutes=15)
        assert (await his.next("live_location_ended"))["reason"] == "EXPIRED"
        late = await hers.ask("renew_live_location", session_id=session_id, duration_s=QUARTER_S)
    assert (late["code"], late["reason"]) == ("FAILED_PRECONDITION", "LIVE_LOCATION_ENDED")


async def test_half_a_minute_of_silence_is_told_and_the_next_point_heals_it(times: Times) -> None:
    (alice, bob), conversation_id = await some(times, "alice", "bob")
    async with times.line(alice) as hers, times.line(bob) as his:
        session_id = await start(hers, conversation_id, HOUR_S)
        await watch(his, conversation_id)
        for lat in (1.0, 2.0):
            await move(hers, session_id, lat)
            point = await his.next("live_location", lat=lat)
            times.pass_(seconds=25)
            [before] = await watch(his, conversation_id)
            assert his.passed_over("live_location_stale") == []
            times.pass_(seconds=5)
            [after] = await watch(his, conversation_id)
            stale = await his.next("live_location_stale")
            assert (before.get("stale", False), after["stale"]) == (False, True)
            assert (stale["session_id"], stale["last_seen"]) == (session_id, point["timestamp"])
        await move(hers, session_id, 3.0)
        await his.next("live_location", lat=3.0)
        [view] = await watch(his, conversation_id)
    assert (view.get("stale", False), view["latest"]["lat"]) == (False, 3.0)


async def test_the_trail_is_of_the_last_ten_minutes(times: Times) -> None:
    (alice, bob), conversation_id = await some(times, "alice", "bob")
    async with times.line(alice) as hers, times.line(bob) as his:
        session_id = await start(hers, conversation_id, 8 * HOUR_S)
        for minute in range(1, 16):
            times.pass_(minutes=1)
            await move(hers, session_id, minute)
        times.pass_(seconds=30)
        [view] = await watch(his, conversation_id)
        times.pass_(minutes=5)
        [later] = await watch(his, conversation_id)
        times.pass_(hours=6)
        [at_last] = await watch(his, conversation_id)
    assert lats(view["trail"]) == list(range(6, 16))
    assert lats(later["trail"]) == list(range(11, 16))
    assert (at_last.get("trail", []), at_last["latest"]["lat"]) == ([], 15)


async def test_the_trail_has_a_hundred_points_at_most_and_they_are_the_newest(times: Times) -> None:
    (alice, bob), conversation_id = await some(times, "alice", "bob")
    async with times.line(alice) as hers, times.line(bob) as his:
        session_id = await start(hers, conversation_id, HOUR_S)
        for number in range(130):
            times.pass_(seconds=2)
            await move(hers, session_id, number / 2)
        [view] = await watch(his, conversation_id)
    assert lats(view["trail"]) == [number / 2 for number in range(30, 130)]


async def test_who_comes_hours_late_gets_the_newest_point_and_how_old_it_is(times: Times) -> None:
    (alice, _, carol), conversation_id = await some(times, "alice", "bob", "carol")
    async with times.line(alice) as hers:
        session_id = await start(hers, conversation_id, 8 * HOUR_S)
        await move(hers, session_id, 1.0)
        times.pass_(hours=2)
        await move(hers, session_id, 2.0)
        sent_at = times.now()
    times.pass_(hours=5)
    async with times.line(carol) as carols, times.line(alice) as hers:
        [view] = await watch(carols, conversation_id)
        await move(hers, session_id, 3.0)
        live = await carols.next("live_location")
    assert (view["latest"]["lat"], view["stale"], view.get("trail", [])) == (2.0, True, [])
    assert view["latest"]["timestamp"][:19] <= sent_at.isoformat()[:19]
    assert (live["session_id"], live["lat"]) == (session_id, 3.0)


async def test_what_a_sharer_who_is_away_shared_ends_for_all_each_at_its_own_time(times: Times) -> None:
    (alice, bob, carol), conversation_id = await some(times, "alice", "bob", "carol")
    async with times.line(bob) as his, times.line(carol) as carols:
        async with times.line(alice) as hers:
            of_alice = await start(hers, conversation_id, HOUR_S)
            await move(hers, of_alice, 1.0)
        of_bob = await start(his, conversation_id, 8 * HOUR_S)
        for one in (his, carols):
            assert len(await watch(one, conversation_id)) == 2
        times.pass_(hours=1)
        for one in (his, carols):
            ended = await one.next("live_location_ended")
            assert (ended["session_id"], ended["reason"]) == (of_alice, "EXPIRED")
        [left] = await watch(carols, conversation_id)
        assert left["session_id"] == of_bob
        times.pass_(hours=7)
        assert (await carols.next("live_location_ended"))["session_id"] == of_bob
    times.pass_(hours=3)
    async with times.line(alice) as hers:
        assert await watch(hers, conversation_id) == []
        heard = await spoken(hers, conversation_id)
    assert sorted(heard) == sorted((one.user_id, event) for one in (alice, bob) for event in ("started", "ended"))


async def test_of_points_one_a_minute_is_kept_for_audit_and_none_of_what_is_sealed(times: Times) -> None:
    (alice, bob), conversation_id = await some(times, "alice", "bob")
    async with times.line(alice) as hers, times.line(bob) as his:
        session_id, sealed = await start(hers, conversation_id), await start(his, conversation_id, opaque=True)
        for number in range(10):
            await move(hers, session_id, number)
            await his.ask("live_location_update", session_id=sealed, ciphertext="c2VhbGVk")
            times.pass_(seconds=25)

    async def is_kept() -> bool:
        return len(await times.places(session_id)) == 4

    await until(is_kept)
    assert [row.lat for row in await times.places(session_id)] == [0, 3, 6, 9]
    assert await times.places(sealed) == []
    times.pass_(days=7)
    assert await times.places(session_id) == []
