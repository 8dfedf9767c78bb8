"""The checker itself: it sees what it is there to see."""

import pytest

from tests.chaos.checker import Sent, check_history, check_inbox

A, B, C = (Sent("d.x", seq, 100 + seq, f"c{seq}") for seq in (1, 2, 3))


def test_a_right_history_and_a_right_inbox_have_no_problems() -> None:
    assert check_history("d.x", [A, B, C], [A, C]) == []
    assert check_inbox("phone", [(1, A), (2, B), (3, C)], [A, B, C]) == []


@pytest.mark.parametrize(
    ("history", "acked"),
    [
        ([A, C], [A]),
        ([B, A], [A]),
        ([A, Sent("d.x", 2, 102, "c1")], [A]),
        ([A], [A, B]),
        ([A, B], [Sent("d.x", 2, 999, "c2")]),
    ],
    ids=["a gap", "out of order", "doubled", "lost", "another id than was acked"],
)
def test_a_wrong_history_is_seen(history: list[Sent], acked: list[Sent]) -> None:
    assert check_history("d.x", history, acked) != []


@pytest.mark.parametrize(
    "inbox",
    [[(1, A), (3, B)], [(1, A), (2, A), (3, B)], [(1, A)], [(1, B), (2, A)], [(1, A), (2, B), (3, C)]],
    ids=["a gap", "doubled", "lost", "out of order", "one too many"],
)
def test_a_wrong_inbox_is_seen(inbox: list[tuple[int, Sent]]) -> None:
    assert check_inbox("phone", inbox, [A, B]) != []
