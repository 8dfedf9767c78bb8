from edge.outbox import FRAME_OVERHEAD_BYTES, Outbox, Put

EVERYTHING = 1 << 30


def room_for(frames: int, size: int = 10) -> Outbox:
    return Outbox(frames * (size + FRAME_OVERHEAD_BYTES))


def test_frames_leave_in_the_order_in_which_they_came() -> None:
    outbox = room_for(3)
    for frame in (b"one", b"two", b"three"):
        assert outbox.put(frame) is Put.QUEUED
    assert outbox.take(EVERYTHING) == [b"one", b"two", b"three"]
    assert not outbox


def test_a_newer_frame_takes_the_place_of_the_older_one_of_its_key() -> None:
    outbox = room_for(9)
    outbox.put(b"old", "k")
    outbox.put(b"between")
    assert outbox.put(b"new!", "k") is Put.CONFLATED
    assert outbox.take(EVERYTHING) == [b"new!", b"between"]


def test_a_frame_that_has_left_is_not_replaced() -> None:
    outbox = room_for(9)
    outbox.put(b"old", "k")
    outbox.take(EVERYTHING)
    assert outbox.put(b"new", "k") is Put.QUEUED
    assert outbox.take(EVERYTHING) == [b"new"]


def test_a_frame_that_may_not_be_lost_overflows() -> None:
    outbox = room_for(2)
    outbox.put(b"0123456789")
    outbox.put(b"0123456789")
    assert outbox.put(b"x") is Put.OVERFLOW


def test_a_frame_that_may_be_lost_is_dropped_when_there_is_no_room() -> None:
    outbox = room_for(1)
    outbox.put(b"0123456789")
    assert outbox.put(b"x", "k") is Put.DROPPED
    assert outbox.take(EVERYTHING) == [b"0123456789"]


def test_frames_that_may_be_lost_make_room_for_one_that_may_not() -> None:
    outbox = room_for(3)
    outbox.put(b"durable 01")
    outbox.put(b"lossy   01", "a")
    outbox.put(b"lossy   02", "b")
    assert outbox.put(b"durable 02") is Put.QUEUED
    assert outbox.take(EVERYTHING) == [b"durable 01", b"lossy   02", b"durable 02"]
    assert outbox.waiting_bytes == 0


def test_a_frame_larger_than_the_limit_is_taken_when_nothing_waits() -> None:
    outbox = Outbox(10)
    assert outbox.put(b"x" * 1000) is Put.QUEUED
    assert outbox.put(b"y") is Put.OVERFLOW


def test_no_more_is_taken_than_asked_for_but_one_frame_at_least() -> None:
    outbox = room_for(9)
    for frame in (b"aaaa", b"bb", b"cc"):
        outbox.put(frame)
    assert outbox.take(1) == [b"aaaa"]
    assert outbox.take(4) == [b"bb", b"cc"]


def test_small_frames_count_for_more_than_their_bytes() -> None:
    outbox = Outbox(1000)
    taken = 0
    while outbox.put(b"") is Put.QUEUED:
        taken += 1
    assert taken == 1000 // FRAME_OVERHEAD_BYTES
    assert outbox.more_than_half_full


def test_a_cleared_outbox_is_empty() -> None:
    outbox = room_for(9)
    outbox.put(b"a", "k")
    outbox.clear()
    assert outbox.take(EVERYTHING) == []
    assert outbox.put(b"b", "k") is Put.QUEUED
