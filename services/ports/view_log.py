"""The log of views: who was shown where a user was, for that user to read."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from services.ports.privacy_store import Precision

KEPT_MS: Final = 30 * 24 * 3600 * 1000
"""How long an entry is kept, from the start of its slot on, in milliseconds."""
SLOT_MS: Final = 5 * 60 * 1000
"""An entry is about 5 minutes, which begin at a multiple of this."""
MOST_VIEWS: Final = 1_000
"""Entries in one call of `record` and in one answer of `read`, at most."""


@dataclass(frozen=True, slots=True)
class ViewRow:
    """In the slot that begins at `slot_ms` the viewer was shown where the owner is: `count` times, last at `last_ms`, at most this
    exactly.
    """

    owner_id: str
    slot_ms: int
    viewer_id: str
    count: int
    last_ms: int
    precision: Precision


@dataclass(frozen=True, slots=True)
class ViewPlace:
    """An entry's place in its owner's log."""

    slot_ms: int
    viewer_id: str


class ViewLog(Protocol):
    """Views by owner: one entry for each slot and viewer. An entry is visible from the return of `record` until KEPT_MS after its
    slot began, and then gone for good by itself. Raises discovery.errors.Unavailable (ENGINE_DOWN) when the engine is away, and
    InvalidArgument for more than MOST_VIEWS.
    """

    async def record(self, views: Sequence[ViewRow]) -> None:
        """Keeps the entries; durable when it returns. Of several for one owner, slot and viewer that which was seen last stays
        (of one millisecond, that with the greater count), so it may be called twice, and again as more is seen. Nothing is atomic
        over several entries.
        """

    async def read(self, owner_id: str, after: ViewPlace | None, limit: int) -> Sequence[ViewRow]:
        """The owner's entries after the place (None: from the first): the newest slot first, of one slot in order of viewer id (by
        code point). At most `limit`; fewer only where there are no more.
        """

    async def forget(self, owner_id: str) -> None:
        """Removes all entries of the owner's log that were recorded before."""

    async def close(self) -> None:
        """Finishes the writes that were begun, then lets the engine go."""
