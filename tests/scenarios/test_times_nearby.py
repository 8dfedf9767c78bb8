"""Friends near each other, over minutes, hours and days: with one code on both sets of engines, by a clock that is moved."""

from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta

import httpx
import pytest
from prometheus_client import REGISTRY

from hither_client import HitherClient, Place
from tests.scenarios.test_nearby import CAFE, PARK, SEA, grant, share, two_friends
from tests.support.people import Frame, Line, Person, until
from tests.support.times import Times

pytestmark = pytest.mark.asyncio(loop_scope="module")

_DEGREE_M = 111_195
"""Between two parallels a degree apart."""


async def near(person: Person) -> list[str]:
    """The friends whom the person's list shows."""
    return [one["friend_id"] for one in (await person.get("/nearby-friends"))["friends"]]


def sees(person: Person, friends: list[str]) -> Callable[[], Awaitable[bool]]:
    async def look() -> bool:
        return await near(person) == friends

    return look


async def tells(speaker: Line, place: Frame) -> None:
    """Says where the speaker is; that must be taken."""
    answer = await speaker.ask("location_update", **place)
    assert (answer["type"], answer["shared"]) == ("ok", True), answer


async def test_a_place_that_is_ten_minutes_old_is_shown_to_nobody_and_the_friend_is_told(times: Times) -> None:
    async with times.http as http:
        alice, bob = await two_friends(http)
        async with times.line(alice) as hers, times.line(bob) as his:
            await tells(hers, PARK)
            await tells(his, CAFE)
            await hers.next("friend_location_update", friend_id=bob.user_id)
            await his.next("friend_location_update", friend_id=alice.user_id)
            times.pass_(minutes=9)
            await tells(hers, PARK)
            await his.next("friend_location_update", friend_id=alice.user_id)
            shown = await near(alice)
            times.pass_(minutes=1)
            gone = await hers.next("friend_location_gone", friend_id=bob.user_id)
            hidden = await near(alice)
            await tells(his, CAFE)
            await hers.next("friend_location_update", friend_id=bob.user_id)
    assert (shown, gone["reason"], hidden) == ([bob.user_id], "EXPIRED", [])


async def test_after_hours_without_a_word_nobody_is_left_on_the_map(times: Times) -> None:
    async with times.http as http:
        alice, bob = await two_friends(http)
        async with times.line(alice) as hers, times.line(bob) as his:
            await tells(hers, PARK)
            await tells(his, CAFE)
            await hers.next("friend_location_update", friend_id=bob.user_id)
            await his.next("friend_location_update", friend_id=alice.user_id)
            times.pass_(hours=5)
            for one, friend in ((hers, bob), (his, alice)):
                gone = await one.next("friend_location_gone", friend_id=friend.user_id)
                assert gone["reason"] == "EXPIRED"
        assert (await near(alice), await near(bob)) == ([], [])


@pytest.mark.parametrize("hours", [1, 8, 24 * 7])
async def test_who_shares_for_a_time_is_seen_until_it_is_over_and_then_by_nobody(times: Times, hours: int) -> None:
    async with times.http as http:
        alice, bob = await two_friends(http)
        await share(bob, default_precision="HIDDEN")
        async with times.line(alice) as hers, times.line(bob) as his:
            decided = await grant(bob, alice, "EXACT", duration_s=hours * 3600)
            times.pass_(hours=hours, minutes=-1)
            await tells(hers, PARK)
            await tells(his, CAFE)
            await hers.next("friend_location_update", friend_id=bob.user_id, precision="EXACT")
            times.pass_(minutes=1)
            gone = await hers.next("friend_location_gone", friend_id=bob.user_id)
            await tells(his, CAFE)
            alice = await alice.on("phone-2")
            assert (gone["reason"], await near(alice)) == ("STOPPED", [])
            assert hers.passed_over("friend_location_update") == []
            bob = await bob.on("phone-2")
            await grant(bob, alice, "CITY", duration_s=hours * 3600)
            again = await hers.next("friend_location_update", friend_id=bob.user_id)
    assert decided["expires_at"]
    assert again["precision"] == "CITY"


_WAY: Sequence[tuple[float, float, Frame]] = [
    (0, 0, {}), (30, 3, {}), (60, 72, {}), (30, 300, {}), (5, 100, {}), (5, 100, {"battery_percent": 15}),
    (10, 0, {}), (60, 0, {"metered": True}), (120, 0, {"speed_mps": 25.0}),
]  # fmt: skip
"""After how many seconds, after how many metres, and what the device says of itself."""


async def test_the_next_update_is_wanted_the_sooner_the_faster_the_device_moves(times: Times) -> None:
    async with times.http as http:
        alice, _ = await two_friends(http)
    async with times.line(alice) as hers:
        lat, wanted = PARK["lat"], []
        for after_s, moved_m, says in _WAY:
            times.pass_(seconds=after_s)
            lat += moved_m / _DEGREE_M
            answer = await hers.ask("location_update", lat=lat, lng=PARK["lng"], **says)
            wanted.append((answer["next_update_s"], answer["min_move_m"]))
    assert wanted == [(seconds, 50) for seconds in (30, 60, 30, 5, 5, 10, 60, 120, 5)]


async def test_the_client_tells_when_it_is_asked_to(times: Times) -> None:
    async with times.http as http:
        alice, _ = await two_friends(http)
    slept: list[float] = []
    on_the_way = iter([0, 60, 360, 460, 560, 620])

    async def where() -> Place | None:
        moved_m = next(on_the_way, None)
        return None if moved_m is None else Place(PARK["lat"] + moved_m / _DEGREE_M, PARK["lng"])

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        times.pass_(seconds=seconds)

    async with HitherClient(times.url, alice.token, sleep=sleep) as client:
        await client.share_location(where)
    assert slept == [30, 30, 5, 5, 5, 5]


async def test_places_of_another_time_are_refused(times: Times) -> None:
    async with times.http as http:
        alice, _ = await two_friends(http)
    async with times.line(alice) as hers:
        times.pass_(days=2)

        async def say(offset_s: int) -> tuple[str, str]:
            at = times.now() + timedelta(seconds=offset_s)
            answer = await hers.ask("location_update", **PARK, timestamp=at.isoformat())
            return answer["type"], answer.get("reason", "")

        refused = ("error", "FIX_OUT_OF_TIME")
        assert [await say(offset_s) for offset_s in (-605, -590, 50, 65)] == [refused, ("ok", ""), ("ok", ""), refused]
        await tells(hers, PARK)


async def test_nobody_is_believed_to_travel_faster_than_people_do(times: Times) -> None:
    async with times.http as http:
        alice, _ = await two_friends(http)
    async with times.line(alice) as hers:
        await tells(hers, PARK)
        too_soon = []
        for _ in range(2):
            too_soon.append((await hers.ask("location_update", **SEA)).get("reason"))
            times.pass_(minutes=7)
        times.pass_(minutes=7)
        await tells(hers, SEA)
    assert too_soon == ["IMPLAUSIBLE_MOVE"] * 2


def put_back() -> float:
    """How many places the cache has got back from the history so far."""
    return REGISTRY.get_sample_value("hither_location_put_back_total") or 0.0


async def test_a_lost_cache_of_places_is_filled_from_the_history_of_ten_minutes_and_no_more(times: Times) -> None:
    async with times.http as http:
        alice, bob = await two_friends(http)
        async with times.line(alice) as hers, times.line(bob) as his:
            await tells(his, CAFE)
            times.pass_(minutes=9)
            await tells(hers, PARK)
            await until(is_kept(times, alice, 1))
        before = put_back()
        await times.lose_cache()
    async with times.http as http:
        alice, bob = on(http, alice), on(http, bob)
        await until(sees(alice, [bob.user_id]))
        assert put_back() > before
        async with times.line(alice) as hers:
            await hers.next("friend_location_update", friend_id=bob.user_id)
            times.pass_(minutes=1)
            gone = await hers.next("friend_location_gone", friend_id=bob.user_id)
        await times.lose_cache()
    async with times.http as http:
        alice = on(http, alice)
        async with times.line(alice) as hers:
            await tells(hers, PARK)
            assert await near(alice) == []
    assert gone["reason"] == "EXPIRED"


def on(http: httpx.AsyncClient, person: Person) -> Person:
    """The same person, asking by this client."""
    return Person(person.user_id, person.token, http)


async def test_who_was_shown_a_place_stands_in_its_owners_log_for_thirty_days(times: Times) -> None:
    async with times.http as http:
        alice, bob = await two_friends(http)
        async with times.line(alice) as hers, times.line(bob) as his:
            await tells(hers, PARK)
            await tells(his, CAFE)
            await hers.next("friend_location_update")

        async def viewers() -> list[str]:
            return [one["viewer_id"] for one in (await bob.get("/location-views"))["views"]]

        async def is_logged() -> bool:
            return await viewers() == [alice.user_id]

        await until(is_logged)
        times.pass_(days=29, hours=23)
        bob = await bob.on("phone")
        after_29_days = await viewers()
        times.pass_(hours=1, minutes=5)
        assert (after_29_days, await viewers()) == ([alice.user_id], [])


def is_kept(times: Times, person: Person, count: int) -> Callable[[], Awaitable[bool]]:
    """Whether the history has so many places of the person."""

    async def look() -> bool:
        return len(await times.places(person.user_id)) == count

    return look


async def test_the_history_keeps_what_is_worth_it_for_seven_days(times: Times) -> None:
    async with times.http as http:
        alice, _ = await two_friends(http)
    async with times.line(alice) as hers:
        for after, moved_m in ((0, 0), (60, 10), (60, 10), (200, 10), (60, 80), (5, 90)):
            times.pass_(seconds=after)
            await tells(hers, {**PARK, "lat": PARK["lat"] + moved_m / _DEGREE_M})
    await until(is_kept(times, alice, 3))
    rows = await times.places(alice.user_id)
    times.pass_(days=6, hours=23)
    assert await times.places(alice.user_id) == rows
    times.pass_(hours=2)
    assert await times.places(alice.user_id) == []
    assert [round((row.lat - PARK["lat"]) * _DEGREE_M) for row in rows] == [0, 10, 80]
