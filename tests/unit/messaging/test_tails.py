"""What may be answered from the newest messages of a conversation, and which of them are remembered."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.messaging.tails import MOST_MESSAGES, NO_BOUND, Asked, Tails, decode_tail, encode_tail, tail_of
from services.ports.message_store import Head, MessageRow

BOUNDS = st.integers(0, 12)


def rows(first: int, last: int, conversation_id: str = "g.1") -> list[MessageRow]:
    return [
        MessageRow(conversation_id, seq, "ann", f"c{seq}", 10 * seq, f"{conversation_id} {seq}".encode())
        for seq in range(first, last + 1)
    ]


def payloads(of: Sequence[MessageRow]) -> tuple[bytes, ...]:
    return tuple(row.payload for row in of)


@given(after=BOUNDS, before=BOUNDS, limit=st.integers(1, 12), newest=st.booleans(), head=BOUNDS)
def test_what_is_asked_for_are_the_places_that_a_store_would_give(
    after: int, before: int, limit: int, newest: bool, head: int
) -> None:
    between = [seq for seq in range(1, head + 1) if after < seq < before]

    seqs = Asked(after, before, limit, newest).seqs(head)

    assert list(seqs) == (between[-limit:] if newest else between[:limit])


def test_a_tail_keeps_the_newest_of_what_it_is_made_of() -> None:
    tail = tail_of(rows(1, 150))

    assert (tail.first_seq, tail.newest_seq, tail.log_offset) == (51, 150, 1500)
    assert tail.span(range(149, 151)).payloads == payloads(rows(149, 150))
    assert tail.span(range(151, 151)).payloads == ()


def test_a_tail_goes_on_with_the_rows_that_follow_its_last_one() -> None:
    extended = tail_of(rows(1, 5)).extended(rows(5, 8))

    assert extended == tail_of(rows(1, 8))


@pytest.mark.parametrize(
    "found",
    [
        [],
        rows(6, 8),
        [MessageRow("g.1", 5, "ann", "c5", 50, b"another"), *rows(6, 8)],
        [MessageRow("g.1", 5, "ann", "c5", 999, b"g.1 5"), *rows(6, 8)],
    ],
    ids=["nothing", "a gap", "another message", "another record"],
)
def test_a_tail_of_another_history_is_not_extended(found: list[MessageRow]) -> None:
    assert tail_of(rows(1, 5)).extended(found) is None


@pytest.mark.parametrize(
    ("head", "contradicted"),
    [(Head(4, 40), True), (Head(5, 51), True), (Head(5, 50), False), (Head(6, 60), False), (Head(0, -1), True)],
)
def test_a_head_tells_whether_a_tail_belongs_to_its_conversation(head: Head, contradicted: bool) -> None:
    assert tail_of(rows(1, 5)).contradicts(head) is contradicted


def test_a_tail_grows_backwards_by_adjacent_rows_only() -> None:
    tail = tail_of(rows(6, 8))

    assert tail.preceded_by(rows(3, 5)) == tail_of(rows(3, 8))
    assert tail.preceded_by(rows(3, 7)) == tail_of(rows(3, 8))
    assert tail.preceded_by(rows(1, 4)) == tail
    assert tail_of(rows(51, 150)).preceded_by(rows(1, 50)) == tail_of(rows(51, 150))


def test_a_stored_tail_comes_back_as_it_was_and_nothing_else_does() -> None:
    tail = tail_of(rows(3, 8))

    assert decode_tail(encode_tail(tail)) == tail
    assert decode_tail(b"\xff\xff\xff") is None
    assert decode_tail(b"") is None


def test_rows_reach_the_tails_that_they_follow_and_no_others() -> None:
    tails = Tails(10, 1_000_000)
    tails.put("g.1", tail_of(rows(1, 2)))
    tails.put("g.2", tail_of(rows(1, 2, "g.2")))

    tails.wrote([*rows(2, 4), *rows(4, 4, "g.2"), *rows(1, 1, "g.3")])

    assert tails.find("g.1") == tail_of(rows(1, 4))
    assert tails.find("g.2") == tail_of(rows(1, 2, "g.2"))
    assert tails.find("g.3") is None


def test_a_tail_is_never_replaced_by_an_older_or_a_shorter_one() -> None:
    tails = Tails(10, 1_000_000)
    tails.put("g.1", tail_of(rows(2, 5)))

    tails.put("g.1", tail_of(rows(1, 4)))
    tails.put("g.1", tail_of(rows(3, 5)))
    assert tails.find("g.1") == tail_of(rows(2, 5))

    tails.put("g.1", tail_of(rows(1, 5)))
    assert tails.find("g.1") == tail_of(rows(1, 5))


def test_the_conversations_that_were_not_read_for_longest_give_way() -> None:
    tails = Tails(2, 1_000_000)
    for name in ("g.1", "g.2"):
        tails.put(name, tail_of(rows(1, 2, name)))
    tails.find("g.1")
    tails.wrote(rows(3, 3, "g.2"))

    tails.put("g.3", tail_of(rows(1, 2, "g.3")))

    assert tails.find("g.2") is None
    assert tails.find("g.1")
    assert tails.find("g.3")


def test_tails_take_no_more_bytes_than_they_may() -> None:
    tails = Tails(1_000, 50_000)
    for number in range(100):
        tails.put(f"g.{number}", tail_of(rows(1, 5, f"g.{number}")))
        assert tails.size_bytes <= 50_000
    assert 0 < len(tails) < 100

    for seq in range(6, 300):
        tails.wrote(rows(seq, seq, "g.99"))
        assert tails.size_bytes <= 50_000
    newest = tails.find("g.99")
    assert newest is not None
    assert len(newest.payloads) == MOST_MESSAGES

    for number in range(100):
        tails.forget(f"g.{number}")
    assert tails.size_bytes == 0


def test_only_the_end_bounds_what_is_asked_up_to_the_end() -> None:
    assert Asked(0, NO_BOUND, 5, newest=True).to_the_end
    assert not Asked(0, 7, 5, newest=True).to_the_end
