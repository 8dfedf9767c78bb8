"""The privacy store: what users let be known of them, and to whom."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Protocol


class Audience(IntEnum):
    """Who may know something. The numbers are stored."""

    NOBODY = 1
    FRIENDS = 2
    EVERYONE = 3


class Precision(IntEnum):
    """How exactly somebody may know a place; the greater, the more exactly. The numbers are stored."""

    HIDDEN = 1
    """Not at all."""
    CITY = 2
    """To a cell of some 20 km."""
    KILOMETRE = 3
    """To a cell of about 1 km."""
    EXACT = 4
    """As it was reported."""


@dataclass(frozen=True, slots=True)
class PrivacyRow:
    """What a user lets be known in general. The defaults hold for who never chose.

    `version` counts the changes of this row and of the user's grants: who knows the rules as of a version can tell whether they
    are old.
    """

    user_id: str
    presence: Audience = Audience.FRIENDS
    last_seen: Audience = Audience.FRIENDS
    shares_location: bool = False
    """Whether anybody may see the place. Off, no grant counts."""
    default_precision: Precision = Precision.EXACT
    """For friends who have no grant of their own."""
    version: int = 0


@dataclass(frozen=True, slots=True)
class GrantRow:
    """What one viewer may know of the owner's place instead of the default. After `expires_ms` (zero: never) it is HIDDEN."""

    owner_id: str
    viewer_id: str
    precision: Precision
    expires_ms: int = 0


class PrivacyStore(Protocol):
    """Privacy by user. What was written is durable and visible when a method returns. Writes of one user are atomic, and each
    raises the user's version by one. Raises discovery.errors.Unavailable (ENGINE_DOWN) when the engine is away.
    """

    async def privacy(self, user_ids: Collection[str]) -> Mapping[str, PrivacyRow]:
        """The rows of the users (at most 1,000 ids); every asked id is in the answer."""

    async def put_privacy(self, row: PrivacyRow, expected_version: int | None = None) -> int:
        """Replaces the user's row, whose own `version` is not looked at; returns the new version. Who changes only part of what
        was read names the version that was read: raises discovery.errors.Aborted, and nothing is done, if there is another.
        """

    async def put_grant(self, grant: GrantRow, most: int) -> int | None:
        """Makes or replaces the grant; returns the owner's new version. None, and nothing done, if the owner would then have
        more than `most` grants.
        """

    async def remove_grant(self, owner_id: str, viewer_id: str) -> int | None:
        """Forgets the grant; returns the owner's new version, None if there was no such grant."""

    async def grants_for(self, viewer_id: str, owner_ids: Collection[str]) -> Mapping[str, GrantRow]:
        """The viewer's grants by owner, of these owners (at most 1,000 ids), run out or not; no entry where there is none."""

    async def grants_by(self, owner_id: str, after_viewer_id: str, limit: int) -> Sequence[GrantRow]:
        """The owner's grants with viewer_id > after_viewer_id, in order of viewer id (by code point), run out or not."""

    async def forget(self, user_id: str) -> None:
        """Removes the user's row and every grant that the user made or has been made."""

    async def close(self) -> None:
        """Finishes the writes that were begun, then lets the engine go."""
