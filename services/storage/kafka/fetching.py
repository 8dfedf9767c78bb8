"""Fetch requests and what is in their answers.

A session (Kafka's KIP-227) lets a poll of hundreds of partitions name only those whose offset changed, and its answer only
those with news.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aiokafka.protocol.fetch import FetchRequest_v11
from aiokafka.record.memory_records import MemoryRecords

from services.ports.log import Record

OFFSET_OUT_OF_RANGE = 1
_CONSUMER = -1
_MIN_BYTES = 1
_READ_UNCOMMITTED = 0
_NO_SESSION_EPOCH = -1
_MOST_EPOCH = 2**31 - 1


@dataclass(slots=True)
class Session:
    """A broker's memory of what is fetched; with the defaults there is none."""

    session_id: int = 0
    epoch: int = _NO_SESSION_EPOCH

    def begin(self) -> None:
        """The next request opens a new session."""
        self.session_id, self.epoch = 0, 0

    def answered(self, session_id: int) -> None:
        """The broker answered; it has a session of this id, or none (0)."""
        self.session_id = session_id
        self.epoch = 0 if session_id == 0 else self.epoch % _MOST_EPOCH + 1


class _Fetch:
    """What aiokafka's own request of that name cannot say: a session."""

    API_KEY = FetchRequest_v11.API_KEY

    def __init__(self, struct: Any) -> None:
        self._struct = struct

    def prepare(self, versions: Mapping[int, tuple[int, int]]) -> Any:
        """The request in the only version that is spoken here; Kafka 2.3 and later know it."""
        return self._struct


def fetch_request(
    session: Session,
    wanted: Mapping[str, Sequence[tuple[int, int]]],
    forgotten: Mapping[str, Sequence[int]],
    wait_ms: int,
    partition_bytes: int,
    total_bytes: int,
) -> Any:
    """Asks for (partition, offset) of each topic; answered when there is a byte, or after `wait_ms`.

    A record batch that is larger than the bounds comes whole.
    """
    topics = [
        (topic, [(partition, -1, offset, -1, partition_bytes) for partition, offset in places])
        for topic, places in wanted.items()
    ]
    return _Fetch(
        FetchRequest_v11(
            _CONSUMER,
            wait_ms,
            _MIN_BYTES,
            total_bytes,
            _READ_UNCOMMITTED,
            session.session_id,
            session.epoch,
            topics,
            [(topic, list(partitions)) for topic, partitions in forgotten.items()],
            "",
        )
    )


def read_records(data: bytes, from_offset: int, own_producers: Collection[int]) -> tuple[list[Record], bool]:
    """The records from the offset on, and whether one of them was written by none of these producers.

    A batch that was cut off at the end of the answer is left out.
    """
    records: list[Record] = []
    foreign = False
    batches = MemoryRecords(data)
    while batches.has_next():
        batch = batches.next_batch()
        if batch.next_offset <= from_offset or batch.is_control_batch:
            continue
        foreign = foreign or batch.producer_id not in own_producers
        records += [Record(entry.offset, entry.value or b"") for entry in batch if entry.offset >= from_offset]
    return records, foreign
