"""How much a join or a leave moves, against the least that it could."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from random import Random
from statistics import fmean, stdev

import numpy as np

from bench.ring.placements import Fleet, Numbers, Placement


@dataclass(frozen=True, slots=True)
class Event:
    """One instance joins or leaves."""

    number: int
    weight: int
    joins: bool


@dataclass(frozen=True, slots=True)
class Move:
    """What one event moved, in shares of all keys."""

    moved: float
    needless: float
    """The part of it that neither came from who left nor went to who joined."""
    ideal: float
    """Who joins takes, and who leaves gives, its weight's share of the larger of the two fleets."""
    joins: bool

    @property
    def ratio(self) -> float:
        """Moved share by ideal share. An instance may have more or less than its share, so single ratios lie around 1."""
        return self.moved / self.ideal


@dataclass(frozen=True, slots=True)
class Mean:
    """A mean with its standard error."""

    value: float
    error: float

    @classmethod
    def of(cls, values: Iterable[float]) -> "Mean":
        """Of at least one value; a single one has no error."""
        values = list(values)
        return cls(fmean(values), stdev(values) / len(values) ** 0.5 if len(values) > 1 else 0.0)


def moved(before: Numbers, after: Numbers, event: Event, fleet: Fleet) -> Move:
    """Compares the owners of the same keys (or partitions) before and after the event. `fleet` is the one before it."""
    changed = before != after
    due = after == event.number if event.joins else before == event.number
    total = sum(fleet.values()) + (event.weight if event.joins else 0)
    return Move(float(np.mean(changed)), float(np.mean(changed & ~due)), event.weight / total, event.joins)


def draw_events(fleet: Fleet, count: int, random: Random, weights: Sequence[int]) -> list[Event]:
    """`count` joins and as many leaves, alternating, each to be tried on the very fleet given."""
    events = []
    for _ in range(count):
        events.append(Event(random.randrange(1 << 40, 1 << 41), random.choice(weights), joins=True))
        number = random.choice(list(fleet))
        events.append(Event(number, fleet[number], joins=False))
    return events


def after(placement: Placement, event: Event) -> Placement:
    """The placement that follows."""
    if event.joins:
        return placement.joined(event.number, event.weight)
    return placement.left(event.number)


def moves(
    placement: Placement, fleet: Fleet, events: Iterable[Event], read: Callable[[Placement], Numbers]
) -> list[Move]:
    """What each event moves of the keys (or partitions) whose owners `read` reads of a placement."""
    before = read(placement)
    return [moved(before, read(after(placement, event)), event, fleet) for event in events]


def max_over_mean(shares: dict[int, float], fleet: Fleet) -> float:
    """The greatest share by what its weight is due."""
    total = sum(fleet.values())
    return max(share * total / fleet[number] for number, share in shares.items())


def key_shares(owners: Numbers, fleet: Fleet) -> dict[int, float]:
    """Share of these keys that each instance has."""
    numbers, counts = np.unique(owners, return_counts=True)
    found = dict(zip(numbers.tolist(), counts.tolist(), strict=True))
    return {number: found.get(number, 0) / len(owners) for number in fleet}
