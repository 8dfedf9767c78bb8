"""Who owns which partition, pure: members in, owners out.

Every member puts points on a ring of 64-bit numbers, in proportion to its weight, and every partition lies at a point of
its own. A partition wants the member whose point comes next; a member takes no more than its bound and keeps the
partitions that are nearest to it. What a member refuses goes on to the next point, as in the stable matching of Gale
and Shapley: so the outcome depends on the members only, never on the order in which they came, and a join or
a leave moves little more than the share of who came or went.
"""

import hashlib
import struct
from bisect import bisect_left
from collections.abc import Mapping
from fractions import Fraction
from functools import lru_cache
from heapq import heappush, heapreplace
from math import ceil, floor
from typing import Final

from xxhash import xxh3_64_intdigest

POINTS_AT_WEIGHT_100: Final = 64
LOAD_BOUND: Final = Fraction(5, 4)
"""No member owns more than this times its weight's share, rounded up to a whole partition where the share is below one."""

_INDEX_BITS: Final = 16
_INDEX_MASK: Final = (1 << _INDEX_BITS) - 1
_CIRCLE: Final = 1 << 64
_CACHED_MEMBERS: Final = 4096


def assign(members: Mapping[str, int], partitions: int) -> tuple[str, ...]:
    """The owner of each partition, in order of partition; empty if there are no members.

    `members` maps at most 65,536 ids to their weights, 1 to 1000 (100 is usual). Deterministic.
    """
    if not members:
        return ()
    names = sorted(members)
    if len(names) == 1:
        return (names[0],) * partitions
    bounds = _bounds([members[name] for name in names], partitions)
    ring = sorted(
        point & ~_INDEX_MASK | index for index, name in enumerate(names) for point in _points(name, members[name])
    )
    return tuple(names[index] for index in _match(ring, bounds, partitions))


def _bounds(weights: list[int], partitions: int) -> list[int]:
    total = sum(weights)
    shares = [Fraction(partitions * weight, total) for weight in weights]
    # The bounds must add up to at least all partitions, which the rounded-up shares do by themselves.
    return [max(floor(share * LOAD_BOUND), ceil(share)) for share in shares]


@lru_cache(maxsize=_CACHED_MEMBERS)
def _points(name: str, weight: int) -> tuple[int, ...]:
    """The points of a member. A greater weight adds points and moves none."""
    count = max(1, weight * POINTS_AT_WEIGHT_100 // 100)
    return struct.unpack(f"<{count}Q", hashlib.shake_128(name.encode()).digest(8 * count))


def _match(ring: list[int], bounds: list[int], partitions: int) -> list[int]:
    """The index of the owner of each partition."""
    homes = [xxh3_64_intdigest(b"partition %d" % partition) for partition in range(partitions)]
    places = [bisect_left(ring, home) for home in homes]
    kept: list[list[tuple[int, int]]] = [[] for _ in bounds]  # heaps of (-distance, partition), the farthest first
    waiting = list(range(partitions))
    while waiting:
        partition = waiting.pop()
        point = ring[places[partition] % len(ring)]
        places[partition] += 1
        member = point & _INDEX_MASK
        wish = (-((point - homes[partition]) % _CIRCLE), partition)
        heap = kept[member]
        if len(heap) < bounds[member]:
            heappush(heap, wish)
        elif wish > heap[0]:
            waiting.append(heapreplace(heap, wish)[1])
        else:
            waiting.append(partition)
    owners = [0] * partitions
    for member, heap in enumerate(kept):
        for _, partition in heap:
            owners[partition] = member
    return owners
