"""Distances against the ellipsoid, everywhere."""

import pytest
from geographiclib.geodesic import Geodesic  # type: ignore[import-untyped]
from hypothesis import example, given
from hypothesis import strategies as st

from services.location.distance import METRES_A_MILE, SPOTS, Places, distance_m, distance_miles

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


@given(st.lists(st.tuples(LATS, LNGS, st.floats(0, 100)), min_size=1, max_size=200), LATS, LNGS, st.integers(0, 2))
@example([(0.0, 179.99, 5.0), (89.99, 0.0, 100.0), (89.99, 180.0, 5.0)], 0.0, -179.99, 0)
def test_whoever_looks_as_far_as_a_spot_of_a_user_is_found_among_many_and_nobody_who_clearly_does_not(
    places: list[tuple[float, float, float]], lat: float, lng: float, spot: int
) -> None:
    found = Places()
    for number, (one_lat, one_lng, radius) in enumerate(places):
        found.put(f"u{number}", [(one_lat, one_lng)] * SPOTS, radius)
    spots = [(-lat, -lng)] * SPOTS
    spots[spot] = lat, lng
    found.put("me", spots, 5)
    others = found.numbers_of(f"u{number}" for number in range(len(places)))

    near = set(found.seeing("me", others))

    for number, (one_lat, one_lng, radius) in enumerate(places):
        apart_m, radius_m = min(distance_m(*one, one_lat, one_lng) for one in spots), radius * METRES_A_MILE
        if apart_m <= radius_m:
            assert number in near
        if apart_m > radius_m + 2:
            assert number not in near


@given(st.lists(st.tuples(LATS, LNGS), min_size=1, max_size=200), LATS, LNGS, st.floats(0, 100), st.integers(0, 2))
@example([(0.0, 179.99), (89.99, 0.0), (89.99, 180.0)], 0.0, -179.99, 5.0, 2)
def test_whoever_has_a_spot_where_a_user_looks_is_found_among_many_and_nobody_who_clearly_has_not(
    places: list[tuple[float, float]], lat: float, lng: float, radius: float, spot: int
) -> None:
    found = Places()
    for number, (one_lat, one_lng) in enumerate(places):
        spots = [(-one_lat, -one_lng)] * SPOTS
        spots[spot] = one_lat, one_lng
        found.put(f"u{number}", spots, 5)
    found.put("me", [(lat, lng)] * SPOTS, radius)
    others = found.numbers_of(f"u{number}" for number in range(len(places)))

    near = set(found.seen("me", others))

    for number, (one_lat, one_lng) in enumerate(places):
        both = (one_lat, one_lng), (-one_lat, -one_lng)
        apart_m, radius_m = min(distance_m(*one, lat, lng) for one in both), radius * METRES_A_MILE
        if apart_m <= radius_m:
            assert number in near
        if apart_m > radius_m + 2:
            assert number not in near


def test_numbers_of_users_who_are_forgotten_are_used_again() -> None:
    places = Places()
    for round_ in range(3):
        users = [f"{round_}-{number}" for number in range(200)]
        for number, user_id in enumerate(users):
            places.put(user_id, [(number / 10, 0)] * SPOTS, 5)
        assert places.seen(users[-1], places.numbers_of(users)) == [199]
        for user_id in users:
            places.forget(user_id)

    assert len(places) == 0
    assert len(places._cosines) == 256


def test_a_user_without_a_place_sees_nobody_and_is_not_seen() -> None:
    places = Places()
    for user_id in ("ann", "bob"):
        places.put(user_id, [(1.0, 2.0)] * SPOTS, 5)
    places.remove("bob")
    both = places.numbers_of(["ann", "bob"])

    assert places.seeing("ann", both) == places.seen("ann", both) == [0]
    assert places.seen("bob", both) == places.seeing("bob", both) == []
