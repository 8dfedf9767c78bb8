"""The promises of LocationHistory, over every adapter."""

import pytest

from discovery.errors import InvalidArgument, Unavailable
from services.ports.location_history import KEPT_MS, MOST_FIXES, FixRow, LocationHistory
from tests.conformance.conftest import HistoryRig

HOUR_MS = 3600 * 1000
DAY_MS = 24 * HOUR_MS
FOREVER_MS = 1 << 60


@pytest.fixture
def now_ms(history_rig: HistoryRig) -> int:
    return history_rig.clock.now_ms()


def fix(time_ms: int, user_id: str = "ann", lat: float = 48.2) -> FixRow:
    return FixRow(user_id, time_ms, lat, 16.37, 12.5)


async def test_what_was_appended_is_read_newest_first(history: LocationHistory, now_ms: int) -> None:
    fixes = [fix(now_ms - age, lat=float(number)) for number, age in enumerate((3000, 1000, 2000))]

    await history.append(fixes)

    assert await history.read("ann", 0, FOREVER_MS, 10) == [fixes[1], fixes[2], fixes[0]]


async def test_a_history_reaches_over_days_and_is_read_in_parts(history: LocationHistory, now_ms: int) -> None:
    fixes = [fix(now_ms - age * DAY_MS // 2) for age in range(13)]
    await history.append(fixes)

    first = await history.read("ann", 0, FOREVER_MS, 5)
    second = await history.read("ann", 0, first[-1].time_ms, 20)

    assert [*first, *second] == fixes


async def test_bounds_are_not_among_what_is_read(history: LocationHistory, now_ms: int) -> None:
    fixes = [fix(now_ms - age) for age in (1, 2, 3)]
    await history.append(fixes)

    assert await history.read("ann", now_ms - 3, now_ms - 1, 10) == [fixes[1]]
    assert await history.read("ann", now_ms - 3, now_ms - 1, 0) == []


async def test_users_have_histories_of_their_own(history: LocationHistory, now_ms: int) -> None:
    await history.append([fix(now_ms, "ann"), fix(now_ms, "bob", lat=1.0)])

    assert await history.read("bob", 0, FOREVER_MS, 10) == [fix(now_ms, "bob", lat=1.0)]
    assert await history.read("eve", 0, FOREVER_MS, 10) == []


async def test_appending_again_changes_nothing_and_another_fix_of_that_time_replaces_it(
    history: LocationHistory, now_ms: int
) -> None:
    for lat in (1.0, 1.0, 2.0):
        await history.append([fix(now_ms, lat=lat)])

    assert await history.read("ann", 0, FOREVER_MS, 10) == [fix(now_ms, lat=2.0)]


async def test_the_latest_fixes_of_many_users(history: LocationHistory, now_ms: int) -> None:
    users = [f"user{number}" for number in range(100)]
    await history.append([fix(now_ms - age, user) for user in users for age in (1000, 2000)])
    await history.append([fix(now_ms - 10 * 60_000, "late"), fix(now_ms - 20 * HOUR_MS, "yesterday")])

    found = await history.latest([*users, "late", "yesterday", "nobody"], now_ms - 10 * 60_000)
    of_a_day = await history.latest(["yesterday", "yesterday"], now_ms - DAY_MS + 60_000)

    assert found == {user: fix(now_ms - 1000, user) for user in users} | {"late": fix(now_ms - 10 * 60_000, "late")}
    assert of_a_day == {"yesterday": fix(now_ms - 20 * HOUR_MS, "yesterday")}
    assert await history.latest([], now_ms) == {}


async def test_a_fix_runs_out_seven_days_after_its_time(
    history: LocationHistory, history_rig: HistoryRig, now_ms: int
) -> None:
    await history.append([fix(now_ms - KEPT_MS + 2500), fix(now_ms)])
    before = await history.read("ann", 0, FOREVER_MS, 10)

    await history_rig.pass_time(3)

    assert before == [fix(now_ms), fix(now_ms - KEPT_MS + 2500)]
    assert await history.read("ann", 0, FOREVER_MS, 10) == [fix(now_ms)]


async def test_a_fix_that_is_too_old_is_not_kept(history: LocationHistory, now_ms: int) -> None:
    await history.append([fix(now_ms - KEPT_MS - 1)])

    assert await history.read("ann", 0, FOREVER_MS, 10) == []


async def test_a_user_is_forgotten_and_the_others_are_not(history: LocationHistory, now_ms: int) -> None:
    await history.append([fix(now_ms - age * DAY_MS, user) for age in range(7) for user in ("ann", "bob")])

    await history.forget("ann")

    assert await history.read("ann", 0, FOREVER_MS, 10) == []
    assert len(await history.read("bob", 0, FOREVER_MS, 10)) == 7


async def test_a_history_outlives_who_wrote_it(history_rig: HistoryRig, now_ms: int) -> None:
    first = await history_rig.open()
    await first.append([fix(now_ms)])

    second = await history_rig.reopen(first)

    assert await second.read("ann", 0, FOREVER_MS, 10) == [fix(now_ms)]


async def test_too_much_at_once_is_refused(history: LocationHistory, now_ms: int) -> None:
    with pytest.raises(InvalidArgument):
        await history.append([fix(now_ms - age) for age in range(MOST_FIXES + 1)])
    with pytest.raises(InvalidArgument):
        await history.latest([f"user{number}" for number in range(MOST_FIXES + 1)], now_ms)
    with pytest.raises(InvalidArgument):
        await history.read("ann", 0, FOREVER_MS, MOST_FIXES + 1)


async def test_a_closed_history_is_unavailable(history: LocationHistory, now_ms: int) -> None:
    await history.close()

    with pytest.raises(Unavailable):
        await history.append([fix(now_ms)])
