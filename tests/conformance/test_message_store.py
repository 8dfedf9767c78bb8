"""What every message store promises."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import pytest

from discovery.errors import Unavailable
from services.ports.message_store import (
    Activity,
    ActivityRow,
    Head,
    InboxRow,
    MarkRow,
    MessageRow,
    MessageStore,
    RowConflict,
)
from tests.conformance.conftest import MessageStoreRig

BEYOND = 1 << 62


def message(
    seq: int, *, conversation: str = "c", sender: str = "ann", client_id: str = "", payload: bytes = b"hi"
) -> MessageRow:
    return MessageRow(conversation, seq, sender, client_id or f"id-{seq}", 100 + seq, payload)


def event(pos: int, *, user: str = "bob", conversation: str = "c", payload: bytes = b"hi") -> InboxRow:
    return InboxRow(user, pos, 200 + pos, conversation, pos, "ann", payload)


def activity(pos: int, *, user: str = "bob", conversation: str = "c", own: tuple[int, ...] = ()) -> ActivityRow:
    return ActivityRow(user, conversation, pos, pos, 1, own)


async def arrive(store: MessageStore, rows: Sequence[InboxRow]) -> None:
    """Puts inbox rows with what they make of their conversations."""
    await store.put_inbox(rows, [activity(row.pos, user=row.user_id, conversation=row.conversation_id) for row in rows])


# Conversations.


async def test_messages_are_read_in_the_order_of_their_seq(store: MessageStore) -> None:
    rows = [message(seq) for seq in range(1, 6)]
    await store.put_messages(rows)

    assert await store.read_messages("c", 0, BEYOND, 10, newest=False) == rows
    assert await store.read_messages("c", 0, BEYOND, 10, newest=True) == rows


async def test_a_limit_takes_the_newest_or_the_oldest_and_stays_ascending(store: MessageStore) -> None:
    rows = [message(seq) for seq in range(1, 6)]
    await store.put_messages(rows)

    assert await store.read_messages("c", 0, BEYOND, 2, newest=True) == rows[3:]
    assert await store.read_messages("c", 0, BEYOND, 2, newest=False) == rows[:2]
    assert await store.read_messages("c", 0, BEYOND, 0, newest=False) == []


async def test_both_ends_of_a_range_are_outside_of_it(store: MessageStore) -> None:
    rows = [message(seq) for seq in range(1, 6)]
    await store.put_messages(rows)

    assert await store.read_messages("c", 2, 5, 10, newest=False) == rows[2:4]
    assert await store.read_messages("c", 2, 5, 1, newest=True) == rows[3:4]
    assert await store.read_messages("c", 3, 4, 10, newest=False) == []


async def test_conversations_do_not_mix(store: MessageStore) -> None:
    await store.put_messages([message(1, conversation="c"), message(1, conversation="d"), message(2, conversation="d")])

    assert await store.read_messages("c", 0, BEYOND, 10, newest=False) == [message(1, conversation="c")]
    assert await store.conversation_heads(["d", "c"]) == {"d": Head(2, 102), "c": Head(1, 101)}


async def test_the_head_is_the_newest_row_and_zero_for_an_empty_conversation(store: MessageStore) -> None:
    await store.put_messages([message(1), message(2), message(3)])

    assert await store.conversation_heads(["c", "nothing", "c"]) == {"c": Head(3, 103), "nothing": Head(0, -1)}
    assert await store.conversation_heads([]) == {}


async def test_heads_of_many_conversations_come_at_once(store: MessageStore) -> None:
    rows = [message(1, conversation=f"c{n}") for n in range(700)]
    await store.put_messages(rows)

    heads = await store.conversation_heads([f"c{n}" for n in range(701)])

    assert heads == {**{f"c{n}": Head(1, 101) for n in range(700)}, "c700": Head(0, -1)}


async def test_a_sent_message_is_found_by_conversation_sender_and_client_id(store: MessageStore) -> None:
    row = message(1, client_id="x")
    await store.put_messages([row, message(2, sender="bob", client_id="x"), message(3, client_id="y")])

    found = await store.find_sent([("c", "ann", "x"), ("c", "bob", "y"), ("d", "ann", "x")])

    assert found == {("c", "ann", "x"): row}
    assert await store.find_sent([]) == {}


async def test_many_sent_messages_are_found_at_once(store: MessageStore) -> None:
    rows = [message(seq) for seq in range(1, 601)]
    await store.put_messages(rows)

    found = await store.find_sent([("c", "ann", f"id-{seq}") for seq in range(1, 700)])

    assert found == {("c", "ann", row.client_id): row for row in rows}


async def test_writing_the_same_messages_again_changes_nothing(store: MessageStore) -> None:
    rows = [message(1), message(2)]
    await store.put_messages(rows)

    await store.put_messages(rows)
    await store.put_messages([message(2), message(3)])

    assert await store.read_messages("c", 0, BEYOND, 10, newest=False) == [*rows, message(3)]


async def test_the_same_row_may_stand_twice_in_one_call(store: MessageStore) -> None:
    await store.put_messages([message(1), message(1)])

    assert await store.read_messages("c", 0, BEYOND, 10, newest=False) == [message(1)]


CONFLICTING_MESSAGES = {
    "another payload": message(1, payload=b"other"),
    "another client id": message(1, client_id="other"),
    "another sender": message(1, sender="bob"),
    "the same client id at another seq": message(9, client_id="id-1"),
    "another log offset": MessageRow("c", 1, "ann", "id-1", 999, b"hi"),
}


@pytest.mark.parametrize("row", CONFLICTING_MESSAGES.values(), ids=list(CONFLICTING_MESSAGES))
async def test_another_message_in_the_place_of_one_is_refused_with_its_whole_call(
    store: MessageStore, row: MessageRow
) -> None:
    await store.put_messages([message(1)])

    with pytest.raises(RowConflict):
        await store.put_messages([message(2), row])

    assert await store.read_messages("c", 0, BEYOND, 10, newest=False) == [message(1)]


async def test_a_refused_call_does_not_harm_those_beside_it(store: MessageStore) -> None:
    await store.put_messages([message(1)])

    outcomes = await asyncio.gather(
        store.put_messages([message(1, conversation="d")]),
        store.put_messages([message(1, payload=b"other")]),
        store.put_messages([message(1, conversation="e")]),
        store.put_inbox([event(1)]),
        return_exceptions=True,
    )

    assert [type(outcome) for outcome in outcomes] == [type(None), RowConflict, type(None), type(None)]
    assert await store.conversation_heads(["c", "d", "e"]) == dict.fromkeys("cde", Head(1, 101))
    assert await store.inbox_heads(["bob"]) == {"bob": Head(1, 201)}


async def test_rows_of_one_conversation_become_visible_all_at_once(store: MessageStore) -> None:
    async def write() -> None:
        for start in range(1, 200, 5):
            await store.put_messages([message(seq) for seq in range(start, start + 5)])

    writing = asyncio.create_task(write())
    while not writing.done():
        head = (await store.conversation_heads(["c"]))["c"]
        assert head.place % 5 == 0
        await asyncio.sleep(0)  # an adapter may answer without a pause
    await writing


async def test_a_read_that_starts_after_a_write_sees_it(store: MessageStore) -> None:
    for seq in range(1, 51):
        await store.put_messages([message(seq)])
        assert (await store.conversation_heads(["c"]))["c"].place == seq
        assert ("c", "ann", f"id-{seq}") in await store.find_sent([("c", "ann", f"id-{seq}")])


async def test_a_large_payload_is_kept(store: MessageStore) -> None:
    row = message(1, payload=bytes(range(256)) * 1024)
    await store.put_messages([row])

    assert await store.read_messages("c", 0, BEYOND, 1, newest=True) == [row]


async def test_writing_nothing_does_nothing(store: MessageStore) -> None:
    await store.put_messages([])
    await store.put_inbox([])

    assert await store.merge_marks([]) == []


# Inboxes.


async def test_an_inbox_is_read_from_a_place_on_in_order(store: MessageStore) -> None:
    rows = [event(pos) for pos in range(1, 6)]
    await store.put_inbox(rows)

    assert await store.read_inbox("bob", 0, 10) == rows
    assert await store.read_inbox("bob", 2, 2) == rows[2:4]
    assert await store.read_inbox("bob", 5, 10) == []
    assert await store.read_inbox("bob", 0, 0) == []
    assert await store.read_inbox("nobody", 0, 10) == []


async def test_inbox_heads_are_the_newest_rows_of_each_user(store: MessageStore) -> None:
    await store.put_inbox([event(1), event(2), event(1, user="cid")])

    assert await store.inbox_heads(["bob", "cid", "dan"]) == {
        "bob": Head(2, 202),
        "cid": Head(1, 201),
        "dan": Head(0, -1),
    }


async def test_writing_the_same_inbox_rows_again_changes_nothing(store: MessageStore) -> None:
    await store.put_inbox([event(1), event(2)])
    await store.put_inbox([event(2), event(3)])

    assert await store.read_inbox("bob", 0, 10) == [event(1), event(2), event(3)]


async def test_another_row_at_a_pos_is_refused_with_its_whole_call(store: MessageStore) -> None:
    await store.put_inbox([event(1)])

    with pytest.raises(RowConflict):
        await store.put_inbox([event(2), event(1, conversation="d")])

    assert await store.read_inbox("bob", 0, 10) == [event(1)]


async def test_rows_of_one_user_may_share_a_log_offset(store: MessageStore) -> None:
    rows = [InboxRow("bob", pos, 7, "c", pos, "ann", b"") for pos in (1, 2, 3)]
    await store.put_inbox(rows)

    assert await store.inbox_heads(["bob"]) == {"bob": Head(3, 7)}
    assert await store.read_inbox("bob", 0, 10) == rows


# Marks.


async def test_marks_only_grow_field_by_field(store: MessageStore) -> None:
    await store.merge_marks([MarkRow("c", "bob", 5, 2)])

    changed = await store.merge_marks([MarkRow("c", "bob", 3, 4)])

    assert changed == [MarkRow("c", "bob", 5, 4)]
    assert await store.read_marks("c", "", 10) == [MarkRow("c", "bob", 5, 4)]


async def test_merging_tells_only_what_changed(store: MessageStore) -> None:
    await store.merge_marks([MarkRow("c", "ann", 5, 5), MarkRow("c", "bob", 5, 5)])

    changed = await store.merge_marks([MarkRow("c", "ann", 5, 5), MarkRow("c", "bob", 6, 0), MarkRow("c", "cid", 0, 0)])

    assert changed == [MarkRow("c", "bob", 6, 5)]


async def test_marks_of_one_user_twice_in_a_call_are_merged(store: MessageStore) -> None:
    changed = await store.merge_marks([MarkRow("c", "bob", 5, 0), MarkRow("c", "bob", 3, 2)])

    assert changed == [MarkRow("c", "bob", 5, 2)]
    assert await store.read_marks("c", "", 10) == [MarkRow("c", "bob", 5, 2)]


async def test_concurrent_merges_end_at_the_maximum(store: MessageStore) -> None:
    marks = [MarkRow("c", "bob", n * 7 % 50, n * 11 % 50) for n in range(50)]

    changes = await asyncio.gather(*(store.merge_marks([mark]) for mark in marks))

    assert await store.read_marks("c", "", 10) == [MarkRow("c", "bob", 49, 49)]
    assert [MarkRow("c", "bob", 49, 49)] in changes


async def test_marks_are_listed_by_user_id_from_one_on(store: MessageStore) -> None:
    marks = [MarkRow("c", user, 1, 0) for user in ("ann", "bob", "cid")]
    await store.merge_marks([*reversed(marks), MarkRow("d", "ann", 9, 9)])

    assert await store.read_marks("c", "", 10) == marks
    assert await store.read_marks("c", "ann", 1) == marks[1:2]
    assert await store.read_marks("c", "cid", 10) == []
    assert await store.read_marks("c", "", 0) == []


async def test_one_users_mark_is_read_from_just_before_the_user_id(store: MessageStore) -> None:
    marks = [MarkRow("c", user, 1, 1) for user in ("anm", "anmz", "ann", "ann-")]
    await store.merge_marks(marks)

    assert await store.read_marks("c", "anm\x7f", 1) == [MarkRow("c", "ann", 1, 1)]


async def test_recent_marks_are_those_of_the_newest_conversations_of_all_members(store: MessageStore) -> None:
    await arrive(store, [event(1, conversation="old"), event(2, conversation="mid"), event(3, conversation="new")])
    await arrive(store, [event(4, conversation="mid"), event(9, user="ann", conversation="foreign")])
    marks = [
        MarkRow(conversation, user, 1, 1)
        for conversation in ("old", "mid", "new", "foreign")
        for user in ("ann", "bob")
    ]
    await store.merge_marks(marks)

    assert {(m.conversation_id, m.user_id) for m in await store.recent_marks("bob", 1)} == {
        ("mid", "ann"),
        ("mid", "bob"),
    }
    assert {m.conversation_id for m in await store.recent_marks("bob", 2)} == {"mid", "new"}
    assert {m.conversation_id for m in await store.recent_marks("bob", 10)} == {"mid", "new", "old"}
    assert await store.recent_marks("bob", 0) == []
    assert await store.recent_marks("nobody", 10) == []


async def test_conversations_that_take_turns_are_recent_in_the_order_of_their_newest_rows(store: MessageStore) -> None:
    places = ["a", "a", "b", "b", "c", "a", "c", "c", "a", "a", "b"]
    await store.merge_marks([MarkRow(conversation, "bob", 1, 1) for conversation in "abc"])

    for pos, conversation in enumerate(places, 1):
        await arrive(store, [event(pos, conversation=conversation)])
        await arrive(store, [event(pos, user="cid", conversation=conversation)])
    await arrive(
        store, [event(pos, user="dan", conversation=conversation) for pos, conversation in enumerate(places, 1)]
    )

    for user in ("bob", "cid", "dan"):
        assert [{m.conversation_id for m in await store.recent_marks(user, n)} for n in (1, 2)] == [{"b"}, {"a", "b"}]


async def test_a_conversation_without_marks_takes_a_place_among_the_recent(store: MessageStore) -> None:
    await arrive(store, [event(1, conversation="old"), event(2, conversation="new")])
    await store.merge_marks([MarkRow("old", "bob", 1, 1)])

    assert await store.recent_marks("bob", 1) == []


async def test_recent_marks_are_at_most_ten_times_the_limit(store: MessageStore) -> None:
    await arrive(store, [event(1, conversation="g")])
    await store.merge_marks([MarkRow("g", f"user{n:03}", 1, 1) for n in range(100)])

    assert len(await store.recent_marks("bob", 3)) == 30


async def test_inbox_rows_written_again_change_nothing_in_what_is_recent(store: MessageStore) -> None:
    rows = [event(1, conversation="new"), event(2, conversation="old"), event(3, conversation="new")]
    await arrive(store, rows)
    await store.merge_marks([MarkRow("old", "bob", 1, 1), MarkRow("new", "bob", 1, 1)])

    for row in rows[:2]:
        await arrive(store, [row])

    assert [m.conversation_id for m in await store.recent_marks("bob", 1)] == ["new"]


# Conversations of an inbox.


async def test_conversations_of_an_inbox_are_listed_from_the_last_active_one_on(store: MessageStore) -> None:
    await arrive(store, [event(pos, conversation=name, payload=name.encode()) for pos, name in enumerate("abcab", 1)])
    await arrive(store, [event(7, user="cid", conversation="a")])

    found = await store.list_activity("bob", BEYOND, 10)

    assert [(item.row.conversation_id, item.row.last_pos, item.payload) for item in found] == [
        ("b", 5, b"b"),
        ("a", 4, b"a"),
        ("c", 3, b"c"),
    ]
    assert await store.list_activity("bob", BEYOND, 2) == found[:2]
    assert await store.list_activity("bob", 4, 10) == found[2:]
    assert await store.list_activity("bob", 3, 10) == []
    assert await store.list_activity("bob", BEYOND, 0) == []
    assert await store.list_activity("nobody", BEYOND, 10) == []


async def test_a_conversation_is_listed_with_the_seen_mark_of_its_user(store: MessageStore) -> None:
    await arrive(store, [event(1, conversation="a"), event(2, conversation="b")])
    await store.merge_marks([MarkRow("a", "bob", 1, 1), MarkRow("b", "ann", 2, 2)])

    found = await store.list_activity("bob", BEYOND, 10)

    assert [(item.row.conversation_id, item.seen_seq) for item in found] == [("b", 0), ("a", 1)]


async def test_what_is_known_of_a_conversation_comes_back_as_it_was(store: MessageStore) -> None:
    own = tuple(range(5, 37))
    await store.put_inbox(
        [event(37), event(38, conversation="d")],
        [activity(37, own=own), ActivityRow("bob", "d", 38, 1 << 40, 1 << 39, ())],
    )

    found = await store.inbox_activity([("bob", "c"), ("bob", "d"), ("cid", "c"), ("bob", "e")])

    assert found == {
        ("bob", "c"): activity(37, own=own),
        ("bob", "d"): ActivityRow("bob", "d", 38, 1 << 40, 1 << 39, ()),
    }
    assert await store.inbox_activity([]) == {}


async def test_five_hundred_conversations_are_listed_at_once_with_their_marks(store: MessageStore) -> None:
    await arrive(store, [event(pos, conversation=f"c{pos}") for pos in range(1, 521)])
    await store.merge_marks([MarkRow(f"c{pos}", "bob", pos, pos) for pos in range(1, 521, 2)])

    found = await store.list_activity("bob", BEYOND, 500)

    assert [(item.row.last_pos, item.seen_seq) for item in found] == [(n, n % 2 * n) for n in range(520, 20, -1)]


async def test_many_conversations_are_found_at_once(store: MessageStore) -> None:
    rows = [event(pos, conversation=f"c{pos:03}") for pos in range(1, 301)]
    await arrive(store, rows)

    found = await store.inbox_activity([("bob", f"c{pos:03}") for pos in range(1, 302)])

    assert found == {("bob", f"c{pos:03}"): activity(pos, conversation=f"c{pos:03}") for pos in range(1, 301)}
    assert [item.row.last_pos for item in await store.list_activity("bob", 200, 100)] == list(range(199, 99, -1))


async def test_of_a_conversation_the_newest_that_was_written_stays_whoever_writes_last(store: MessageStore) -> None:
    await store.put_inbox([event(1), event(2), event(3)], [activity(3, own=(2,))])

    await store.put_inbox([event(1), event(2)], [activity(2, own=(2,))])
    await store.put_inbox([event(3)], [activity(3, own=(2,))])

    assert await store.inbox_activity([("bob", "c")]) == {("bob", "c"): activity(3, own=(2,))}


async def test_a_refused_call_leaves_the_conversations_as_they_were(store: MessageStore) -> None:
    await arrive(store, [event(1)])

    with pytest.raises(RowConflict):
        await arrive(store, [event(2), event(1, conversation="d")])

    assert await store.inbox_activity([("bob", "c"), ("bob", "d")]) == {("bob", "c"): activity(1)}


# The engine.


async def test_everything_survives_reopening(message_store_rig: MessageStoreRig) -> None:
    store = await message_store_rig.open()
    await store.put_messages([message(1)])
    await arrive(store, [event(1)])
    await store.merge_marks([MarkRow("c", "bob", 1, 0)])

    store = await message_store_rig.reopen(store)

    assert await store.read_messages("c", 0, BEYOND, 10, newest=False) == [message(1)]
    assert await store.read_inbox("bob", 0, 10) == [event(1)]
    assert await store.recent_marks("bob", 5) == [MarkRow("c", "bob", 1, 0)]
    assert await store.list_activity("bob", BEYOND, 5) == [Activity(activity(1), 0, b"hi")]


async def test_close_finishes_the_writes_that_were_begun(message_store_rig: MessageStoreRig) -> None:
    store = await message_store_rig.open()
    writing = [asyncio.create_task(store.put_messages([message(1, conversation=f"c{n}")])) for n in range(20)]
    await asyncio.sleep(0)

    store = await message_store_rig.reopen(store)

    await asyncio.gather(*writing)
    ids = [f"c{n}" for n in range(20)]
    assert await store.conversation_heads(ids) == dict.fromkeys(ids, Head(1, 101))


LATER_CALLS: dict[str, Callable[[MessageStore], Awaitable[object]]] = {
    "conversation_heads": lambda store: store.conversation_heads(["c"]),
    "find_sent": lambda store: store.find_sent([("c", "ann", "x")]),
    "put_messages": lambda store: store.put_messages([message(1)]),
    "read_messages": lambda store: store.read_messages("c", 0, 9, 1, newest=True),
    "inbox_heads": lambda store: store.inbox_heads(["bob"]),
    "inbox_activity": lambda store: store.inbox_activity([("bob", "c")]),
    "list_activity": lambda store: store.list_activity("bob", 9, 1),
    "put_inbox": lambda store: store.put_inbox([event(1)]),
    "read_inbox": lambda store: store.read_inbox("bob", 0, 1),
    "merge_marks": lambda store: store.merge_marks([MarkRow("c", "bob", 1, 1)]),
    "read_marks": lambda store: store.read_marks("c", "", 1),
    "recent_marks": lambda store: store.recent_marks("bob", 1),
}


@pytest.mark.parametrize("call", LATER_CALLS.values(), ids=list(LATER_CALLS))
async def test_a_closed_store_is_unavailable(
    store: MessageStore, call: Callable[[MessageStore], Awaitable[object]]
) -> None:
    await store.close()
    await store.close()

    with pytest.raises(Unavailable) as caught:
        await call(store)

    assert caught.value.reason == "ENGINE_DOWN"
