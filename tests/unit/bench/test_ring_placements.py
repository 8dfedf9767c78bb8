import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.ring.placements import FillingJump, Fleet, Jump, Maglev, Placement, Rendezvous, Ring, fill, hashed, jump

KEYS = [f"key{number}" for number in range(500)]
HASHES = hashed(KEYS)
FLEET = dict.fromkeys(range(7), 100)
PLACEMENTS = [Ring(FLEET, 256), Rendezvous(FLEET), Jump(FLEET), FillingJump(FLEET), Maglev(FLEET, 997)]

fleets = st.dictionaries(st.integers(0, 1000), st.sampled_from([50, 100, 200]), min_size=2, max_size=12)


@pytest.mark.parametrize("placement", PLACEMENTS, ids=lambda placement: type(placement).__name__)
def test_one_key_at_a_time_or_many_at_once_have_the_same_owners(placement: Placement) -> None:
    for following in (placement, placement.joined(9, 100), placement.left(3)):
        assert [following.owner(key) for key in KEYS] == following.owners(HASHES).tolist()


@pytest.mark.parametrize("placement", PLACEMENTS, ids=lambda placement: type(placement).__name__)
def test_who_left_owns_nothing_and_who_joined_something(placement: Placement) -> None:
    assert 3 not in placement.left(3).owners(HASHES)
    assert 9 in placement.joined(9, 100).owners(HASHES)


@pytest.mark.parametrize("placement", PLACEMENTS, ids=lambda placement: type(placement).__name__)
def test_the_shares_add_up_to_one(placement: Placement) -> None:
    shares = placement.shares()

    assert shares.keys() == FLEET.keys()
    assert sum(shares.values()) == pytest.approx(1)


@pytest.mark.parametrize(
    ("key", "buckets", "bucket"),
    [(1, 1, 0), (42, 57, 43), (0xDEAD10CC, 1, 0), (0xDEAD10CC, 666, 361), (256, 1024, 520)],
)
def test_jump_gives_the_buckets_that_other_implementations_give(key: int, buckets: int, bucket: int) -> None:
    assert jump(key, buckets) == bucket


def test_maglev_fills_the_table_of_the_paper() -> None:
    """Table 1 of the paper: three backends, seven slots; and after the second of them has gone."""
    first, second, third = (3, 4), (0, 2), (3, 1)

    assert fill([first, second, third], [1, 1, 1], 7) == [1, 0, 1, 0, 2, 2, 0]
    assert fill([first, third], [1, 1], 7) == [0, 0, 0, 0, 1, 1, 1]


def test_a_maglev_instance_of_twice_the_weight_takes_twice_the_slots() -> None:
    shares = Maglev({1: 100, 2: 200, 3: 100}, 997).shares()

    assert [round(shares[number], 2) for number in (1, 2, 3)] == [0.25, 0.5, 0.25]


@settings(max_examples=30, deadline=None)
@given(fleets)
def test_rendezvous_moves_nothing_without_need(fleet: Fleet) -> None:
    before = Rendezvous(fleet).owners(HASHES)
    leaver = min(fleet)
    joined, left = Rendezvous({**fleet, 5000: 100}).owners(HASHES), Rendezvous(fleet).left(leaver).owners(HASHES)

    assert set(joined[joined != before]) <= {5000}
    assert set(before[left != before]) <= {leaver}


@settings(max_examples=30, deadline=None)
@given(fleets)
def test_rendezvous_finds_in_steps_what_it_finds_at_once(fleet: Fleet) -> None:
    first, *others = fleet
    rest = {number: fleet[number] for number in others}
    whole, stepwise = Rendezvous({**rest, first: 100}), Rendezvous(rest).joined(first, 100)

    assert stepwise.owners(HASHES).tolist() == whole.owners(HASHES).tolist()
    assert whole.left(first).owners(HASHES).tolist() == Rendezvous(rest).owners(HASHES).tolist()


def test_a_heavier_instance_gets_more_by_rendezvous() -> None:
    owners = Rendezvous({1: 100, 2: 300}).owners(hashed([f"key{number}" for number in range(20_000)]))

    assert (owners == 2).mean() == pytest.approx(0.75, abs=0.02)
