"""Three ways to find who is near, each on several instances that hear of places over a bus.

`update` takes a person's new place and returns how many friends it is shown to. What a message on the bus costs is not in
the time of any of them: messages are counted, for each instance that gets one.
"""

from collections import defaultdict
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt

from bench.city.streets import Metres, People

RADIUS_M: Final = 5 * 1609.344
INSTANCES: Final = 8
_EARTH_M: Final = 6_371_008.8
_CELL_M: Final = RADIUS_M / 2
_REACH: Final = 2
"""Cells to each side of the own one that a circle of the radius may touch."""


class Design(Protocol):
    """One of them. `bus_messages` and `checks` (persons looked at) count up."""

    name: str
    bus_messages: int
    checks: int

    def update(self, person: int) -> int:
        """The person's place has changed."""


class Places:
    """Everybody's newest place, in radians, with what distances need of it computed once for each update."""

    def __init__(self, lat: Metres, lng: Metres) -> None:
        self.lat = np.radians(lat)
        self.lng = np.radians(lng)
        self.cos = np.cos(self.lat)

    def put(self, person: int, lat: float, lng: float) -> None:
        """The person is there now, in degrees."""
        self.lat[person], self.lng[person] = np.radians(lat), np.radians(lng)
        self.cos[person] = np.cos(self.lat[person])

    def near(self, person: int, others: People) -> npt.NDArray[np.bool_]:
        """Which of the others are within the radius (haversine, without the arc sine: the chord is compared)."""
        half_lat = np.sin((self.lat[others] - self.lat[person]) / 2)
        half_lng = np.sin((self.lng[others] - self.lng[person]) / 2)
        squared = half_lat * half_lat + self.cos[person] * self.cos[others] * half_lng * half_lng
        near: npt.NDArray[np.bool_] = squared <= _NEAR
        return near


_NEAR: Final = float(np.sin(RADIUS_M / _EARTH_M / 2) ** 2)


class FollowFriends:
    """An instance follows the topic of each friend of its people, once; it compares the places of those who follow."""

    name = "follow each friend"

    def __init__(self, places: Places, friends: list[People], online: npt.NDArray[np.bool_]) -> None:
        self.bus_messages = 0
        self.checks = 0
        self._places = places
        self._followers: list[list[People]] = []
        for its in friends:
            here = its[online[its]]
            by_instance = [here[here % INSTANCES == instance] for instance in range(INSTANCES)]
            self._followers.append([some for some in by_instance if len(some)])

    def update(self, person: int) -> int:
        """See Design."""
        shown = 0
        for followers in self._followers[person]:
            self.bus_messages += 1
            self.checks += len(followers)
            shown += int(np.count_nonzero(self._places.near(person, followers)))
        return shown


class Cells:
    """An instance follows the topics of all cells around its people; of the strangers there it sorts out the friends."""

    name = "cells around everybody"

    def __init__(self, places: Places, friends: list[People], online: npt.NDArray[np.bool_]) -> None:
        self.bus_messages = 0
        self.checks = 0
        self._places = places
        self._friends = friends
        self._online = online
        self._subscribed: defaultdict[tuple[int, int], list[set[int]]] = defaultdict(
            lambda: [set() for _ in range(INSTANCES)]
        )
        self._cells: dict[int, tuple[int, int]] = {}
        self._narrowing = float(places.cos.min())
        """Of a degree of longitude: one for the whole city, so that columns run through all rows."""
        for person in np.flatnonzero(online):
            self._move(int(person))

    def update(self, person: int) -> int:
        """See Design."""
        self._move(person)
        shown = 0
        friends = self._friends[person]
        for subscribers in self._subscribed[self._cells[person]]:
            if not subscribers:
                continue
            self.bus_messages += 1
            self.checks += len(subscribers)
            strangers = np.fromiter(subscribers, np.intp, len(subscribers))
            its = strangers[np.isin(strangers, friends, kind="sort")]
            shown += int(np.count_nonzero(self._places.near(person, its)))
        return shown

    def _move(self, person: int) -> None:
        """Follows the cells around the person's place, and no others."""
        row = int(self._places.lat[person] * _EARTH_M // _CELL_M)
        column = int(self._places.lng[person] * self._narrowing * _EARTH_M // _CELL_M)
        before, now = self._cells.get(person), (row, column)
        if before == now:
            return
        if before is not None:
            for cell in _around(before):
                self._subscribed[cell][person % INSTANCES].discard(person)
        for cell in _around(now):
            self._subscribed[cell][person % INSTANCES].add(person)
        self._cells[person] = now


def _around(cell: tuple[int, int]) -> list[tuple[int, int]]:
    reach = range(-_REACH, _REACH + 1)
    return [(cell[0] + rows, cell[1] + columns) for rows in reach for columns in reach]


class FullScan:
    """Every instance hears of every place and compares it with those of all its people."""

    name = "scan everybody"

    def __init__(self, places: Places, friends: list[People], online: npt.NDArray[np.bool_]) -> None:
        self.bus_messages = 0
        self.checks = 0
        self._places = places
        self._friends = friends
        here = np.flatnonzero(online)
        self._people = [here[here % INSTANCES == instance] for instance in range(INSTANCES)]

    def update(self, person: int) -> int:
        """See Design."""
        shown = 0
        for people in self._people:
            self.bus_messages += 1
            self.checks += len(people)
            near = people[self._places.near(person, people)]
            shown += int(np.count_nonzero(np.isin(near, self._friends[person], kind="sort")))
        return shown


DESIGNS: Final = (FollowFriends, Cells, FullScan)
