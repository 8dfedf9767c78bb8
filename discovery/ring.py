"""Who owns which partition, pure: members in, owners out.

Every member puts points on a circle, in proportion to its weight; the partitions lie on the same circle, evenly spaced. A
partition wants the member of the point nearest to it, on either side; a member takes no more than its bound and keeps the
partitions that are nearest to it. What a member refuses goes on to the next nearest point, as in the stable matching of Gale
and Shapley: so the outcome depends on the members only, never on the order in which they came, and a join or a leave moves
little more than the share of who came or went.

Evenly spaced partitions and the nearest point on either side (instead of the next one clockwise) leave a member's load less
than half of the variance that hashed partitions and successors would give it: few members reach their bound, and it is only
they who make others move. It takes some 64 partitions for each member, though: with fewer, the bound pushes more around.
"""

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Mapping
from fractions import Fraction
from functools import lru_cache
from heapq import heappushpop
from typing import Final

import numpy as np
from numpy.typing import NDArray
from xxhash import xxh3_64_intdigest

POINTS_AT_WEIGHT_100: Final = 128
"""Fewer make loads less even, more make the ring slower to build: `python -m bench.ring` shows both."""
LOAD_BOUND: Final = Fraction(5, 4)
"""No member owns more than this times its weight's share, or than that share rounded up to a whole partition."""

# A point is 36 bits of place and 16 of its member's index.
_INDEX_BITS: Final = 16
_INDEX_MASK: Final = (1 << _INDEX_BITS) - 1
_CIRCLE_BITS: Final = 52
_CIRCLE: Final = 1 << _CIRCLE_BITS
_CACHED_MEMBERS: Final = 16_384
_CACHED_SIZES: Final = 4

_Integers = NDArray[np.int64]


def assign(
    members: Mapping[str, int], partitions: int, *, points: int = POINTS_AT_WEIGHT_100, bound: Fraction = LOAD_BOUND
) -> tuple[str, ...]:
    """The owner of each partition, in order of partition; empty if there are no members.

    `members` maps at most 65,536 ids to their weights, 1 to 1000 (100 is usual). Deterministic. `points` of a member of weight
    100 and `bound` are for measurements: a cluster whose processes differ in them is split.
    """
    if not members:
        return ()
    names = sorted(members)
    if len(names) == 1:
        return (names[0],) * partitions
    circle = _Circle([_points(name, max(1, members[name] * points // 100)) for name in names], partitions)
    return tuple([names[index] for index in _match(circle, _bounds(names, members, partitions, bound))])


def _bounds(names: list[str], members: Mapping[str, int], partitions: int, bound: Fraction) -> list[int]:
    """How many partitions each member takes: its bound, less a fraction of its own, so that a join or a leave, which changes
    everyone's share, does not lower everyone's bound at once. At least the share rounded up: all partitions find room.
    """
    total = sum(members.values())
    bounds = []
    for name in names:
        scaled = partitions * members[name] * bound.numerator << 64
        most = scaled // (total * bound.denominator) - xxh3_64_intdigest(name.encode()) >> 64
        bounds.append(max(most, -(-partitions * members[name] // total)))
    return bounds


@lru_cache(maxsize=_CACHED_MEMBERS)
def _points(name: str, count: int) -> _Integers:
    """The points of a member, ascending. A greater count adds points and moves none."""
    drawn = np.frombuffer(hashlib.shake_128(name.encode()).digest(8 * count), "<u8")
    places = np.unique(drawn >> np.uint64(64 - _CIRCLE_BITS + _INDEX_BITS)).astype(np.int64)
    points = places << _INDEX_BITS
    points.setflags(write=False)
    return points


@lru_cache(maxsize=_CACHED_SIZES)
def _homes(partitions: int) -> _Integers:
    """Where the partitions lie, evenly spaced from 0 on."""
    homes = np.fromiter((number * _CIRCLE // partitions for number in range(partitions)), np.int64, partitions)
    homes.setflags(write=False)
    return homes


class _Circle:
    """The points of all members in order. A member is known by its index."""

    def __init__(self, points: list[_Integers], partitions: int) -> None:
        self._homes = _homes(partitions)
        self._points = points
        index = np.repeat(np.arange(len(points)), [len(own) for own in points])
        self._ring = np.sort(np.concatenate(points) | index)

    def nearest(self) -> _Integers:
        """For each partition the member of the point nearest to it; of two that are equally near, the lower."""
        ring = self._ring
        around = np.concatenate(([ring[-1] - _CIRCLE], ring, [ring[0] + _CIRCLE]))
        middles = around[:-1] + around[1:] >> 1
        owners: _Integers = around[np.searchsorted(middles, self._homes)] & _INDEX_MASK
        return owners

    def wishes(self, partitions: _Integers, member: int) -> list[tuple[int, int]]:
        """(-distance, partition) for each of these partitions and the member's point that is nearest to it, ascending."""
        points, homes = self._points[member], self._homes[partitions]
        above = np.searchsorted(points, homes)
        up = (points[above % len(points)] - homes) % _CIRCLE
        down = (homes - points[above - 1]) % _CIRCLE
        return sorted(zip((-np.minimum(up, down)).tolist(), partitions.tolist(), strict=True))

    def outward(self, partition: int) -> Iterator[int]:
        """The members of all points, the nearest first; of two that are equally near, the lower."""
        ring, size, home = self._ring, len(self._ring), int(self._homes[partition])
        above = int(np.searchsorted(ring, home))
        below = above - 1
        for _ in range(size):
            low, high = int(ring[below % size]), int(ring[above % size])
            if (home - low) % _CIRCLE <= (high - home) % _CIRCLE:
                below -= 1
                yield low & _INDEX_MASK
            else:
                above += 1
                yield high & _INDEX_MASK


def _match(circle: _Circle, bounds: list[int]) -> list[int]:
    """The owner of each partition."""
    nearest = circle.nearest()
    owners: list[int] = nearest.tolist()
    load = np.bincount(nearest, minlength=len(bounds)).tolist()
    late: defaultdict[int, list[int]] = defaultdict(list)
    full: dict[int, list[tuple[int, int]]] = {}  # heaps, the farthest first
    waiting: list[int] = []
    for member in [member for member, bound in enumerate(bounds) if load[member] > bound]:
        wishes = circle.wishes(np.flatnonzero(nearest == member), member)
        full[member] = wishes[-bounds[member] :]
        waiting += [partition for _, partition in wishes[: -bounds[member]]]
    outward = {}
    while waiting:
        partition = waiting.pop()
        if partition not in outward:
            outward[partition] = circle.outward(partition)
            next(outward[partition])  # the nearest, which has refused it
        member = next(outward[partition])
        if load[member] < bounds[member]:
            load[member] += 1
            late[member].append(partition)
            owners[partition] = member
            continue
        if member not in full:
            kept = np.append(np.flatnonzero(nearest == member), late[member]).astype(np.int64)
            full[member] = circle.wishes(kept, member)
        (wish,) = circle.wishes(np.array([partition]), member)
        refused = heappushpop(full[member], wish)[1]
        waiting.append(refused)
        if refused != partition:
            owners[partition] = member
    return owners
