"""What the inbox projection decides: which entries are new to which inbox, and which place each has there.

Pure, and a function of the log alone, like sequencing. Its state beside the rows are the watermarks: for each source
partition the last source offset that was applied. Entries at or below it were sent twice and are ignored.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from google.protobuf.message import DecodeError

from hither.messaging.v1 import messaging_pb2, records_pb2
from services.messaging.sequencing import ProjectionError
from services.ports.log import Record
from services.ports.message_store import Head, InboxRow

Place = tuple[str, str, int]
"""(user_id, conversation_id, seq): what names a row of an inbox beside its pos."""


@dataclass(frozen=True, slots=True)
class InboxBatchRecord:
    """A record of the log "inbox", read."""

    offset: int
    source_partition: int
    entries: Sequence[records_pb2.InboxEntry]


@dataclass(frozen=True, slots=True)
class Arrival:
    """A message that came into an inbox. `pos` is zero where the row was there before and its place must be looked up."""

    user_id: str
    pos: int
    message: messaging_pb2.Message
    event: bytes
    """The serialised MessageEvent; one object for all recipients of a message."""
    traceparent: str = ""
    """As in the entry."""


@dataclass(slots=True)
class Decision:
    """What a batch leads to: rows to write, the watermarks after it, and arrivals to tell of once the rows are durable."""

    watermarks: dict[int, int]
    rows: list[InboxRow] = field(default_factory=list)
    arrivals: list[Arrival] = field(default_factory=list)
    known_from: dict[str, int] = field(default_factory=dict)
    """For each user with rows that were there before: the log offset of the first of them."""


def read_inbox_records(records: Sequence[Record]) -> list[InboxBatchRecord]:
    """Decodes records of "inbox". Raises ProjectionError for one that is not an inbox record in ascending source order."""
    batch = []
    for record in records:
        inbox = records_pb2.InboxRecord()
        try:
            inbox.ParseFromString(record.value)
        except DecodeError as error:
            raise ProjectionError(f"the record at offset {record.offset} cannot be decoded") from error
        last = -1
        for entry in inbox.entries:
            if entry.source_offset <= last or not entry.message.seq:
                raise ProjectionError(f"the record at offset {record.offset} is not an inbox record in order")
            last = entry.source_offset
        if last < 0:
            raise ProjectionError(f"the record at offset {record.offset} has no entries")
        batch.append(InboxBatchRecord(record.offset, inbox.source_partition, inbox.entries))
    return batch


def recipients(batch: Sequence[InboxBatchRecord]) -> set[str]:
    """Everyone whose inbox the batch may touch."""
    return {user_id for record in batch for entry in record.entries for user_id in entry.recipient_ids}


def decide(batch: Sequence[InboxBatchRecord], watermarks: Mapping[int, int], heads: Mapping[str, Head]) -> Decision:
    """Decides a batch, given the watermarks before it and the heads of the inboxes that it may touch."""
    decision = Decision(dict(watermarks))
    places = {user_id: head.place for user_id, head in heads.items()}
    for record, entry in _new_entries(batch, decision.watermarks):
        message = entry.message
        payload = message.SerializeToString()
        event = messaging_pb2.MessageEvent(message=message).SerializeToString()
        traceparent = entry.traceparent
        for user_id in entry.recipient_ids:
            pos = 0
            if record.offset > heads[user_id].log_offset:
                pos = places[user_id] = places[user_id] + 1
                decision.rows.append(
                    InboxRow(
                        user_id, pos, record.offset, message.conversation_id, message.seq, message.sender_id, payload
                    )
                )
            else:
                decision.known_from.setdefault(user_id, record.offset)
            decision.arrivals.append(Arrival(user_id, pos, message, event, traceparent))
    return decision


def placed(arrivals: Sequence[Arrival], places: Mapping[Place, int]) -> list[Arrival]:
    """The arrivals with the places of rows that were there before filled in. Raises ProjectionError if one is missing."""
    result = []
    for arrival in arrivals:
        if arrival.pos == 0:
            place = (arrival.user_id, arrival.message.conversation_id, arrival.message.seq)
            if place not in places:
                raise ProjectionError(f"the inbox of {arrival.user_id} is beyond a message that it does not hold")
            arrival = replace(arrival, pos=places[place])
        result.append(arrival)
    return result


def read_watermarks(state: bytes) -> dict[int, int]:
    """The watermarks that were committed as `state`. Raises ProjectionError if it is something else."""
    try:
        return dict(records_pb2.InboxWatermarks.FromString(state).source_offsets)
    except DecodeError as error:
        raise ProjectionError("the committed watermarks cannot be decoded") from error


def write_watermarks(watermarks: Mapping[int, int]) -> bytes:
    """The watermarks as a commit's state."""
    return records_pb2.InboxWatermarks(source_offsets=watermarks).SerializeToString(deterministic=True)


def _new_entries(
    batch: Sequence[InboxBatchRecord], watermarks: dict[int, int]
) -> Iterator[tuple[InboxBatchRecord, records_pb2.InboxEntry]]:
    """Entries above their source's watermark, which each of them raises."""
    for record in batch:
        for entry in record.entries:
            if entry.source_offset <= watermarks.get(record.source_partition, -1):
                continue
            watermarks[record.source_partition] = entry.source_offset
            yield record, entry
