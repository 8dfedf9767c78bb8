"""Builds the fleets, lets instances come and go, and times lookups and rebuilds. Everything but times follows from the seed.

Times are CPU time of this process: nothing here waits, and the machine may be busy with something else.
"""

import gc
import time
import tracemalloc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from random import Random
from statistics import fmean, median
from typing import Final

import numpy as np

from bench.ring.movement import Mean, Move, draw_events, key_shares, max_over_mean, moves
from bench.ring.placements import (
    FillingJump,
    Fleet,
    Hashes,
    Jump,
    Maglev,
    Numbers,
    Placement,
    Rendezvous,
    Ring,
    hashed,
)
from discovery.ring import LOAD_BOUND, POINTS_AT_WEIGHT_100

EVEN: Final = (100,)
MIXED: Final = (50, 100, 200)
"""Weights of equal frequency: the heaviest is worth four of the lightest."""
PER_INSTANCE: Final = 64
"""Partitions that an instance wants at least, for the bound on its load to be reached seldom."""
_SEED: Final = 20_261_101
_SLOW: Final = "Maglev"
_SLOW_FLEETS: Final = 3
_LOOKUP_ROUNDS: Final = 7
_MAGLEV_REBUILDS: Final = 3

Scheme = Callable[[Fleet], Placement]


@dataclass(frozen=True, slots=True)
class Size:
    """How much is simulated of one size of fleet."""

    instances: int
    fleets: int
    events: int
    """Joins for each fleet, and as many leaves."""
    slow_events: int
    """The same for Maglev, which is slow to build, on some of the fleets."""
    keys: int
    lookups: int
    rebuilds: int


FULL: Final = (
    Size(10, 40, 5, 2, 20_000, 20_000, 200),
    Size(100, 10, 10, 4, 100_000, 20_000, 50),
    Size(1_000, 3, 25, 5, 200_000, 5_000, 21),
    Size(10_000, 2, 20, 1, 100_000, 500, 3),
)
QUICK: Final = (Size(10, 4, 2, 2, 10_000, 2_000, 5), Size(100, 1, 2, 2, 10_000, 500, 3))


@dataclass(frozen=True, slots=True)
class Measured:
    """One scheme at one size of fleet."""

    scheme: str
    lookup_us: float
    rebuild_ms: float
    kept_bytes: int
    """Held after building, whatever can be thrown away left aside."""
    peak_bytes: int
    join: Mean
    """Moved share of the keys by ideal share."""
    leave: Mean
    needless: float
    """Mean of what moved without need, by ideal share."""
    shares_max_over_mean: float
    keys_max_over_mean: float


@dataclass(frozen=True, slots=True)
class RingMoves:
    """The ring alone, by partitions: no sampling of keys."""

    instances: int
    partitions: int
    points: int
    bound: float
    mixed: bool
    join: Mean
    leave: Mean
    needless: float
    max_over_mean: float
    rebuild_ms: float


@dataclass(frozen=True, slots=True)
class Fleets:
    """One size of fleet: what was measured of all schemes, and of the ring with even and with mixed weights."""

    size: Size
    partitions: int
    slots: int
    schemes: list[Measured]
    even: RingMoves
    mixed: RingMoves
    mixed_rendezvous: Mean
    chance_max_over_mean: float
    """Of as many keys thrown at as many instances by chance alone."""


def partitions_for(instances: int) -> int:
    """The power of two that gives each instance at least 64 partitions, but the default of 256 at least."""
    return max(256, 1 << (instances * PER_INSTANCE - 1).bit_length())


def slots_for(instances: int) -> int:
    """Slots of Maglev's table: 65,537 as in the paper, or the first prime above 100 for each instance."""
    slots = max(65_537, 100 * instances + 1)
    while any(slots % divisor == 0 for divisor in range(2, int(slots**0.5) + 1)):
        slots += 1
    return slots


def fleet_of(instances: int, random: Random, weights: Sequence[int] = EVEN) -> Fleet:
    """A fleet with arbitrary names."""
    numbers = random.sample(range(1 << 40), instances)
    return {number: weights[place % len(weights)] for place, number in enumerate(numbers)}


def measure(size: Size) -> Fleets:
    """Everything for one size of fleet."""
    partitions, slots = partitions_for(size.instances), slots_for(size.instances)
    schemes: dict[str, Scheme] = {
        "Hither's ring": lambda fleet: Ring(fleet, partitions),
        "rendezvous": Rendezvous,
        "jump, ranks close": Jump,
        "jump, last fills the gap": FillingJump,
        _SLOW: lambda fleet: Maglev(fleet, slots),
    }
    random = Random(_SEED + size.instances)
    names = [f"user-{random.getrandbits(48):x}" for _ in range(size.keys)]
    hashes = hashed(names)
    fleets = [fleet_of(size.instances, random) for _ in range(size.fleets)]
    lookups, rebuilds = _times(schemes, fleets[0], names[: size.lookups], size.rebuilds)
    measured = []
    for name, scheme in schemes.items():
        kept, peak = _memory(scheme, fleet_of(size.instances, random))
        slow = name == _SLOW
        events, chosen = (size.slow_events, fleets[:_SLOW_FLEETS]) if slow else (size.events, fleets)
        shifted, shares, keys = _move_keys(scheme, chosen, hashes, events)
        measured.append(
            Measured(
                name,
                lookups[name],
                rebuilds[name],
                kept,
                peak,
                _ratio(shifted, joins=True),
                _ratio(shifted, joins=False),
                _needless(shifted),
                shares,
                keys,
            )
        )
    return Fleets(
        size,
        partitions,
        slots,
        measured,
        ring_moves(size, partitions),
        ring_moves(size, partitions, weights=MIXED),
        _mixed_rendezvous(size, hashes),
        _chance(size),
    )


def ring_moves(
    size: Size,
    partitions: int,
    *,
    points: int = POINTS_AT_WEIGHT_100,
    bound: Fraction = LOAD_BOUND,
    weights: Sequence[int] = EVEN,
) -> RingMoves:
    """Counts the partitions that joins and leaves move on the ring."""
    random = Random(_SEED)
    found: list[Move] = []
    highest, built_s = [], []
    for _ in range(size.fleets):
        # Sizes differ a little, so that no single threshold of the bound decides.
        fleet = fleet_of(size.instances + random.randrange(-(size.instances // 20), 1), random, weights)
        started_s = time.process_time()
        ring = Ring(fleet, partitions, points, bound)
        built_s.append(time.process_time() - started_s)
        highest.append(max_over_mean(ring.shares(), fleet))
        events = draw_events(fleet, size.events, random, weights)
        found += moves(ring, fleet, events, _partition_owners)
    return RingMoves(
        size.instances,
        partitions,
        points,
        float(bound),
        weights is not EVEN,
        _ratio(found, joins=True),
        _ratio(found, joins=False),
        _needless(found),
        max(highest),
        median(built_s) * 1e3,
    )


def _move_keys(scheme: Scheme, fleets: Sequence[Fleet], hashes: Hashes, events: int) -> tuple[list[Move], float, float]:
    """The moves of the keys, and the greatest load by its mean: of exact shares and of these keys (means over the fleets)."""
    found: list[Move] = []
    shares, keys = [], []
    for place, fleet in enumerate(fleets):
        placement = scheme(fleet)
        shares.append(max_over_mean(placement.shares(), fleet))
        keys.append(max_over_mean(key_shares(placement.owners(hashes), fleet), fleet))
        drawn = draw_events(fleet, events, Random(_SEED + place), EVEN)
        found += moves(placement, fleet, drawn, lambda following: following.owners(hashes))
    return found, fmean(shares), fmean(keys)


def _mixed_rendezvous(size: Size, hashes: Hashes) -> Mean:
    random = Random(_SEED)
    fleet = fleet_of(size.instances, random, MIXED)
    events = draw_events(fleet, size.events, random, MIXED)
    return Mean.of(move.ratio for move in moves(Rendezvous(fleet), fleet, events, lambda after: after.owners(hashes)))


def _times(
    schemes: dict[str, Scheme], fleet: Fleet, names: Sequence[str], rebuilds: int
) -> tuple[dict[str, float], dict[str, float]]:
    """Medians: microseconds for a lookup, milliseconds for a rebuild. The schemes take turns, so that whatever else the machine
    does meets them all alike.
    """
    placements = {name: scheme(fleet) for name, scheme in schemes.items()}
    lookup_us: dict[str, list[float]] = {name: [] for name in schemes}
    rebuild_ms: dict[str, list[float]] = {name: [] for name in schemes}
    for _ in range(_LOOKUP_ROUNDS):
        for name, placement in placements.items():
            lookup_us[name].append(_lookup_us(placement, names))
    for _ in range(rebuilds):
        for name, scheme in schemes.items():
            if name != _SLOW or len(rebuild_ms[name]) < _MAGLEV_REBUILDS:
                rebuild_ms[name].append(_rebuild_ms(scheme, fleet))
    return (
        {name: median(values) for name, values in lookup_us.items()},
        {name: median(values) for name, values in rebuild_ms.items()},
    )


def _lookup_us(placement: Placement, names: Sequence[str]) -> float:
    owner = placement.owner
    started_s = time.process_time()
    for name in names:
        owner(name)
    return (time.process_time() - started_s) / len(names) * 1e6


def _rebuild_ms(scheme: Scheme, fleet: Fleet) -> float:
    """One instance has gone, as when a snapshot of the registry comes: what is kept for an instance is at hand."""
    fleet = dict(list(fleet.items())[:-1])
    started_s = time.process_time()
    scheme(fleet)
    return (time.process_time() - started_s) * 1e3


def _memory(scheme: Scheme, fleet: Fleet) -> tuple[int, int]:
    gc.collect()
    tracemalloc.start()
    try:
        placement = scheme(fleet)
        kept, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    del placement
    return kept, peak


def _chance(size: Size) -> float:
    fleet = fleet_of(size.instances, Random(_SEED))
    thrown = np.random.default_rng(_SEED).choice(np.fromiter(fleet, np.int64), size.keys)
    return max_over_mean(key_shares(thrown, fleet), fleet)


def _ratio(found: Sequence[Move], *, joins: bool) -> Mean:
    return Mean.of(move.ratio for move in found if move.joins is joins)


def _needless(found: Sequence[Move]) -> float:
    return fmean(move.needless / move.ideal for move in found)


def _partition_owners(placement: Placement) -> Numbers:
    if not isinstance(placement, Ring):
        raise TypeError("only the ring has partitions")
    return placement.partition_owners()
