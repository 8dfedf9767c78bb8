"""People on the streets of a city: they stand, walk or drive along a grid of streets from one random waypoint to the next.

The random-waypoint model (Johnson and Maltz 1996) on a grid: along one street, then along the one that crosses it. Waypoints lie
closer together towards the centre. Everything follows from the seed.
"""

import math
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

import numpy as np
import numpy.typing as npt

Metres = npt.NDArray[np.float64]
People = npt.NDArray[np.intp]

_CENTRE: Final = (48.2082, 16.3738)
"""Latitude and longitude of the middle, in degrees."""
_M_PER_DEGREE: Final = 111_194.9
_SPREAD: Final = 0.22
"""Standard deviation of a waypoint's place, by the side of the city."""
_SHARES: Final = (0.5, 0.35, 0.15)
_PAUSE_S: Final = 120.0


class Pace(IntEnum):
    """How somebody gets on."""

    STILL = 0
    WALKING = 1
    DRIVING = 2


SPEEDS_M_S: Final = np.array([0.0, 1.4, 9.0])
INTERVALS_S: Final = np.array([60.0, 30.0, 5.0])
"""How often somebody at each pace reports a place, as the server's policy says."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where somebody is, in degrees."""

    lat: float
    lng: float


class Streets:
    """The places of `people` persons in a square city; `side_m` is its side and `block_m` the distance of two streets."""

    def __init__(self, people: int, side_m: float = 40_000.0, block_m: float = 200.0, seed: int = 1) -> None:
        self._random = np.random.default_rng(seed)
        self._side_m = side_m
        self._block_m = block_m
        self.pace = self._random.choice(len(_SHARES), people, p=_SHARES)
        self._x, self._y = self._waypoints(people)
        self._to_x, self._to_y = self._waypoints(people)
        self._pause_s = self._random.uniform(0, _PAUSE_S, people)
        self._due_s = self._random.uniform(0, 1, people) * INTERVALS_S[self.pace]

    @property
    def x_m(self) -> Metres:
        """East of the south-west corner."""
        return self._x

    @property
    def y_m(self) -> Metres:
        """North of the south-west corner."""
        return self._y

    @property
    def lat(self) -> Metres:
        """In degrees."""
        return _CENTRE[0] + (self._y - self._side_m / 2) / _M_PER_DEGREE

    @property
    def lng(self) -> Metres:
        """In degrees."""
        narrowing = math.cos(math.radians(_CENTRE[0]))
        return _CENTRE[1] + (self._x - self._side_m / 2) / (_M_PER_DEGREE * narrowing)

    def place(self, person: int) -> Place:
        """Where the person is."""
        return Place(float(self.lat[person]), float(self.lng[person]))

    def advance(self, step_s: float) -> People:
        """Lets time pass; returns who reports a place at the end of the step."""
        self._pause_s = np.maximum(0.0, self._pause_s - step_s)
        reach = np.where(self._pause_s > 0, 0.0, SPEEDS_M_S[self.pace] * step_s)
        along_x = np.clip(self._to_x - self._x, -reach, reach)
        self._x = self._x + along_x
        left = reach - np.abs(along_x)
        self._y = self._y + np.clip(self._to_y - self._y, -left, left)
        self._send_on(np.flatnonzero((self._x == self._to_x) & (self._y == self._to_y) & (self.pace != Pace.STILL)))
        self._due_s -= step_s
        reporting = np.flatnonzero(self._due_s <= 0)
        self._due_s[reporting] += INTERVALS_S[self.pace[reporting]]
        return reporting

    def _send_on(self, arrived: People) -> None:
        """Gives who has arrived a pause and a new waypoint."""
        self._to_x[arrived], self._to_y[arrived] = self._waypoints(len(arrived))
        self._pause_s[arrived] = self._random.uniform(0, _PAUSE_S, len(arrived))

    def _waypoints(self, count: int) -> tuple[Metres, Metres]:
        """Crossings of streets."""
        places = self._random.normal(self._side_m / 2, self._side_m * _SPREAD, (2, count))
        snapped = np.round(np.clip(places, 0, self._side_m) / self._block_m) * self._block_m
        return snapped[0], snapped[1]


def acquaint(people: int, friends: int, seed: int = 1) -> list[People]:
    """The friends of each person, about `friends` of them (an even number below `people`), in order: both or neither know each
    other. The union of random permutations, each of which befriends everybody with two others.
    """
    random = np.random.default_rng(seed)
    circles = np.stack([random.permutation(people) for _ in range(friends // 2)])
    next_ones = np.roll(circles, 1, axis=1)
    pairs = np.unique(np.concatenate((circles * people + next_ones, next_ones * people + circles)))
    return np.split(pairs % people, np.searchsorted(pairs // people, np.arange(1, people)))
