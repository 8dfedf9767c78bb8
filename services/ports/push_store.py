"""The push store: where users can be woken up, how they want it, and what became of it."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final, Protocol

FOREVER_MS: Final = 0
"""A conversation that is muted until this is muted until further notice."""
KEPT_DELIVERIES: Final = 200
"""Entries that are kept of each device: the newest."""


class Platform(IntEnum):
    """Who takes a token. The numbers are stored."""

    IOS = 1
    ANDROID = 2
    WEB = 3


class Preview(IntEnum):
    """What a push may show of a message. The numbers are stored."""

    NOTHING = 1
    """That there is one."""
    SENDER = 2
    """And from whom, and in which group."""
    TEXT = 3
    """And its text."""


@dataclass(frozen=True, slots=True)
class PushTokenRow:
    """Where a device can be woken up. `updated_ms` is when the token was registered."""

    user_id: str
    device_id: str
    platform: Platform
    token: str = field(repr=False)
    updated_ms: int


@dataclass(frozen=True, slots=True)
class PushSettingsRow:
    """How a user wants to be woken up. The defaults hold for who never chose.

    Quiet hours are minutes since midnight in the IANA time zone, `quiet_from_min` included; they may span midnight, and are none
    where both are equal.
    """

    user_id: str
    preview: Preview = Preview.NOTHING
    quiet_from_min: int = 0
    quiet_to_min: int = 0
    time_zone: str = "UTC"


@dataclass(frozen=True, slots=True)
class PushPreferences:
    """All that a user has said about being woken up. `mutes`: conversation to until when (FOREVER_MS: further notice)."""

    settings: PushSettingsRow
    mutes: Mapping[str, int]


class Fate(IntEnum):
    """What became of a push. The numbers are stored."""

    ACCEPTED = 1
    """A provider took it."""
    DROPPED = 2
    """It was not sent: the policy says why."""
    REFUSED = 3
    """A provider refused it."""
    GIVEN_UP = 4
    """No provider took it in time."""


@dataclass(frozen=True, slots=True)
class DeliveryRow:
    """What became of one push, or of what would have been one. `push_id` names it within the device: recorded again, it is
    replaced.
    """

    user_id: str
    device_id: str
    push_id: str
    at_ms: int
    fate: Fate
    reason: str
    """Why, if it was not accepted: a provider's word, or the policy's, in capitals."""
    kind: str
    """"direct", "group", "mention", "call", "sync" or "test"."""
    conversation_id: str
    messages: int
    """How many messages it stands for."""
    collapse_id: str
    attempts: int
    latency_ms: int
    """From the newest message's acceptance to the provider's answer; zero if none was asked."""


class PushStore(Protocol):
    """Tokens and wishes by user. What was written is durable and visible when a method returns. Raises
    discovery.errors.Unavailable (ENGINE_DOWN) when the engine is away. At most 1,000 ids in a call.
    """

    async def put_token(self, row: PushTokenRow, most: int) -> bool:
        """Makes it the device's token, and no other device's of whatever user: a phone that changes hands wakes up one user only.
        False, and nothing done, if the user would then have more than `most` tokens. Atomic.
        """

    async def tokens(self, user_ids: Collection[str]) -> Mapping[str, Sequence[PushTokenRow]]:
        """The users' tokens, in order of device id; no entry for who has none."""

    async def remove_token(self, user_id: str, device_id: str, token: str | None = None) -> bool:
        """Forgets the device's token, if it is this one or none is named; tells whether it did."""

    async def preferences(self, user_ids: Collection[str]) -> Mapping[str, PushPreferences]:
        """What the users want; every asked id is in the answer."""

    async def put_settings(self, row: PushSettingsRow) -> None:
        """Replaces the user's settings."""

    async def put_mute(self, user_id: str, conversation_id: str, until_ms: int, most: int) -> bool:
        """Mutes the conversation. False, and nothing done, if the user would then have muted more than `most`."""

    async def remove_mute(self, user_id: str, conversation_id: str) -> bool:
        """Lets the conversation be heard again; tells whether it was muted."""

    async def close(self) -> None:
        """Finishes the writes that were begun, then lets the engine go."""


class DeliveryLog(Protocol):
    """What became of pushes, by device, for its user to read: the newest KEPT_DELIVERIES at least, and not many more. Raises
    discovery.errors.Unavailable (ENGINE_DOWN) when the engine is away.
    """

    async def record(self, rows: Sequence[DeliveryRow]) -> None:
        """Keeps the entries (at most 1,000); durable when it returns. It may be called again with the same."""

    async def read(
        self, user_id: str, device_id: str, before: tuple[int, str] | None, limit: int
    ) -> Sequence[DeliveryRow]:
        """The device's entries before (at_ms, push_id), or from the newest on: in descending order of these. At most `limit`."""

    async def forget(self, user_id: str, device_id: str) -> None:
        """Removes the device's entries."""

    async def close(self) -> None:
        """Finishes the writes that were begun, then lets the engine go."""
