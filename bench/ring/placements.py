"""Four ways to say who owns a key, behind one face: Hither's ring, and three from the literature to compare it with.

- Rendezvous hashing, or highest random weight: Thaler and Ravishankar, "Using Name-Based Mappings to Increase Hit Rates"
  (1998); with weights by the logarithmic method of Schindelhauer and Schomaker, "Weighted Distributed Hash Tables" (2005).
- Jump consistent hash: Lamping and Veach, "A Fast, Minimal Memory, Consistent Hash Algorithm" (2014).
- Maglev hashing: Eisenbud et al., "Maglev: A Fast and Reliable Software Network Load Balancer" (2016), section 3.4.

Instances are numbers here, and all schemes hash a key by XXH3. Each scheme answers one key at a time, as a router asks, and
many hashed keys at once, so that a simulation ends.
"""

from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from functools import partial
from typing import Final, Protocol, Self

import numpy as np
from numpy.typing import NDArray
from xxhash import xxh3_64_intdigest

from discovery.partitions import partition_of
from discovery.ring import LOAD_BOUND, POINTS_AT_WEIGHT_100, assign

Fleet = Mapping[int, int]
"""Numbers of instances to their weights, in the order in which they joined."""
Hashes = NDArray[np.uint64]
Numbers = NDArray[np.int64]

_CHUNK: Final = 1 << 17
_MASK: Final = (1 << 64) - 1


class Placement(Protocol):
    """Who owns what, for one fleet. Never changes."""

    def owner(self, key: str) -> int:
        """The instance that owns the key."""

    def owners(self, hashes: Hashes) -> Numbers:
        """The owner of each of these hashed keys."""

    def shares(self) -> dict[int, float]:
        """Share of all keys that each instance has, exactly; the shares add up to 1."""

    def joined(self, number: int, weight: int) -> "Placement":
        """The placement after one more instance came."""

    def left(self, number: int) -> "Placement":
        """The placement after this instance went."""


def hashed(keys: Sequence[str]) -> Hashes:
    """The hash of each key, the one that discovery.partitions takes."""
    return np.fromiter((xxh3_64_intdigest(key.encode()) for key in keys), np.uint64, len(keys))


class _Rebuilt:
    """A placement that is built anew for every fleet, by the same recipe."""

    def __init__(self, fleet: Fleet, build: Callable[[Fleet], Self]) -> None:
        self._fleet = fleet
        self._build = build

    def joined(self, number: int, weight: int) -> Self:
        return self._build({**self._fleet, number: weight})

    def left(self, number: int) -> Self:
        return self._build({other: weight for other, weight in self._fleet.items() if other != number})


class Ring(_Rebuilt):
    """Hither's own: key -> partition -> owner."""

    def __init__(
        self, fleet: Fleet, partitions: int, points: int = POINTS_AT_WEIGHT_100, bound: Fraction = LOAD_BOUND
    ) -> None:
        super().__init__(fleet, partial(Ring, partitions=partitions, points=points, bound=bound))
        members = {f"instance-{number}": weight for number, weight in fleet.items()}
        numbers = {f"instance-{number}": number for number in fleet}
        self._partitions = partitions
        self._owners = [numbers[name] for name in assign(members, partitions, points=points, bound=bound)]

    def owner(self, key: str) -> int:
        """See Placement."""
        return self._owners[partition_of(key, self._partitions)]

    def owners(self, hashes: Hashes) -> Numbers:
        """See Placement."""
        owners: Numbers = self.partition_owners()[hashes % np.uint64(self._partitions)]
        return owners

    def partition_owners(self) -> Numbers:
        """The owner of each partition."""
        return np.array(self._owners)

    def shares(self) -> dict[int, float]:
        """See Placement: a partition is as good as any other."""
        return _shares(self._fleet, self._owners)


class Rendezvous:
    """The instance that scores highest for the key owns it."""

    def __init__(self, fleet: Fleet, parent: "Rendezvous | None" = None) -> None:
        self.fleet = fleet
        self._parent = parent
        self._numbers = np.fromiter(fleet, np.int64, len(fleet))
        self._seeds = hashed([f"instance-{number}" for number in fleet])
        self.even = len(set(fleet.values())) == 1
        self._weights = np.fromiter(fleet.values(), np.float64, len(fleet))
        self._answer: tuple[Hashes, NDArray[np.float64], Numbers] | None = None

    def owner(self, key: str) -> int:
        """See Placement."""
        return int(self._numbers[self._scores(np.uint64(xxh3_64_intdigest(key.encode()))).argmax()])

    def owners(self, hashes: Hashes) -> Numbers:
        """See Placement. After a join or a leave only what can have changed is computed."""
        return self.best(hashes)[1]

    def shares(self) -> dict[int, float]:
        """See Placement: even by construction."""
        total = sum(self.fleet.values())
        return {number: weight / total for number, weight in self.fleet.items()}

    def joined(self, number: int, weight: int) -> "Rendezvous":
        """See Placement."""
        return Rendezvous({**self.fleet, number: weight}, self)

    def left(self, number: int) -> "Rendezvous":
        """See Placement."""
        return Rendezvous({other: weight for other, weight in self.fleet.items() if other != number}, self)

    def _scores(self, hashes: NDArray[np.uint64] | np.uint64, chosen: slice = slice(None)) -> NDArray[np.float64]:
        mixed = _mix(self._seeds[chosen] ^ hashes)
        if self.even:
            return mixed  # type: ignore[return-value] # whole numbers order as well, and faster
        uniform = (mixed >> np.uint64(11)).astype(np.float64) * 2.0**-53 + 2.0**-54
        scores: NDArray[np.float64] = self._weights[chosen] / -np.log(uniform)
        return scores

    def best(self, hashes: Hashes) -> tuple[NDArray[np.float64], Numbers]:
        """The highest score for each key, and whose it is."""
        if self._answer is None or self._answer[0] is not hashes:
            self._answer = (hashes, *self._compute(hashes))
        return self._answer[1:]

    def _compute(self, hashes: Hashes) -> tuple[NDArray[np.float64], Numbers]:
        parent = self._parent
        if parent is None or parent.even != self.even:
            return self._search(hashes)
        scores, owners = parent.best(hashes)
        if len(self.fleet) > len(parent.fleet):
            new = self._scores(hashes, slice(-1, None))
            return np.maximum(scores, new), np.where(new > scores, self._numbers[-1], owners)
        bereft = ~np.isin(owners, self._numbers)
        scores, owners = scores.copy(), owners.copy()
        scores[bereft], owners[bereft] = self._search(hashes[bereft])
        return scores, owners

    def _search(self, hashes: Hashes) -> tuple[NDArray[np.float64], Numbers]:
        rows = max(1, _CHUNK // len(self.fleet))
        scores, owners = [], []
        for start in range(0, len(hashes), rows):
            table = self._scores(hashes[start : start + rows, None])
            best = table.argmax(axis=1)
            scores.append(table[np.arange(len(best)), best])
            owners.append(self._numbers[best])
        if not scores:
            return np.empty(0), np.empty(0, np.int64)
        return np.concatenate(scores), np.concatenate(owners)


class Jump(_Rebuilt):
    """Instances stand in a row; no weights, and only the last can leave. Whoever else leaves, the row closes ranks."""

    def __init__(self, fleet: Fleet) -> None:
        super().__init__(fleet, Jump)
        self._row = list(fleet)
        self._numbers = np.array(self._row)

    def owner(self, key: str) -> int:
        """See Placement."""
        return self._row[jump(xxh3_64_intdigest(key.encode()), len(self._row))]

    def owners(self, hashes: Hashes) -> Numbers:
        """See Placement."""
        return self._numbers[_jump_all(hashes, len(self._row))]

    def shares(self) -> dict[int, float]:
        """See Placement: even by construction."""
        return dict.fromkeys(self._row, 1 / len(self._row))


class FillingJump(Jump):
    """The same, but the last of the row takes the place of whoever leaves."""

    def left(self, number: int) -> Self:
        """See Placement."""
        row = [self._row[-1] if other == number else other for other in self._row[:-1]]
        return type(self)({other: self._fleet[other] for other in row})


def jump(key: int, buckets: int) -> int:
    """The bucket of a hashed key, 0 to buckets - 1."""
    bucket, following = -1, 0
    while following < buckets:
        bucket = following
        key = key * 2862933555777941757 + 1 & _MASK
        following = int((bucket + 1) * (float(1 << 31) / float((key >> 33) + 1)))
    return bucket


def _jump_all(hashes: Hashes, buckets: int) -> Numbers:
    keys = hashes.copy()
    found = np.zeros(len(keys), np.int64)
    going = np.arange(len(keys))
    following = np.zeros(len(keys), np.int64)
    while len(going):
        found[going] = following
        keys = keys * np.uint64(2862933555777941757) + np.uint64(1)
        drawn = (keys >> np.uint64(33)).astype(np.float64) + 1
        following = ((following + 1) * (float(1 << 31) / drawn)).astype(np.int64)
        still = following < buckets
        keys, going, following = keys[still], going[still], following[still]
    return found


class Maglev(_Rebuilt):
    """A table that the instances fill in turns, each after a permutation of its own."""

    def __init__(self, fleet: Fleet, slots: int) -> None:
        super().__init__(fleet, partial(Maglev, slots=slots))
        numbers = list(fleet)
        names = [f"instance-{number}".encode() for number in numbers]
        ways = [
            (xxh3_64_intdigest(name, seed=1) % slots, xxh3_64_intdigest(name, seed=2) % (slots - 1) + 1)
            for name in names
        ]
        self._slots = slots
        self._table = [numbers[index] for index in fill(ways, list(fleet.values()), slots)]

    def owner(self, key: str) -> int:
        """See Placement."""
        return self._table[xxh3_64_intdigest(key.encode()) % self._slots]

    def owners(self, hashes: Hashes) -> Numbers:
        """See Placement."""
        owners: Numbers = np.array(self._table)[hashes % np.uint64(self._slots)]
        return owners

    def shares(self) -> dict[int, float]:
        """See Placement."""
        return _shares(self._fleet, self._table)


def fill(ways: Sequence[tuple[int, int]], weights: Sequence[int], slots: int) -> list[int]:
    """Maglev's table: the index of the owner of each slot. `ways` has the (offset, skip) of each instance, `slots` is prime and
    more than there are instances. In each round the heaviest has one turn, the others as many as their weight is of its.
    """
    table = [-1] * slots
    places = [offset for offset, _ in ways]
    turns, heaviest = [0] * len(ways), max(weights)
    empty = slots
    while True:
        for index, (_, skip) in enumerate(ways):
            turns[index] += weights[index]
            if turns[index] < heaviest:
                continue
            turns[index] -= heaviest
            place = places[index]
            while table[place] >= 0:
                place = (place + skip) % slots
            table[place] = index
            places[index] = (place + skip) % slots
            empty -= 1
            if not empty:
                return table


def _mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finalizer of SplitMix64, in place."""
    values ^= values >> np.uint64(30)
    values *= np.uint64(0xBF58476D1CE4E5B9)
    values ^= values >> np.uint64(27)
    values *= np.uint64(0x94D049BB133111EB)
    values ^= values >> np.uint64(31)
    return values


def _shares(fleet: Fleet, owners: Sequence[int]) -> dict[int, float]:
    numbers, counts = np.unique(np.array(owners), return_counts=True)
    owned = dict(zip(numbers.tolist(), counts.tolist(), strict=True))
    return {number: owned.get(number, 0) / len(owners) for number in fleet}
