"""The log: what must not be lost is appended here first."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Record:
    """A durable record: its place in its partition, and what it says."""

    offset: int
    value: bytes


@dataclass(frozen=True, slots=True)
class Committed:
    """How far a group has come: the next offset it will read, and what it stored beside that."""

    next_offset: int
    state: bytes


class Log(Protocol):
    """A partitioned, append-only log.

    Offsets of a partition ascend from 0 in the order of the appends; an adapter may leave gaps. All methods raise
    discovery.errors.Unavailable (ENGINE_DOWN: nothing was done; OUTCOME_UNKNOWN: an append may or may not have
    happened) when the engine is away. Topics exist as soon as they are named.
    """

    async def append(self, topic: str, partition: int, values: Sequence[bytes]) -> Sequence[int]:
        """Appends the values, adjacent and in this order, all or none; returns their offsets.

        When it returns the records are on disk (or on every in-sync replica). Appends of one task that are awaited
        one after the other keep their order. A record is at most 1 MiB, a call at most 1,000 records; more raises
        InvalidArgument.
        """

    async def read(self, topic: str, partition: int, offset: int, limit: int) -> Sequence[Record]:
        """Durable records from `offset` on (or from the oldest that is kept), in order, at most `limit`; may be empty."""

    async def wait(self, topic: str, partition: int, offset: int) -> None:
        """Returns when the partition has a durable record at or after `offset`; at once if it has. Cancellable."""

    async def commit(self, group: str, topic: str, partition: int, committed: Committed) -> None:
        """Stores how far the group has come, in one atomic durable write. The last writer wins."""

    async def committed(self, group: str, topic: str, partition: int) -> Committed:
        """What `commit` stored last; Committed(0, b"") for a group that never did."""

    async def trim(self, topic: str, partition: int, before_offset: int) -> None:
        """Lets go of records before the offset, at some time; offsets of the others stay as they are."""

    async def close(self) -> None:
        """Finishes the appends that were begun, then lets the engine go. Later calls raise Unavailable."""
