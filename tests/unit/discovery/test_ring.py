from fractions import Fraction
from math import ceil, floor

from hypothesis import given, settings
from hypothesis import strategies as st

from discovery.partitions import partition_of
from discovery.ring import LOAD_BOUND, assign

names = st.text("abcdefghij0123456789-", min_size=1, max_size=12)
members = st.dictionaries(names, st.integers(1, 1000), min_size=1, max_size=30)
sizes = st.sampled_from([1, 16, 256])


@given(members, sizes)
def test_every_partition_has_one_owner_among_the_members(ids: dict[str, int], partitions: int) -> None:
    owners = assign(ids, partitions)

    assert len(owners) == partitions
    assert set(owners) <= set(ids)


@given(members, sizes)
def test_no_member_owns_more_than_its_bound(ids: dict[str, int], partitions: int) -> None:
    owners = assign(ids, partitions)

    for name, weight in ids.items():
        share = Fraction(partitions * weight, sum(ids.values()))
        assert owners.count(name) <= max(floor(share * LOAD_BOUND), ceil(share))


@given(members, sizes, st.randoms())
def test_the_order_of_the_members_does_not_matter(ids: dict[str, int], partitions: int, random) -> None:  # type: ignore[no-untyped-def]
    shuffled = list(ids.items())
    random.shuffle(shuffled)

    assert assign(dict(shuffled), partitions) == assign(ids, partitions)


@settings(max_examples=60)
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


def test_a_heavier_member_owns_more() -> None:
    owners = assign({"light": 50, "heavy": 150}, 256)

    assert owners.count("heavy") > 2 * owners.count("light")


def test_without_members_nobody_owns_anything() -> None:
    assert assign({}, 16) == ()


def test_the_assignment_is_the_same_for_ever() -> None:
    """Processes of different versions must agree: whoever changes this splits a running cluster."""
    assert assign({"a": 100, "b": 100, "c": 100}, 16) == tuple("cbbacacbccaabcaa")


def test_the_hash_of_a_key_is_the_same_for_ever() -> None:
    assert [partition_of(key, 256) for key in ("alice", "g.1", "")] == [176, 145, 194]
