from pathlib import Path
from random import Random

import numpy as np
import pytest

from bench.ring import __main__ as command
from bench.ring.movement import Event, Mean, draw_events, key_shares, max_over_mean, moved, moves
from bench.ring.placements import Jump, hashed
from bench.ring.simulation import Size, partitions_for, ring_moves, slots_for


def test_a_join_counts_what_moved_and_what_of_it_was_needless() -> None:
    """Of eight keys the newcomer 3 is due a quarter (100 of 400); it got one, and two changed hands between the others."""
    before = np.array([1, 1, 1, 1, 2, 2, 2, 2])
    after = np.array([3, 1, 1, 2, 2, 2, 2, 1])

    move = moved(before, after, Event(3, 100, joins=True), {1: 100, 2: 200})

    assert (move.moved, move.needless, move.ideal) == (3 / 8, 2 / 8, 1 / 4)
    assert move.ratio == 1.5


def test_a_leave_counts_what_moved_and_what_of_it_was_needless() -> None:
    """Instance 2 had half of the fleet's weight; its four keys go to 1, and one of 1's goes to 3."""
    before = np.array([1, 1, 3, 3, 2, 2, 2, 2])
    after = np.array([3, 1, 3, 3, 1, 1, 1, 1])

    move = moved(before, after, Event(2, 200, joins=False), {1: 100, 2: 200, 3: 100})

    assert (move.moved, move.needless, move.ideal) == (5 / 8, 1 / 8, 1 / 2)
    assert move.ratio == 1.25


def test_the_greatest_share_is_measured_by_weight() -> None:
    shares = key_shares(np.array([1, 1, 2, 2]), {1: 100, 2: 300, 3: 100})

    assert shares == {1: 0.5, 2: 0.5, 3: 0.0}
    assert max_over_mean(shares, {1: 100, 2: 300, 3: 100}) == 2.5


def test_a_mean_has_the_standard_error_of_its_values() -> None:
    mean = Mean.of([1.0, 2.0, 3.0, 4.0])

    assert mean.value == 2.5
    assert mean.error == pytest.approx(1.2909944 / 2)


def test_jump_moves_every_key_behind_the_gap_when_the_first_leaves() -> None:
    """Two of two keys: bucket 0 becomes instance 2, bucket 1 becomes instance 3."""
    fleet = {1: 100, 2: 100, 3: 100}
    hashes = hashed([f"key{number}" for number in range(3000)])

    move = moves(Jump(fleet), fleet, [Event(1, 100, joins=False)], lambda after: after.owners(hashes))[0]

    assert move.moved == pytest.approx(1, abs=0.35)
    assert move.needless > 0.3


def test_events_alternate_and_leave_only_members() -> None:
    fleet = {1: 100, 2: 200}

    events = draw_events(fleet, 3, Random(1), (100,))

    assert [event.joins for event in events] == [True, False] * 3
    assert all(fleet[event.number] == event.weight for event in events if not event.joins)


def test_a_fleet_has_64_partitions_for_each_instance() -> None:
    assert [partitions_for(count) for count in (1, 10, 100, 1_000, 10_000)] == [256, 1024, 8192, 65_536, 1_048_576]


def test_a_maglev_table_has_a_prime_number_of_slots() -> None:
    assert [slots_for(count) for count in (10, 1_000)] == [65_537, 100_003]


def test_the_ring_moves_at_most_five_hundredths_more_than_its_share() -> None:
    """The target, at a size that a test can afford; `python -m bench.ring` shows all."""
    ring = ring_moves(Size(100, fleets=8, events=8, slow_events=0, keys=0, lookups=0, rebuilds=0), partitions_for(100))

    assert ring.needless <= 0.05
    assert ring.max_over_mean <= 1.25


def test_the_command_writes_tables_and_a_plot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "QUICK", (Size(4, 1, 1, 1, 200, 20, 1),))
    monkeypatch.setattr(command, "_QUICK_SWEEP", Size(4, 1, 1, 0, 0, 0, 0))

    command.main(["--quick", "--out", str(tmp_path)])

    assert "| Hither's ring |".replace(" ", "") in capsys.readouterr().out.replace(" ", "")
    assert (tmp_path / "ring.md").read_text().count("Maglev|") == 1
    assert (tmp_path / "ring.svg").stat().st_size > 1000
