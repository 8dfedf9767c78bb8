"""Distances on the Earth, taken for a sphere: at most 0.6 % off. Pure.

What asks for one distance calls distance_m; what asks who of many is near keeps their places in Places, as vectors of length 1,
whose product is the cosine of the angle between them: no trigonometry for each, no seam at 180 degrees, no special poles.
"""

from collections.abc import Sequence
from math import asin, cos, pi, radians, sin, sqrt

import numpy as np
from numpy.typing import NDArray

EARTH_RADIUS_M = 6_371_008.8
"""The mean radius of the Earth."""
METRES_A_MILE = 1_609.344
_LEAST_PLACES = 64

Floats = NDArray[np.float64]


def distance_m(lat: float, lng: float, other_lat: float, other_lng: float) -> float:
    """The great-circle distance of two places in degrees, by haversine."""
    phi, other_phi = radians(lat), radians(other_lat)
    half_up, half_across = (other_phi - phi) / 2, radians(other_lng - lng) / 2
    square = sin(half_up) ** 2 + cos(phi) * cos(other_phi) * sin(half_across) ** 2
    return 2 * EARTH_RADIUS_M * asin(sqrt(min(1.0, square)))


def distance_miles(lat: float, lng: float, other_lat: float, other_lng: float) -> float:
    """As distance_m."""
    return distance_m(lat, lng, other_lat, other_lng) / METRES_A_MILE


class Places:
    """Places of users and how far each looks, by a small number for each user; numbers of users who went are used again."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}
        self._free: list[int] = []
        self._vectors: Floats = np.zeros((_LEAST_PLACES, 3))
        self._cosines: Floats = np.zeros(_LEAST_PLACES)

    def __len__(self) -> int:
        return len(self._numbers)

    def __contains__(self, user_id: object) -> bool:
        return user_id in self._numbers

    def put(self, user_id: str, lat: float, lng: float, radius_miles: float) -> None:
        """The user is there and looks so far."""
        number = self._numbers.get(user_id)
        if number is None:
            number = self._free.pop() if self._free else len(self._numbers)
            self._numbers[user_id] = number
            if number >= len(self._cosines):
                self._vectors = np.concatenate((self._vectors, np.zeros_like(self._vectors)))
                self._cosines = np.concatenate((self._cosines, np.zeros_like(self._cosines)))
        self._vectors[number] = _vector(lat, lng)
        self._cosines[number] = _cosine_of(radius_miles * METRES_A_MILE)

    def remove(self, user_id: str) -> None:
        """The user has no place."""
        number = self._numbers.pop(user_id, None)
        if number is not None:
            self._free.append(number)

    def near(self, user_ids: Sequence[str], places: Sequence[tuple[float, float]]) -> list[str]:
        """Those of the users who have a place and look as far as one of these, or a metre less."""
        if not user_ids or not self._numbers:
            return []
        numbers = np.array([self._numbers.get(user_id, -1) for user_id in user_ids])
        vectors, cosines = self._vectors[numbers], self._cosines[numbers]
        is_near = np.zeros(len(numbers), dtype=bool)
        for lat, lng in places:
            is_near |= vectors @ _vector(lat, lng) >= cosines
        is_near &= numbers >= 0
        return [user_ids[index] for index in np.flatnonzero(is_near).tolist()]


def _vector(lat: float, lng: float) -> tuple[float, float, float]:
    phi, theta = radians(lat), radians(lng)
    return cos(phi) * cos(theta), cos(phi) * sin(theta), sin(phi)


def _cosine_of(arc_m: float) -> float:
    """Of the angle of an arc of that length and a metre more: places that are as near have a greater one."""
    return cos(min(pi, (arc_m + 1.0) / EARTH_RADIUS_M))
