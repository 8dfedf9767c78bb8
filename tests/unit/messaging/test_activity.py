"""What an inbox says of its conversations: that it follows from the rows alone, and what counts as unread."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.messaging.activity import OWN_SEQS, RecentActivity, follow, unread_count
from services.ports.message_store import ActivityPlace, ActivityRow, Head, InboxRow


def row(pos: int, seq: int, sender_id: str = "ann", conversation_id: str = "c", user_id: str = "bob") -> InboxRow:
    return InboxRow(user_id, pos, pos, conversation_id, seq, sender_id, b"")


def by_place(activity: Sequence[ActivityRow]) -> dict[ActivityPlace, ActivityRow]:
    return {(item.user_id, item.conversation_id): item for item in activity}


def told(senders: str, first_seq: int = 1) -> list[InboxRow]:
    """Bob's rows of one conversation: "a" is a message of Ann's, "b" one of his own, "-" one that was not for him."""
    names = {"a": "ann", "b": "bob"}
    rows: list[InboxRow] = []
    for seq, sender in enumerate(senders, first_seq):
        if sender in names:
            rows.append(row(len(rows) + 1, seq, names[sender]))
    return rows


def unread(senders: str, seen_seq: int) -> int:
    (activity,) = follow({}, told(senders))
    return unread_count(activity, seen_seq)


@pytest.mark.parametrize(
    ("senders", "seen_seq", "count"),
    [
        ("aaa", 0, 3),
        ("aaa", 2, 1),
        ("aaa", 3, 0),
        ("aaab", 0, 3),
        ("aaab", 3, 0),
        ("abab", 1, 1),
        ("bbbb", 0, 0),
        ("--aa", 0, 2),
        ("--aa", 3, 1),
        ("aa--aba", 0, 2),
        ("aa--aba", 5, 1),
        ("a", 9, 0),
    ],
)
def test_unread_are_messages_of_others_after_the_seen_mark_since_the_user_came(
    senders: str, seen_seq: int, count: int
) -> None:
    assert unread(senders, seen_seq) == count


def test_what_came_before_the_oldest_own_message_that_is_known_counts_as_read() -> None:
    assert unread("a" * 5 + "b" * (OWN_SEQS - 1) + "a", 0) == 6
    assert unread("a" * 5 + "b" * OWN_SEQS + "a", 0) == 1
    assert unread("a" * 5 + "b" * (OWN_SEQS + 7) + "aa", 0) == 2


@given(senders=st.text("ab", min_size=1, max_size=40), seen=st.integers(0, 41))
def test_the_count_is_what_counting_gives(senders: str, seen: int) -> None:
    counted = sum(sender == "a" for sender in senders[seen:])

    if senders.count("b") < OWN_SEQS:
        assert unread(senders, seen) == counted
    assert 0 <= unread(senders, seen) <= counted


@given(senders=st.text("ab-", min_size=1, max_size=30), cuts=st.lists(st.integers(0, 30), max_size=6))
def test_rows_in_whatever_batches_and_again_and_again_lead_to_the_same(senders: str, cuts: list[int]) -> None:
    rows = told(senders)
    known: dict[ActivityPlace, ActivityRow] = {}

    for start in [0, *cuts]:  # each attempt begins somewhere at or before what was applied, and goes on to the end
        known |= by_place(follow(known, rows[min(start, len(rows)) :]))

    assert known == by_place(follow({}, rows))


def test_rows_that_are_known_change_nothing() -> None:
    known = by_place(follow({}, told("aab")))

    assert follow(known, told("aab")) == []


def test_conversations_and_users_do_not_mix() -> None:
    rows = [row(1, 1), row(2, 7, conversation_id="d"), row(1, 1, user_id="ann"), row(3, 2, "bob")]

    assert follow({}, rows) == [
        ActivityRow("bob", "c", 3, 2, 1, (2,)),
        ActivityRow("bob", "d", 2, 7, 7, ()),
        ActivityRow("ann", "c", 1, 1, 1, (1,)),
    ]


def write(recent: RecentActivity, rows: Sequence[InboxRow], head: int) -> list[ActivityRow]:
    heads = {user_id: Head(head, head) for user_id in ("bob", "cid", "ann")}
    activity = follow(recent.known(rows, heads), rows)
    recent.wrote(rows, activity, heads)
    return activity


def test_what_was_written_is_known_while_the_inbox_ends_with_it() -> None:
    recent = RecentActivity(100)
    written = write(recent, [row(1, 1), row(2, 1, conversation_id="d")], 0)

    rows = [row(3, 2), row(4, 1, conversation_id="e")]
    assert recent.known(rows, {"bob": Head(2, 2)}) == {("bob", "c"): written[0]}
    assert recent.known(rows, {"bob": Head(5, 5)}) == {}


def test_what_was_known_before_another_owner_wrote_is_forgotten() -> None:
    recent = RecentActivity(100)
    write(recent, [row(1, 1), row(2, 1, conversation_id="d")], 0)

    write(recent, [row(9, 5)], 8)

    assert recent.known([row(10, 2, conversation_id="d")], {"bob": Head(9, 9)}) == {}
    assert recent.known([row(10, 6)], {"bob": Head(9, 9)}).keys() == {("bob", "c")}


def test_users_whose_inboxes_were_quiet_for_longest_are_forgotten_first() -> None:
    recent = RecentActivity(2)
    write(recent, [row(1, 1)], 0)
    write(recent, [row(1, 1, user_id="cid")], 0)
    write(recent, [row(2, 2)], 1)
    write(recent, [row(1, 1, user_id="ann")], 0)

    assert recent.known([row(2, 2, user_id="cid")], {"cid": Head(1, 1)}) == {}
    assert recent.known([row(3, 3)], {"bob": Head(2, 2)})
