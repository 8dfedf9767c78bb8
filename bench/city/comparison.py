"""What each design costs, as the city and people's circles grow."""

import time
from dataclasses import dataclass
from typing import Final

import numpy as np

from bench.city.designs import DESIGNS, Cells, FollowFriends, FullScan, Places
from bench.city.streets import Streets, acquaint

FRIENDS: Final = 400
PEOPLE: Final = 10_000
SIZES: Final = (1_000, 3_000, 10_000, 30_000)
CIRCLES: Final = (50, 100, 200, 400, 800)
_STEP_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class Cost:
    """Means of one update: CPU time, messages on the bus, persons looked at, and friends that it was shown to."""

    design: str
    people: int
    friends: int
    us: float
    bus_messages: float
    checks: float
    shown: float


def compare(people: int, friends: int, updates: int) -> list[Cost]:
    """All designs over the same updates of the same city, half of whose people are online."""
    circles = acquaint(people, friends)
    online = np.random.default_rng(2).random(people) < 0.5
    costs = []
    for make in DESIGNS:
        city = Streets(people)
        places = Places(city.lat, city.lng)
        design: FollowFriends | Cells | FullScan = make(places, circles, online)
        done = shown = 0
        used_s = 0.0
        while done < updates:
            reporting = city.advance(_STEP_S)
            lat, lng = city.lat, city.lng
            persons = reporting[online[reporting]].tolist()
            begun_s = time.process_time()
            for person in persons:
                places.put(person, lat[person], lng[person])
                shown += design.update(person)
            used_s += time.process_time() - begun_s
            done += len(persons)
        costs.append(
            Cost(
                design.name, people, friends, used_s / done * 1e6,
                design.bus_messages / done, design.checks / done, shown / done,
            )
        )  # fmt: skip
    if len({round(cost.shown, 6) for cost in costs}) != 1:
        raise AssertionError(f"the designs disagree: {costs}")
    return costs
