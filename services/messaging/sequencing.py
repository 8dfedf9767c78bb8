"""What the conversation projection decides: which accepted messages are new, and which place each has.

Pure, and a function of the log alone: the same records lead to the same rows whoever decides, however they are cut
into batches, and however much of it was applied before. No clock, no randomness, no engine.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from google.protobuf.message import DecodeError

from hither.messaging.v1 import messaging_pb2, records_pb2
from services.ports.log import Record
from services.ports.message_store import DedupKey, Head, MessageRow


class ProjectionError(Exception):
    """A projection cannot go on without losing something: a record that it cannot read, or rows that contradict the log."""


@dataclass(frozen=True, slots=True)
class Accepted:
    """A record of the log "messages", read."""

    offset: int
    key: DedupKey
    message: messaging_pb2.Message
    recipient_ids: Sequence[str]
    traceparent: str = ""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of the accepted message `message_id`: it is, or it repeats, `message`."""

    message_id: int
    key: DedupKey
    message: messaging_pb2.Message


@dataclass(frozen=True, slots=True)
class Passed:
    """A sequenced message on its way to its recipients."""

    offset: int
    message: messaging_pb2.Message
    recipient_ids: Sequence[str]
    traceparent: str = ""


@dataclass(slots=True)
class Sequenced:
    """What a batch leads to: rows to write, answers for who waits, and messages to pass on once the rows are durable."""

    rows: list[MessageRow] = field(default_factory=list)
    outcomes: list[Outcome] = field(default_factory=list)
    passed: list[Passed] = field(default_factory=list)


def cut_batch(records: Sequence[Record], most_bytes: int) -> Sequence[Record]:
    """The longest beginning of the records that holds at most `most_bytes`, but at least one record."""
    total = 0
    for index, record in enumerate(records):
        total += len(record.value)
        if total > most_bytes and index:
            return records[:index]
    return records


def read_accepted(records: Sequence[Record]) -> list[Accepted]:
    """Decodes records of "messages". Raises ProjectionError for one that is not an accepted message."""
    batch = []
    for record in records:
        accepted = records_pb2.AcceptedMessage()
        try:
            accepted.ParseFromString(record.value)
        except DecodeError as error:
            raise ProjectionError(f"the record at offset {record.offset} cannot be decoded") from error
        message = accepted.message
        if not (message.message_id and message.conversation_id and message.sender_id and message.client_id):
            raise ProjectionError(f"the record at offset {record.offset} is not an accepted message")
        key = (message.conversation_id, message.sender_id, message.client_id)
        batch.append(Accepted(record.offset, key, message, accepted.recipient_ids, accepted.traceparent))
    return batch


def sequence(batch: Sequence[Accepted], heads: Mapping[str, Head], found: Mapping[DedupKey, MessageRow]) -> Sequenced:
    """Decides a batch, given the heads of its conversations and then, read after them, the rows found by its dedup keys.

    Raises ProjectionError if a record that must have been applied left no row.
    """
    result = Sequenced()
    heads = dict(heads)
    made: dict[DedupKey, tuple[int, messaging_pb2.Message]] = {}
    for accepted in batch:
        key, message, offset = accepted.key, accepted.message, accepted.offset
        accepted_id = message.message_id
        first = made.get(key) or _first_of(found.get(key))
        head = heads[message.conversation_id]
        if first is None:
            if offset <= head.log_offset:
                raise ProjectionError(
                    f"the record at offset {offset} lies before its conversation's newest row and has none"
                )
            head = heads[message.conversation_id] = Head(head.place + 1, offset)
            message.seq = head.place
            result.rows.append(MessageRow(*_row_key(key, message.seq), offset, message.SerializeToString()))
            first = (offset, message)
        made[key] = first
        first_offset, first_message = first
        if first_offset == offset:
            # Also where the row was there before: a crash may have come between the row and the inbox record.
            result.passed.append(Passed(offset, first_message, accepted.recipient_ids, accepted.traceparent))
            if offset > head.log_offset:  # the other owner wrote it after the heads were read
                heads[message.conversation_id] = Head(first_message.seq, offset)
        result.outcomes.append(Outcome(accepted_id, key, first_message))
    return result


def inbox_records(
    passed: Sequence[Passed], source_partition: int, partition_of: Callable[[str], int]
) -> dict[int, records_pb2.InboxRecord]:
    """One record for each partition that has recipients, with its entries in the order of the source."""
    records: defaultdict[int, records_pb2.InboxRecord] = defaultdict(
        lambda: records_pb2.InboxRecord(source_partition=source_partition)
    )
    for item in passed:
        groups: defaultdict[int, list[str]] = defaultdict(list)
        for user_id in item.recipient_ids:
            groups[partition_of(user_id)].append(user_id)
        for partition, user_ids in groups.items():
            records[partition].entries.add(
                source_offset=item.offset, message=item.message, recipient_ids=user_ids, traceparent=item.traceparent
            )
    return records


def _row_key(key: DedupKey, seq: int) -> tuple[str, int, str, str]:
    return key[0], seq, key[1], key[2]


def _first_of(row: MessageRow | None) -> tuple[int, messaging_pb2.Message] | None:
    if row is None:
        return None
    return row.log_offset, messaging_pb2.Message.FromString(row.payload)
