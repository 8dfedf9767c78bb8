"""Distances against the ellipsoid, everywhere."""

import pytest
from geographiclib.geodesic import Geodesic  # type: ignore[import-untyped]
from hypothesis import example, given
from hypothesis import strategies as st

from services.location.distance import METRES_A_MILE, Places, distance_m, distance_miles

LATS = st.floats(-90, 90)
LNGS = st.floats(-180, 180)


def on_the_ellipsoid(lat: float, lng: float, other_lat: float, other_lng: float) -> float:
    return float(Geodesic.WGS84.Inverse(lat, lng, other_lat, other_lng)["s12"])


@given(LATS, LNGS, LATS, LNGS)
@example(90, 0, -90, 0)
@example(90, 17, 90, -120)
@example(-90, 0, -89.999, 180)
@example(12, 180, 12, -180)
@example(0, 179.999, 0, -179.999)
@example(0, 0, 0, 180)
@example(0.5, 0, -0.5, 179.7)
def test_distances_are_those_on_the_ellipsoid_within_six_in_a_thousand(
    lat: float, lng: float, other_lat: float, other_lng: float
) -> None:
    expected = on_the_ellipsoid(lat, lng, other_lat, other_lng)

    assert distance_m(lat, lng, other_lat, other_lng) == pytest.approx(expected, rel=0.006, abs=0.001)


@given(LATS, LNGS, LATS, LNGS)
def test_distances_are_the_same_both_ways_and_in_miles(
    lat: float, lng: float, other_lat: float, other_lng: float
) -> None:
    there = distance_m(lat, lng, other_lat, other_lng)

    assert distance_m(other_lat, other_lng, lat, lng) == pytest.approx(there, abs=1e-3)
    assert distance_miles(lat, lng, other_lat, other_lng) == there / METRES_A_MILE


@given(st.lists(st.tuples(LATS, LNGS, st.floats(0, 100)), min_size=1, max_size=200), LATS, LNGS)
@example([(0.0, 179.99, 5.0), (89.99, 0.0, 100.0), (89.99, 180.0, 5.0)], 0.0, -179.99)
def test_whoever_is_within_the_radius_is_found_among_many_and_nobody_who_is_clearly_not(
    places: list[tuple[float, float, float]], lat: float, lng: float
) -> None:
    found = Places()
    for number, (one_lat, one_lng, radius) in enumerate(places):
        found.put(f"u{number}", one_lat, one_lng, radius)

    near = set(found.near([f"u{number}" for number in range(len(places))], [(lat, lng)]))

    for number, (one_lat, one_lng, radius) in enumerate(places):
        apart_m, radius_m = distance_m(lat, lng, one_lat, one_lng), radius * METRES_A_MILE
        if apart_m <= radius_m:
            assert f"u{number}" in near
        if apart_m > radius_m + 2:
            assert f"u{number}" not in near


def test_numbers_of_users_who_went_are_used_again() -> None:
    places = Places()
    for round_ in range(3):
        for number in range(200):
            places.put(f"{round_}-{number}", number / 10, 0, 5)
        assert places.near([f"{round_}-{number}" for number in range(200)], [(19.9, 0)]) == [f"{round_}-199"]
        for number in range(200):
            places.remove(f"{round_}-{number}")
        assert places.near([f"{round_}-0"], [(0, 0)]) == []

    assert len(places) == 0
    assert len(places._cosines) == 256
