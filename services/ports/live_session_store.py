"""The store of live-location sessions: who shares where, until when, and what has been said about it. Holds no place."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Protocol


class Ending(IntEnum):
    """Why a session ended, numbered as hither.location.v1.EndReason; NONE while it goes on."""

    NONE = 0
    STOPPED = 1
    EXPIRED = 2
    REMOVED = 3


@dataclass(frozen=True, slots=True)
class LiveSessionRow:
    """A session. Times are milliseconds since 1970.

    `partition` is the conversation's. It is `announced` when its start, and `told` when its end is known to everybody
    concerned; `ended_ms` is zero while it goes on. A row that is told may be purged from `keep_until_ms` on. `version` counts
    its changes, from 1.
    """

    session_id: str
    conversation_id: str
    partition: int
    user_id: str
    opaque: bool
    started_ms: int
    expires_ms: int
    keep_until_ms: int
    ending: Ending = Ending.NONE
    ended_ms: int = 0
    announced: bool = False
    told: bool = False
    version: int = 1


class LiveSessionStore(Protocol):
    """Sessions by id. What was written is durable when a method returns; each method is atomic. Raises
    discovery.errors.Unavailable (ENGINE_DOWN; OUTCOME_UNKNOWN for a write that may have happened) when the engine is away.
    """

    async def add(self, row: LiveSessionRow) -> LiveSessionRow:
        """Stores the row, if there is none of its session; returns what then stands. May be repeated."""

    async def replace(self, before: LiveSessionRow, after: LiveSessionRow) -> bool:
        """Puts `after`, with the next version, in the place of `before`, if that is what stands; tells whether it did."""

    async def find(self, session_id: str) -> LiveSessionRow | None:
        """The session's row; None if there never was one, or it was purged."""

    async def active_in(self, conversation_id: str, limit: int) -> Sequence[LiveSessionRow]:
        """Sessions of the conversation that have no ending, in order of id, at most `limit`. Their time may be over."""

    async def open_in(self, partition: int, after_session_id: str, limit: int) -> Sequence[LiveSessionRow]:
        """Sessions of the partition that are not told, with a greater id, in order of id, at most `limit`."""

    async def purge(self, before_ms: int, limit: int) -> int:
        """Removes told rows with keep_until_ms < before_ms, at most `limit`; returns how many."""

    async def close(self) -> None:
        """Finishes the writes that were begun, then lets the engine go. May be called twice."""
