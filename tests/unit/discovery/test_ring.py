from fractions import Fraction
from math import ceil, floor

from hypothesis import given, settings
from hypothesis import strategies as st

from discovery import ring
from discovery.partitions import partition_of
from discovery.ring import LOAD_BOUND, POINTS_AT_WEIGHT_100, assign

names = st.text("abcdefghij0123456789-", min_size=1, max_size=12)
members = st.dictionaries(names, st.integers(1, 1000), min_size=1, max_size=30)
sizes = st.sampled_from([1, 16, 256])


@settings(deadline=None)
@given(members, sizes)
def test_every_partition_has_one_owner_among_the_members(ids: dict[str, int], partitions: int) -> None:
    owners = assign(ids, partitions)

    assert len(owners) == partitions
    assert set(owners) <= set(ids)


@settings(deadline=None)
@given(members, sizes)
def test_no_member_owns_more_than_its_bound(ids: dict[str, int], partitions: int) -> None:
    owners = assign(ids, partitions)

    for name, weight in ids.items():
        share = Fraction(partitions * weight, sum(ids.values()))
        assert owners.count(name) <= max(floor(share * LOAD_BOUND), ceil(share))


@settings(deadline=None)
@given(members, sizes, st.randoms())
def test_the_order_of_the_members_does_not_matter(ids: dict[str, int], partitions: int, random) -> None:  # type: ignore[no-untyped-def]
    shuffled = list(ids.items())
    random.shuffle(shuffled)

    assert assign(dict(shuffled), partitions) == assign(ids, partitions)


@settings(max_examples=60, deadline=None)
@given(st.sets(names, min_size=2, max_size=20), names)
def test_a_join_moves_little_more_than_its_share(ids: set[str], newcomer: str) -> None:
    before = assign(dict.fromkeys(ids - {newcomer}, 100), 256)
    after = assign(dict.fromkeys(ids | {newcomer}, 100), 256)
    share = 256 / len(ids | {newcomer})

    moved = sum(old != new for old, new in zip(before, after, strict=False))

    assert moved <= 2 * share + 8


def test_the_newcomer_gets_close_to_its_share() -> None:
    owners = assign({f"i{number}": 100 for number in range(10)}, 256)

    assert all(15 <= owners.count(f"i{number}") <= 32 for number in range(10))


@settings(max_examples=60, deadline=None)
@given(
    st.dictionaries(names, st.sampled_from([50, 100, 300]), min_size=1, max_size=8), st.sampled_from([1, 16, 37, 100])
)
def test_no_partition_and_member_would_both_rather_have_each_other(ids: dict[str, int], partitions: int) -> None:
    """Stable, and so independent of the order of events: the pairs that are nearest to each other are matched first."""
    assert assign(ids, partitions) == nearest_first(ids, partitions)


def nearest_first(ids: dict[str, int], partitions: int) -> tuple[str, ...]:
    """The same matching by brute force: all pairs of a partition and a point, the nearest first."""
    ordered = sorted(ids)
    room = dict(zip(ordered, ring._bounds(ordered, ids, partitions, LOAD_BOUND), strict=True))
    circle = ring._CIRCLE
    pairs = []
    for name in ordered:
        for point in ring._points(name, max(1, ids[name] * POINTS_AT_WEIGHT_100 // 100)).tolist():
            for partition in range(partitions):
                gap = (point - circle * partition // partitions) % circle
                pairs.append((min(gap, circle - gap), partition, name))
    owners: dict[int, str] = {}
    for _, partition, name in sorted(pairs):
        if partition not in owners and room[name]:
            owners[partition] = name
            room[name] -= 1
    return tuple(owners[partition] for partition in range(partitions))


@settings(max_examples=20, deadline=None)
@given(members, sizes, st.integers(2, 9))
def test_only_the_proportion_of_the_weights_bounds_a_member(ids: dict[str, int], partitions: int, factor: int) -> None:
    scaled = {name: weight * factor for name, weight in ids.items()}
    ordered = sorted(ids)

    assert ring._bounds(ordered, scaled, partitions, LOAD_BOUND) == ring._bounds(ordered, ids, partitions, LOAD_BOUND)


def test_with_64_partitions_for_each_member_a_join_or_a_leave_moves_a_twentieth_more_than_it_must() -> None:
    moved = must = 0
    fleet = {f"i{number}": 100 for number in range(60)}
    before = assign(fleet, 4096)
    for number in range(20):
        rest = {name: weight for name, weight in fleet.items() if name != f"i{number}"}
        after = assign(rest, 4096)
        moved += sum(old != new for old, new in zip(before, after, strict=True))
        must += before.count(f"i{number}")

    assert moved <= 1.05 * must


def test_a_heavier_member_owns_more() -> None:
    owners = assign({"light": 50, "heavy": 150}, 256)

    assert owners.count("heavy") > 2 * owners.count("light")


def test_without_members_nobody_owns_anything() -> None:
    assert assign({}, 16) == ()


def test_the_assignment_is_the_same_for_ever() -> None:
    """Processes of different versions must agree: whoever changes this splits a running cluster."""
    assert assign({"a": 100, "b": 100, "c": 100}, 16) == tuple("abaacabbcccaaccb")


def test_the_hash_of_a_key_is_the_same_for_ever() -> None:
    assert [partition_of(key, 256) for key in ("alice", "g.1", "")] == [176, 145, 194]
