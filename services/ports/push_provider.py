"""The push provider: who wakes up a phone or a browser in our name (APNs, FCM, a browser's push service)."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, IntEnum, auto
from typing import Protocol

from services.ports.push_store import Platform


class Urgency(IntEnum):
    """How much a wake-up may cost the device's battery."""

    LOW = 1
    """When it suits the device."""
    HIGH = 2
    """At once."""


@dataclass(frozen=True, slots=True)
class WakeUp:
    """One push for one device. It carries no message: `data` are ids, and `title` and `body` are empty unless the user's settings
    allow them, or say no more than that something is there.
    """

    platform: Platform
    token: str = field(repr=False)
    """The provider's token of the device; for the web the subscription as JSON."""
    push_id: str
    """A UUID, the same at every attempt of this push."""
    collapse_id: str
    """On the device this push takes the place of an earlier one of the same id. At most 32 bytes, of A-Z a-z 0-9 - and _ (as
    RFC 8030 has it for a topic). Empty: it takes nobody's place."""
    urgency: Urgency
    expires_ms: int
    """After this (milliseconds since 1970) the provider is not to deliver it any more."""
    title: str = field(default="", repr=False)
    body: str = field(default="", repr=False)
    """Title and body both empty: silent, the app is woken and nothing is shown."""
    badge: int | None = None
    """The number on the app's icon; None: as it is."""
    data: Mapping[str, str] = field(default_factory=dict)
    """For the app: ids of what came."""

    @property
    def silent(self) -> bool:
        """Whether nothing is shown."""
        return not self.title and not self.body


class Outcome(Enum):
    """What became of an attempt."""

    ACCEPTED = auto()
    """The provider has it."""
    GONE = auto()
    """The token is no device's any more: it is to be forgotten."""
    REFUSED = auto()
    """The provider will not take it, however often it is tried."""
    RETRY = auto()
    """The provider could not take it now, or its answer did not come: the same push may be tried again."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of an attempt, and why."""

    outcome: Outcome
    reason: str = ""
    """The provider's own word (such as "BadDeviceToken") or, without an answer, ours: "TIMEOUT", "UNREACHABLE". Empty: accepted."""
    provider_id: str = ""
    """What the provider calls the push, if it says."""
    retry_after_s: float | None = None
    """With RETRY: not before this long, if the provider says. It holds for all that the provider is to be sent."""


class PushProvider(Protocol):
    """Sends wake-ups to devices of one platform, any number at the same time, over few connections that are kept."""

    async def send(self, wake_up: WakeUp) -> Verdict:
        """Tries once, within the provider's deadline (some seconds). Whatever the provider does is a verdict; raises nothing for it.
        A push whose verdict is RETRY may have arrived: then the next attempt has the same push_id and collapse_id.
        """

    async def close(self) -> None:
        """Lets the connections go. Attempts that are under way end with RETRY."""
