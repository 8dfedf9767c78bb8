import asyncio
from collections.abc import Sequence

import pytest

from discovery.errors import Unavailable
from services.ports.log import Record
from services.storage.kafka.tail import Tail

KIB = 1024


def records(first: int, *values: bytes) -> list[Record]:
    return [Record(first + n, value) for n, value in enumerate(values)]


def offsets(found: Sequence[Record] | None) -> list[int]:
    assert found is not None
    return [record.offset for record in found]


@pytest.fixture
def tail() -> Tail:
    """Stands at offset 10, followed, and confirmed to be the end."""
    tail = Tail("t", 0)
    tail.learn_ends(0, 10)
    tail.follow_from(0)
    tail.confirm()
    return tail


def test_a_tail_that_nobody_confirmed_knows_nothing() -> None:
    assert Tail("t", 0).read(0, 10) is None


def test_the_confirmed_end_reads_as_nothing(tail: Tail) -> None:
    assert tail.read(10, 5) == []
    assert tail.read(1_000, 5) == []


def test_what_lies_before_the_window_is_not_known(tail: Tail) -> None:
    assert tail.read(9, 5) is None


def test_what_this_process_appended_at_the_end_can_be_read(tail: Tail) -> None:
    tail.appended(10, [b"a", b"b", b"c"])

    assert tail.read(11, 1) == records(11, b"b")
    assert offsets(tail.read(10, 9)) == [10, 11, 12]


def test_an_append_that_leaves_a_gap_shows_only_that_there_is_more(tail: Tail) -> None:
    tail.appended(12, [b"c"])

    assert tail.has_from(10)
    assert tail.read(10, 5) is None


def test_what_was_fetched_fills_the_gap_and_the_next_append_continues_it(tail: Tail) -> None:
    tail.appended(12, [b"c"])

    tail.extend(records(10, b"a", b"b", b"c"), 13)
    tail.appended(13, [b"d"])

    assert offsets(tail.read(10, 9)) == [10, 11, 12, 13]


def test_a_window_lets_go_of_its_beginning_and_keeps_its_end(tail: Tail) -> None:
    for n in range(10, 50):
        tail.appended(n, [b"x" * 100 * KIB])

    assert tail.size_bytes <= KIB * KIB
    assert tail.read(10, 5) is None
    assert offsets(tail.read(48, 5)) == [48, 49]


def test_a_record_that_is_larger_than_the_window_is_let_go_of_and_stays_known_to_be_there(tail: Tail) -> None:
    tail.appended(10, [b"x" * 2 * KIB * KIB])

    assert tail.has_from(10)
    assert tail.read(10, 5) is None
    assert tail.read(11, 5) == []


def test_a_replaced_window_keeps_its_beginning_for_the_reader_that_goes_on_from_there(tail: Tail) -> None:
    tail.replace(records(2, *[b"x" * 300 * KIB] * 6))

    assert offsets(tail.read(2, 9)) == [2, 3, 4]
    assert tail.read(5, 9) is None


def test_records_before_the_oldest_kept_are_skipped(tail: Tail) -> None:
    tail.replace(records(4, b"e", b"f", b"g"))
    tail.learn_ends(5, 0)

    assert offsets(tail.read(0, 9)) == [5, 6]


def test_an_end_that_was_lost_with_its_replicas_is_the_end_no_more(tail: Tail) -> None:
    tail.appended(10, [b"a", b"b"])

    tail.cut(8)

    assert not tail.has_from(8)
    assert tail.next_offset == 8


async def test_failing_ends_each_wait_with_an_error_of_its_own(tail: Tail) -> None:
    waiting = [asyncio.create_task(tail.wait(10)) for _ in range(2)]
    await asyncio.sleep(0)

    tail.fail(lambda: Unavailable("Away."))

    errors = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(error) for error in errors] == [Unavailable, Unavailable]
    assert errors[0] is not errors[1]
    assert not tail.awaited


async def test_a_wait_wakes_for_its_offset_and_not_before(tail: Tail) -> None:
    waiting = asyncio.create_task(tail.wait(11))
    await asyncio.sleep(0)

    tail.appended(10, [b"a"])
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert not waiting.done()

    tail.appended(11, [b"b"])
    await waiting
