from collections.abc import Sequence
from datetime import UTC, datetime

from demo.record import Record, Sighting, Verdict, judge, percentile

from hither_client import Ack, Message

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def message(seq: int, *, client_id: str = "") -> Message:
    return Message(100 + seq, "d.x", seq, "alice", client_id or f"c{seq}", NOON, text="hi")


def verdict(seen: Sequence[int], history: Sequence[Message], acked: Sequence[int] = (1, 2, 3)) -> Verdict:
    record = Record()
    for seq in acked:
        record.sends[f"c{seq}"] = 0.0
        record.acks[f"c{seq}"] = Ack(f"c{seq}", 100 + seq, "d.x", seq, NOON)
    record.sightings["phone"] = [Sighting("phone", message(seq), seq, 0.001, live=True) for seq in seen]
    return judge(record, {"d.x": history}, {"phone": ["d.x"]})


ALL = [message(1), message(2), message(3)]


def test_everything_once_and_in_order_holds() -> None:
    assert verdict([1, 2, 3], ALL).held


def test_an_acked_message_that_history_lacks_does_not_hold() -> None:
    outcome = verdict([1, 2], ALL[:2])
    assert outcome.acked_but_not_in_history == 1
    assert not outcome.held


def test_a_message_that_a_device_never_saw_does_not_hold() -> None:
    outcome = verdict([1, 3], ALL)
    assert outcome.devices[0].missing == 1
    assert not outcome.held


def test_a_message_that_a_device_saw_twice_does_not_hold() -> None:
    assert verdict([1, 2, 2, 3], ALL).devices[0].doubled == 1
    assert not verdict([1, 2, 2, 3], ALL).held


def test_messages_out_of_order_do_not_hold() -> None:
    assert verdict([1, 3, 2], ALL).devices[0].out_of_order == 1
    assert not verdict([1, 3, 2], ALL).held


def test_a_client_id_that_stands_in_history_twice_does_not_hold() -> None:
    outcome = verdict([1, 2, 3, 4], [*ALL, message(4, client_id="c3")])
    assert outcome.doubled_in_history == 1
    assert not outcome.held


def test_a_gap_in_history_does_not_hold() -> None:
    assert not verdict([1, 3], [message(1), message(3)], acked=(1, 3)).held


def test_a_send_that_was_never_answered_does_not_hold() -> None:
    record = Record(sends={"c1": 0.0})
    assert not judge(record, {"d.x": []}, {}).held


def test_percentiles_are_values_that_were_measured() -> None:
    assert percentile([3.0, 1.0, 2.0, 4.0], 0.5) == 2.0
    assert percentile([1.0, 2.0], 0.99) == 2.0
