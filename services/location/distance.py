"""Distances on the Earth, taken for a sphere: at most 0.6 % off. Pure.

What asks for one distance calls distance_m; what asks who of many is near keeps their places in Places, as vectors of length 1,
whose product is the cosine of the angle between them: no trigonometry for each, no seam at 180 degrees, no special poles.
"""

from collections.abc import Iterable, Sequence
from math import asin, cos, pi, radians, sin, sqrt

import numpy as np
from numpy.typing import NDArray

EARTH_RADIUS_M = 6_371_008.8
"""The mean radius of the Earth."""
METRES_A_MILE = 1_609.344
SPOTS = 3
_LEAST_PLACES = 64
_SEES_NOBODY = 2.0
"""More than any cosine."""

Floats = NDArray[np.float64]
Numbers = NDArray[np.int32]


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
    """Where users are and how far each looks, by a small number for each user. A user may be shown at several spots: as exactly as
    somebody may know, and less. A number is the user's until forget(), then it is used again.
    """

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}
        self._free: list[int] = []
        self._exact: Floats = np.zeros((_LEAST_PLACES, 3))
        self._spots: Floats = np.zeros((_LEAST_PLACES, 3 * SPOTS))
        self._cosines: Floats = np.full(_LEAST_PLACES, _SEES_NOBODY)

    def __len__(self) -> int:
        return len(self._numbers)

    def numbers_of(self, user_ids: Iterable[str]) -> Numbers:
        """The number of each; who has none gets one."""
        return np.array([self._number(user_id) for user_id in user_ids], dtype=np.int32)

    def put(self, user_id: str, spots: Sequence[tuple[float, float]], radius_miles: float) -> None:
        """The user is there, may be shown at the `SPOTS` spots of which the first is exact, and looks so far."""
        number = self._number(user_id)
        vectors = [_vector(lat, lng) for lat, lng in spots]
        self._exact[number] = vectors[0]
        self._spots[number] = [*vectors[0], *vectors[1], *vectors[2]]
        self._cosines[number] = _cosine_of(radius_miles * METRES_A_MILE)

    def remove(self, user_id: str) -> None:
        """The user has no place."""
        number = self._numbers.get(user_id)
        if number is not None:
            self._exact[number] = self._spots[number] = 0.0
            self._cosines[number] = _SEES_NOBODY

    def forget(self, user_id: str) -> None:
        """The number is not the user's any more."""
        self.remove(user_id)
        number = self._numbers.pop(user_id, None)
        if number is not None:
            self._free.append(number)

    def seeing(self, user_id: str, others: Numbers) -> list[int]:
        """Which of the others, by their index, look as far as one of the user's spots, or a metre less; perhaps more, of a user
        who has no place.
        """
        spots = self._spots[self._number(user_id)].reshape(SPOTS, 3)
        near = (self._exact.take(others, axis=0) @ spots.T).max(axis=1) >= self._cosines.take(others)
        found: list[int] = near.nonzero()[0].tolist()
        return found

    def seen(self, user_id: str, others: Numbers) -> list[int]:
        """Which of the others, by their index, have a spot where the user looks, or a metre farther; perhaps more, of those who
        have no place.
        """
        number = self._number(user_id)
        spots = self._spots.take(others, axis=0).reshape(-1, 3)
        near = (spots @ self._exact[number]).reshape(-1, SPOTS).max(axis=1) >= self._cosines[number]
        found: list[int] = near.nonzero()[0].tolist()
        return found

    def _number(self, user_id: str) -> int:
        number = self._numbers.get(user_id)
        if number is None:
            number = self._numbers[user_id] = self._free.pop() if self._free else len(self._numbers)
            if number >= len(self._cosines):
                self._exact = np.concatenate((self._exact, np.zeros_like(self._exact)))
                self._spots = np.concatenate((self._spots, np.zeros_like(self._spots)))
                self._cosines = np.concatenate((self._cosines, np.full_like(self._cosines, _SEES_NOBODY)))
        return number


def _vector(lat: float, lng: float) -> tuple[float, float, float]:
    phi, theta = radians(lat), radians(lng)
    return cos(phi) * cos(theta), cos(phi) * sin(theta), sin(phi)


def _cosine_of(arc_m: float) -> float:
    """Of the angle of an arc of that length and a metre more: places that are as near have a greater one."""
    return cos(min(pi, (arc_m + 1.0) / EARTH_RADIUS_M))
