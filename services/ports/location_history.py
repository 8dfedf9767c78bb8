"""The location history: where users were in the last seven days."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

KEPT_MS: Final = 7 * 24 * 3600 * 1000
"""How long a fix is kept, from its own time on, in milliseconds."""
MOST_FIXES: Final = 1_000
"""Fixes in one call of `append`, users in one call of `latest`, and fixes in one answer of `read`, at most."""


@dataclass(frozen=True, slots=True)
class FixRow:
    """A user was there: degrees north and east, and the radius of 68% confidence in metres (zero: not known)."""

    user_id: str
    time_ms: int
    lat: float
    lng: float
    accuracy_m: float = 0.0


class LocationHistory(Protocol):
    """Fixes by user and time. A fix is visible from the return of `append` until seven days after its own time, and then gone for
    good by itself. Raises discovery.errors.Unavailable (ENGINE_DOWN) when the engine is away, and InvalidArgument for more than
    MOST_FIXES.
    """

    async def append(self, fixes: Sequence[FixRow]) -> None:
        """Keeps the fixes; durable when it returns. A fix at a time that the user has one at replaces it, so it may be called twice.
        One that is too old is not kept. Nothing is atomic over several fixes.
        """

    async def read(self, user_id: str, after_ms: int, before_ms: int, limit: int) -> Sequence[FixRow]:
        """The user's fixes with after_ms < time_ms < before_ms, newest first, at most `limit`."""

    async def latest(self, user_ids: Collection[str], since_ms: int) -> Mapping[str, FixRow]:
        """The newest fix of each user with time_ms >= since_ms, which is at most a day ago; no entry for who has none."""

    async def forget(self, user_id: str) -> None:
        """Removes all fixes of the user that were appended before."""

    async def close(self) -> None:
        """Finishes the writes that were begun, then lets the engine go."""
