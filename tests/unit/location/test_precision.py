"""What is shown of a place that is not to be known exactly, and what can be made of it."""

import math
import random

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from services.location.distance import EARTH_RADIUS_M, METRES_A_MILE, Floats, distance_m, distance_miles
from services.location.precision import SLOT_MS, Fix, coarse, snapped
from services.ports.privacy_store import Precision

LATS = st.floats(-90, 90)
LNGS = st.floats(-180, 180)
COARSE = st.sampled_from([Precision.KILOMETRE, Precision.CITY])
CELL_M = {Precision.KILOMETRE: 1_000.0, Precision.CITY: 20_000.0}
NOW_MS = 1_790_000_123_456


@given(LATS, LNGS, COARSE)
@example(90, 0, Precision.CITY)
@example(-90, 180, Precision.KILOMETRE)
@example(89.9999, -180, Precision.KILOMETRE)
def test_the_middle_is_never_farther_than_a_cell_and_is_its_own_middle(
    lat: float, lng: float, precision: Precision
) -> None:
    shown = snapped(Fix(lat, lng, NOW_MS), precision)

    assert distance_m(lat, lng, shown.lat, shown.lng) < CELL_M[precision]
    assert snapped(Fix(shown.lat, shown.lng, NOW_MS), precision) == shown


@given(LATS, LNGS, COARSE)
def test_many_places_share_a_cell(lat: float, lng: float, precision: Precision) -> None:
    shown = snapped(Fix(lat, lng, NOW_MS), precision)
    quarter = math.degrees(CELL_M[precision] / 4 / EARTH_RADIUS_M)
    if abs(shown.lat) + quarter > 89.9:
        return
    across = quarter / math.cos(math.radians(shown.lat))

    for up, right in ((1, 0), (-1, 0), (0, 1), (0, -1)):
        beside = Fix(shown.lat + up * quarter, (shown.lng + right * across + 180) % 360 - 180, NOW_MS + 1000)
        assert snapped(beside, precision) == shown


def test_180_degrees_are_no_seam() -> None:
    for precision in CELL_M:
        assert snapped(Fix(10, 180, NOW_MS), precision) == snapped(Fix(10, -180, NOW_MS), precision)


@given(st.floats(-80, 80), LNGS, COARSE, st.integers(0, 1 << 30))
@settings(max_examples=60, deadline=None)
def test_asking_from_many_places_finds_no_more_than_the_cell(
    lat: float, lng: float, precision: Precision, seed: int
) -> None:
    """A trilateration: the attacker stands in 200 places, learns each time the distance and whether it is within the radius, and
    looks for the place that fits best. What fits is the middle of the cell, so the guess is as far off as that.
    """
    choose = random.Random(seed)
    shown = snapped(Fix(lat, lng, NOW_MS), precision)
    stands = [_beside(shown, choose, 3 * CELL_M[precision]) for _ in range(200)]
    told = np.array([distance_miles(*stand, shown.lat, shown.lng) for stand in stands]) * METRES_A_MILE

    guess = _best_fit(stands, told)

    assert distance_m(*guess, shown.lat, shown.lng) < CELL_M[precision] / 100
    off_m = distance_m(*guess, lat, lng)
    assert off_m == pytest.approx(distance_m(lat, lng, shown.lat, shown.lng), abs=CELL_M[precision] / 50)


@given(LATS, LNGS, COARSE, st.integers(0, 1 << 30))
def test_nothing_that_is_shown_depends_on_where_in_the_cell_or_when_in_the_slot(
    lat: float, lng: float, precision: Precision, seed: int
) -> None:
    choose = random.Random(seed)
    shown = snapped(Fix(lat, lng, NOW_MS), precision)
    for _ in range(20):
        there = _beside(shown, choose, CELL_M[precision] / 2.5)
        when_ms = NOW_MS // SLOT_MS * SLOT_MS + choose.randrange(SLOT_MS)
        if snapped(Fix(*there, NOW_MS), precision) == shown:
            assert snapped(Fix(*there, when_ms, accuracy_m=12.5), precision) == shown


def test_the_first_fix_of_ten_minutes_is_what_counts_for_them() -> None:
    first, later, next_slot = Fix(1, 1, SLOT_MS), Fix(2, 2, 2 * SLOT_MS - 1), Fix(3, 3, 2 * SLOT_MS)

    assert coarse(None, first) == first
    assert coarse(first, later) == first
    assert coarse(first, next_slot) == next_slot


def test_an_exact_place_is_shown_as_it_was_reported() -> None:
    fix = Fix(52.5, 13.4, NOW_MS, 7.5)

    assert snapped(fix, Precision.EXACT) is fix


def _beside(shown: Fix, choose: random.Random, most_m: float) -> tuple[float, float]:
    up_m, right_m = choose.uniform(-most_m, most_m), choose.uniform(-most_m, most_m)
    lat = shown.lat + math.degrees(up_m / EARTH_RADIUS_M)
    lng = shown.lng + math.degrees(right_m / EARTH_RADIUS_M / math.cos(math.radians(shown.lat)))
    return lat, (lng + 180) % 360 - 180


def _best_fit(stands: list[tuple[float, float]], told_m: Floats) -> tuple[float, float]:
    """Where the distances say that somebody is: least squares, by Gauss and Newton, in the plane around the first stand."""
    lat0, lng0 = stands[0]
    scale = math.cos(math.radians(lat0))
    places = np.array(
        [(math.radians(lat - lat0), math.radians((lng - lng0 + 180) % 360 - 180) * scale) for lat, lng in stands]
    )
    guess = places.mean(axis=0)
    for _ in range(50):
        at = lat0 + math.degrees(guess[0]), lng0 + math.degrees(guess[1]) / scale
        now = np.array([distance_m(*stand, *at) for stand in stands])
        slope = (guess - places) * EARTH_RADIUS_M**2 / np.maximum(now, 1e-6)[:, None]
        step, *_rest = np.linalg.lstsq(slope, told_m - now, rcond=None)
        guess = guess + step
    return lat0 + math.degrees(guess[0]), lng0 + math.degrees(guess[1]) / scale
