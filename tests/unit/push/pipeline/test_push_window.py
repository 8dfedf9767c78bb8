"""What is settled, and how it is committed."""

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from services.ports.log import Committed
from services.push.window import MOST_OFFSETS, MOST_PAIRS, Resumed, Window, read_committed, write_committed

LIMIT_BYTES = 3000


def test_nothing_is_committed_past_the_lowest_record_that_is_not_settled() -> None:
    window = Window(Resumed(10, frozenset()))
    for offset in (10, 11, 12, 13):
        assert window.read(offset)
    window.settle(11)
    window.settle(13)

    committed = write_committed(window.now({}))

    assert committed.next_offset == 10
    assert read_committed(committed).open_offsets == {10, 12}


def test_what_was_settled_before_a_crash_is_not_open_after_it() -> None:
    window = Window(read_committed(write_committed(Resumed(14, frozenset({10, 12})))))

    assert window.end == 10
    assert [window.read(offset) for offset in (10, 11, 12, 13, 14)] == [True, False, True, False, True]


def test_a_commit_in_the_middle_of_reading_again_keeps_what_was_settled_further_on() -> None:
    window = Window(Resumed(20, frozenset({10, 15})))
    window.read(10)
    window.settle(10)

    again = read_committed(write_committed(window.now({})))

    assert (again.end, again.open_offsets) == (20, frozenset({15}))


def test_everything_is_committed_when_everything_is_settled() -> None:
    window = Window(Resumed(0, frozenset()))
    window.read(0)
    window.settle(0)

    assert write_committed(window.now({})) == Committed(1, b"")


def test_the_last_alerts_of_pairs_survive() -> None:
    alerts = {2**64 - 1: 1_790_000_000_000, 5: 1_789_999_940_001}

    resumed = read_committed(write_committed(Resumed(3, frozenset(), alerts)))

    assert resumed == Resumed(3, frozenset(), alerts)


def test_a_full_state_is_small_enough_for_the_metadata_of_an_offset() -> None:
    rng = random.Random(1)
    open_offsets = frozenset({0, *rng.sample(range(MOST_OFFSETS), MOST_OFFSETS // 2)})
    alerts = {rng.getrandbits(64): 1_790_000_000_000 - rng.randrange(60_000) for _ in range(10 * MOST_PAIRS)}

    committed = write_committed(Resumed(MOST_OFFSETS, open_offsets, alerts))

    assert len(committed.state) <= LIMIT_BYTES
    assert read_committed(committed).open_offsets == open_offsets
    assert len(read_committed(committed).alerts) == MOST_PAIRS


def test_of_more_offsets_than_a_state_can_tell_of_the_later_count_as_open() -> None:
    resumed = read_committed(write_committed(Resumed(MOST_OFFSETS + 100, frozenset({0}))))

    assert resumed == Resumed(MOST_OFFSETS, frozenset({0}))


def test_a_state_of_another_kind_is_none() -> None:
    assert read_committed(Committed(5, b"something else")) == Resumed(5, frozenset())


@given(st.integers(0, 50), st.sets(st.integers(0, 300)), st.integers(1, 300), st.sets(st.integers(0, 300)))
@settings(deadline=None)
def test_a_window_reads_back_what_it_was(start: int, open_before: set[int], count: int, settled: set[int]) -> None:
    before = Resumed(start + 301, frozenset(start + n for n in open_before))
    window = Window(before)
    first = window.end
    opened = [offset for offset in range(first, first + count) if window.read(offset)]
    for n in settled:
        window.settle(start + n)

    again = read_committed(write_committed(window.now({})))

    still_open = {offset for offset in opened if offset - start not in settled}
    unread = {offset for offset in before.open_offsets if offset >= window.end}
    assert again.open_offsets == still_open | unread
    assert again.end == max(before.end, window.end)
