"""What the conversation projection decides."""

import pytest

from services.messaging.sequencing import ProjectionError, cut_batch, inbox_records, read_accepted, sequence
from services.ports.log import Record
from services.ports.message_store import Head, MessageRow
from tests.unit.messaging.harness import accepted, partition_of

NEW = {"g.0": Head(0, -1)}


def batch(*records: bytes, start: int = 0, gap: int = 1) -> list[Record]:
    return [Record(start + index * gap, value) for index, value in enumerate(records)]


def test_places_go_on_from_the_head() -> None:
    result = sequence(read_accepted(batch(accepted(1), accepted(2), start=7)), {"g.0": Head(4, 6)}, {})

    assert [(row.seq, row.log_offset) for row in result.rows] == [(5, 7), (6, 8)]


def test_a_repetition_within_a_batch_gets_the_first_answer_and_no_row() -> None:
    records = batch(accepted(1, client_id="a"), accepted(2, client_id="a"), accepted(3, client_id="b"))

    result = sequence(read_accepted(records), NEW, {})

    assert [(row.seq, row.client_id) for row in result.rows] == [(1, "a"), (2, "b")]
    assert [(item.message_id, item.message.message_id, item.message.seq) for item in result.outcomes] == [
        (1, 1, 1),
        (2, 1, 1),
        (3, 3, 2),
    ]
    assert [item.offset for item in result.passed] == [0, 2]


def test_a_row_that_another_owner_wrote_after_the_heads_were_read_keeps_its_place() -> None:
    records = read_accepted(batch(accepted(1), accepted(2)))
    [row, _] = sequence(read_accepted(batch(accepted(1), accepted(2))), NEW, {}).rows
    found = {("g.0", "ann0", "c1"): row}

    result = sequence(records, NEW, found)

    assert [(row.seq, row.client_id) for row in result.rows] == [(2, "c2")]
    assert [(item.offset, item.message.seq) for item in result.passed] == [(0, 1), (1, 2)]


def test_a_record_before_the_head_that_left_no_row_stops_the_projection() -> None:
    with pytest.raises(ProjectionError):
        sequence(read_accepted(batch(accepted(1))), {"g.0": Head(1, 0)}, {})


def test_a_repetition_from_before_the_head_is_dropped() -> None:
    [first] = sequence(read_accepted(batch(accepted(1, client_id="a"))), NEW, {}).rows
    found: dict[tuple[str, str, str], MessageRow] = {("g.0", "ann0", "a"): first}

    result = sequence(read_accepted(batch(accepted(2, client_id="a"), start=1)), {"g.0": Head(2, 5)}, found)

    assert (result.rows, result.passed) == ([], [])
    assert result.outcomes[0].message.message_id == 1


def test_there_is_one_inbox_record_for_each_partition_in_the_order_of_the_source() -> None:
    records = batch(accepted(1, recipients=("ann0", "ben1", "cat2")), accepted(2, recipients=("ann0",)), gap=3)
    passed = sequence(read_accepted(records), NEW, {}).passed

    result = inbox_records(passed, 1, partition_of)

    assert {number: record.source_partition for number, record in result.items()} == {0: 1, 1: 1}
    assert [(entry.source_offset, list(entry.recipient_ids)) for entry in result[0].entries] == [
        (0, ["ann0", "cat2"]),
        (3, ["ann0"]),
    ]
    assert [entry.message.seq for entry in result[1].entries] == [1]


@pytest.mark.parametrize("value", [b"", b"\xff", accepted(0)])
def test_what_is_no_accepted_message_is_refused(value: bytes) -> None:
    with pytest.raises(ProjectionError):
        read_accepted(batch(value))


def test_a_batch_is_cut_before_it_grows_too_large_but_never_to_nothing() -> None:
    records = batch(b"aaaa", b"bbbb", b"cc")

    assert len(cut_batch(records, 10)) == 3
    assert len(cut_batch(records, 9)) == 2
    assert len(cut_batch(records, 1)) == 1
