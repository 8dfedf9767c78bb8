from datetime import UTC, datetime

from hither_client import Event, Message, MessageReceived, place
from hither_client.inbox import Inbox

ROOM = 100


def message(pos: int, message_id: int | None = None) -> MessageReceived:
    return MessageReceived(
        Message(message_id or pos, "d.x", pos, "alice", f"c{pos}", datetime.now(UTC), text="hi"), pos
    )


def places(events: list[Event]) -> list[int]:
    return [place(event) for event in events]


def test_events_in_order_are_released_at_once() -> None:
    inbox = Inbox(0)
    assert places(inbox.offer(message(1), ROOM)) == [1]
    assert places(inbox.offer(message(2), ROOM)) == [2]
    assert not inbox.behind


def test_an_event_after_a_gap_waits_until_the_gap_is_filled() -> None:
    inbox = Inbox(0)
    assert places(inbox.offer(message(3), ROOM)) == []
    assert inbox.behind
    assert places(inbox.offer(message(1), ROOM)) == [1]
    assert places(inbox.offer(message(2), ROOM)) == [2, 3]
    assert not inbox.behind


def test_a_place_that_was_released_is_dropped_when_it_comes_again() -> None:
    inbox = Inbox(5)
    assert places(inbox.offer(message(5), ROOM)) == []
    inbox.offer(message(6), ROOM)
    assert places(inbox.offer(message(6), ROOM)) == []


def test_what_comes_again_takes_no_place_among_what_is_held() -> None:
    inbox = Inbox(5, hold_limit=1)
    inbox.offer(message(5), ROOM)
    inbox.offer(message(7), ROOM)
    assert places(inbox.offer(message(6), ROOM)) == [6, 7]


def test_a_message_that_comes_again_at_another_place_is_dropped() -> None:
    inbox = Inbox(0)
    inbox.offer(message(1, message_id=77), ROOM)
    assert places(inbox.offer(message(2, message_id=77), ROOM)) == []
    assert inbox.last == 2


def test_without_room_events_are_held_and_released_later_in_order() -> None:
    inbox = Inbox(0)
    assert places(inbox.offer(message(1), 0)) == []
    assert places(inbox.offer(message(2), 0)) == []
    assert not inbox.behind
    assert places(inbox.release(1)) == [1]
    assert places(inbox.release(5)) == [2]


def test_what_does_not_fit_is_dropped_and_shows_as_a_gap() -> None:
    inbox = Inbox(0, hold_limit=2)
    for pos in (2, 3, 4):
        inbox.offer(message(pos), ROOM)
    assert places(inbox.offer(message(1), ROOM)) == [1, 2, 3]
    assert inbox.behind


def test_a_page_fills_the_gap_and_releases_what_was_held() -> None:
    inbox = Inbox(0)
    inbox.offer(message(4), ROOM)
    released = inbox.offer_page([message(1), message(2), message(3)], 3, ROOM, more=True)
    assert places(released) == [1, 2, 3, 4]
    assert not inbox.behind


def test_a_page_with_more_behind_it_leaves_the_inbox_behind() -> None:
    inbox = Inbox(0)
    inbox.offer_page([message(1)], 1, ROOM, more=True)
    assert inbox.behind


def test_a_page_larger_than_the_room_is_released_in_parts() -> None:
    inbox = Inbox(0)
    assert places(inbox.offer_page([message(1), message(2), message(3)], 3, 2, more=False)) == [1, 2]
    assert places(inbox.release(2)) == [3]


def test_the_server_decides_where_an_inbox_without_a_cursor_begins() -> None:
    inbox = Inbox(None)
    inbox.start(41)
    assert places(inbox.offer(message(42), ROOM)) == [42]


def test_a_server_that_begins_after_our_place_leaves_a_gap_to_be_filled() -> None:
    inbox = Inbox(3)
    inbox.start(5)
    assert inbox.last == 3
    assert inbox.behind


def test_a_server_whose_inbox_ends_before_our_place_is_believed() -> None:
    inbox = Inbox(50)
    inbox.start(7)
    assert places(inbox.offer(message(8), ROOM)) == [8]


def test_the_memory_of_seen_messages_is_bounded() -> None:
    inbox = Inbox(0, remember=2)
    for pos, message_id in enumerate((11, 12, 13), 1):
        inbox.offer(message(pos, message_id), ROOM)
    assert places(inbox.offer(message(4, 13), ROOM)) == []
    assert places(inbox.offer(message(5, 11), ROOM)) == [5]
