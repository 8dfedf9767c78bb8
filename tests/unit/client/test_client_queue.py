from datetime import UTC, datetime

import pytest

from hither_client import Event, Message, MessageReceived, MessageStatus, Synced, Typing
from hither_client.event_queue import EventQueue

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def message(pos: int) -> MessageReceived:
    return MessageReceived(Message(pos, "d.x", pos, "alice", f"c{pos}", NOON, text="hi"), pos)


def drain(queue: EventQueue) -> list[Event]:
    return [queue.take() for _ in range(len(queue))]


def test_events_come_out_in_the_order_in_which_they_went_in() -> None:
    queue = EventQueue(10)
    events: list[Event] = [message(1), Typing("d.x", "bob"), message(2)]
    for event in events:
        queue.put(event)
    assert drain(queue) == events


def test_only_durable_events_take_room() -> None:
    queue = EventQueue(2)
    queue.put(message(1))
    queue.put(Typing("d.x", "bob"))
    assert queue.room == 1
    queue.take()
    assert queue.room == 2


def test_a_durable_event_is_never_put_where_there_is_no_room() -> None:
    queue = EventQueue(1)
    queue.put(message(1))
    with pytest.raises(OverflowError):
        queue.put(message(2))


def test_a_newer_event_of_the_same_kind_takes_the_place_of_the_one_that_waits() -> None:
    queue = EventQueue(10)
    queue.put(MessageStatus("d.x", 1, "SEEN", "bob"))
    queue.put(message(1))
    queue.put(MessageStatus("d.x", 2, "SEEN", "bob"))
    assert drain(queue) == [MessageStatus("d.x", 2, "SEEN", "bob"), message(1)]


def test_too_many_different_events_drop_the_oldest_that_may_be_lost() -> None:
    queue = EventQueue(2)
    queue.put(message(1))
    for user_id in ("a", "b", "c"):
        queue.put(Typing("d.x", user_id))
    assert [event for event in drain(queue) if isinstance(event, Typing)] == [Typing("d.x", "b"), Typing("d.x", "c")]


def test_synced_stands_behind_everything_that_came_before_it() -> None:
    queue = EventQueue(5)
    queue.put(Synced(0))
    queue.put(message(1))
    queue.put(Synced(1))
    assert drain(queue)[-1] == Synced(1)
    assert len(queue) == 0
