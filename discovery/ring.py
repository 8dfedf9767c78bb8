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
import struct
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from functools import lru_cache
from heapq import heappushpop
from itertools import pairwise
from typing import Final

from xxhash import xxh3_64_intdigest

POINTS_AT_WEIGHT_100: Final = 56
"""Fewer make loads less even, more make the ring slower to build: `python -m bench.ring` shows both."""
LOAD_BOUND: Final = Fraction(5, 4)
"""No member owns more than this times its weight's share, or than that share rounded up to a whole partition."""

# A point is 36 bits of place and 16 of its member's index: sums of two of them fit into two of the digits that Python's integers have.
_INDEX_BITS: Final = 16
_INDEX_MASK: Final = (1 << _INDEX_BITS) - 1
_CIRCLE_BITS: Final = 52
_CIRCLE: Final = 1 << _CIRCLE_BITS
_CACHED_MEMBERS: Final = 16_384


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
def _points(name: str, count: int) -> tuple[int, ...]:
    """The points of a member, ascending. A greater count adds points and moves none."""
    drawn = struct.unpack(f"<{count}Q", hashlib.shake_128(name.encode()).digest(8 * count))
    unused_bits = 64 - _CIRCLE_BITS + _INDEX_BITS
    return tuple(sorted({point >> unused_bits << _INDEX_BITS for point in drawn}))


class _Circle:
    """The points of all members in order. A member is known by its index; partition p lies at p / partitions of the circle."""

    def __init__(self, points: list[tuple[int, ...]], partitions: int) -> None:
        self._partitions = partitions
        self._points = points
        self._ring = ring = sorted([point | index for index, own in enumerate(points) for point in own])
        self._around = [ring[-1] - _CIRCLE, *ring, ring[0] + _CIRCLE]
        # What lies between two points wants the lower of them, up to the middle and including it.
        self._ends = [((low + high) * partitions >> _CIRCLE_BITS + 1) + 1 for low, high in pairwise(self._around)]
        self._ends[0] = max(self._ends[0], 0)
        self._ends[-1] = min(self._ends[-1], partitions)
        self._ends.append(partitions)

    def nearest(self) -> list[int]:
        """For each partition the member of the point nearest to it; of two that are equally near, the lower."""
        owners: list[int] = []
        start = 0
        for point, end in zip(self._around, self._ends, strict=True):
            if start < end:
                owners += [point & _INDEX_MASK] * (end - start)
                start = end
        return owners

    def wanting(self, member: int) -> list[int]:
        """The partitions that `nearest` gives to the member."""
        ends, partitions = self._ends, list[int]()
        for point in self._points[member]:
            place = bisect_left(self._ring, point | member) + 1
            partitions += range(ends[place - 1], ends[place])
            if place == 1:
                partitions += range(ends[-2], ends[-1])
            if place == len(self._ring):
                partitions += range(ends[0])
        return partitions

    def distance(self, partition: int, member: int) -> int:
        """From the partition to the member's nearest point; good to be compared, no more."""
        points = self._points[member]
        above = self._next(points, partition)
        return min(self._down(partition, points[above - 1]), self._up(partition, points[above % len(points)]))

    def outward(self, partition: int) -> Iterator[int]:
        """The members of all points, the nearest first; of two that are equally near, the lower."""
        ring, size = self._ring, len(self._ring)
        above = self._next(ring, partition)
        below = above - 1
        for _ in ring:
            low, high = ring[below % size], ring[above % size]
            if self._down(partition, low) <= self._up(partition, high):
                below -= 1
                yield low & _INDEX_MASK
            else:
                above += 1
                yield high & _INDEX_MASK

    def _up(self, partition: int, point: int) -> int:
        return (point * self._partitions - (partition << _CIRCLE_BITS)) % (self._partitions << _CIRCLE_BITS)

    def _down(self, partition: int, point: int) -> int:
        return ((partition << _CIRCLE_BITS) - point * self._partitions) % (self._partitions << _CIRCLE_BITS)

    def _next(self, points: Sequence[int], partition: int) -> int:
        """Where the first point stands that is not below the partition."""
        return bisect_left(points, -(-(partition << _CIRCLE_BITS) // self._partitions))


def _match(circle: _Circle, bounds: list[int]) -> list[int]:
    """The owner of each partition."""
    owners = circle.nearest()
    load = Counter(owners)
    late: defaultdict[int, list[int]] = defaultdict(list)
    full: dict[int, list[tuple[int, int]]] = {}  # heaps of (-distance, partition), the farthest first
    waiting: list[int] = []
    for member in [member for member, wanted in load.items() if wanted > bounds[member]]:
        wishes = sorted([(-circle.distance(partition, member), partition) for partition in circle.wanting(member)])
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
            kept = [*circle.wanting(member), *late[member]]
            full[member] = sorted([(-circle.distance(own, member), own) for own in kept])
        refused = heappushpop(full[member], (-circle.distance(partition, member), partition))[1]
        waiting.append(refused)
        if refused != partition:
            owners[partition] = member
    return owners
