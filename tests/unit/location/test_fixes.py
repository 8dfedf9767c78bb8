"""Which fixes are taken and kept, and how often the next ones are wanted."""

import pytest

from services.location.plausibility import FixOutOfTime, ImplausibleMove, check, is_live
from services.location.policy import Hints, Intervals, Wanted, is_worth_keeping, wanted
from services.location.precision import Fix

NOW_MS = 1_790_000_000_000
BERLIN = Fix(52.52, 13.405, NOW_MS)


def later(seconds: float, lat: float = BERLIN.lat, accuracy_m: float = 0.0) -> Fix:
    return Fix(lat, BERLIN.lng, NOW_MS + round(seconds * 1000), accuracy_m)


@pytest.mark.parametrize("seconds", [-600.001, 60.001])
def test_a_fix_of_another_time_is_refused(seconds: float) -> None:
    with pytest.raises(FixOutOfTime) as refused:
        check(later(seconds), None, NOW_MS)

    assert refused.value.reason == "FIX_OUT_OF_TIME"
    assert [violation.field for violation in refused.value.violations] == ["timestamp"]


@pytest.mark.parametrize("seconds", [-600, 0, 60])
def test_a_fix_of_about_now_is_taken(seconds: float) -> None:
    check(later(seconds), None, NOW_MS)


@pytest.mark.parametrize(
    ("seconds", "degrees_north", "accuracy_m"), [(60, 0.16, 0), (0, 0.004, 0), (-60, 0.16, 0), (60, 1.0, 90_000)]
)
def test_nobody_travels_faster_than_a_thousand_kilometres_an_hour(
    seconds: float, degrees_north: float, accuracy_m: float
) -> None:
    with pytest.raises(ImplausibleMove) as refused:
        check(later(seconds, BERLIN.lat + degrees_north, accuracy_m), BERLIN, NOW_MS)

    assert refused.value.reason == "IMPLAUSIBLE_MOVE"


@pytest.mark.parametrize(
    ("seconds", "degrees_north", "accuracy_m"), [(60, 0.14, 0), (0, 0.002, 0), (0, 0.9, 100_000), (600, 1.4, 0)]
)
def test_a_move_that_an_aeroplane_makes_or_that_the_accuracy_explains_is_taken(
    seconds: float, degrees_north: float, accuracy_m: float
) -> None:
    check(later(seconds, BERLIN.lat + degrees_north, accuracy_m), BERLIN, NOW_MS + round(seconds * 1000))


def test_a_fix_is_live_for_ten_minutes() -> None:
    assert is_live(BERLIN, NOW_MS + 599_999)
    assert not is_live(BERLIN, NOW_MS + 600_000)


@pytest.mark.parametrize(
    ("hints", "seconds"),
    [
        (Hints(), 30),
        (Hints(speed_mps=25), 5),
        (Hints(speed_mps=1.4), 30),
        (Hints(speed_mps=0), 60),
        (Hints(speed_mps=25, battery_percent=19), 10),
        (Hints(speed_mps=25, battery_percent=20), 5),
        (Hints(speed_mps=0, is_metered=True), 120),
        (Hints(battery_percent=5, is_metered=True), 60),
    ],
)
def test_updates_are_wanted_as_often_as_the_device_moves_and_can_afford(hints: Hints, seconds: int) -> None:
    assert wanted(BERLIN, None, hints, Intervals()) == Wanted(seconds, 50)


@pytest.mark.parametrize(
    ("degrees_north", "accuracy_m", "seconds"), [(0, 0, 60), (0.0005, 0, 30), (0.01, 0, 5), (0.0005, 60, 60)]
)
def test_two_fixes_tell_the_speed_of_a_device_that_does_not(
    degrees_north: float, accuracy_m: float, seconds: int
) -> None:
    fix = later(60, BERLIN.lat + degrees_north, accuracy_m)

    assert wanted(fix, BERLIN, Hints(), Intervals()).next_update_s == seconds


def test_history_keeps_moves_and_a_sign_of_life() -> None:
    assert is_worth_keeping(BERLIN, None, 50, 300_000)
    assert not is_worth_keeping(later(299, BERLIN.lat + 0.0004), BERLIN, 50, 300_000)
    assert is_worth_keeping(later(1, BERLIN.lat + 0.0005), BERLIN, 50, 300_000)
    assert is_worth_keeping(later(300), BERLIN, 50, 300_000)
