"""What the users do: a few facts, and the rates that follow from them. Peaks are averages times a factor."""

from dataclasses import dataclass
from typing import Final

DAY_S: Final = 86_400


@dataclass(frozen=True, slots=True)
class Workload:
    """The facts. Raises ValueError for what cannot be meant."""

    daily_users: float = 50e6
    """Users on a day."""
    messages_each: float = 40.0
    """Messages that each of them sends on a day."""
    message_bytes: float = 100.0
    """Size of a message's text, in bytes."""
    peak_factor: float = 3.0
    """Messages and connects at the busiest time of a day, relative to the average."""
    message_days: float = 365.0
    """How long messages are kept, in days."""
    concurrent_share: float = 0.2
    """Share of the daily users that is connected at the busiest time, each with one device."""
    connects_each: float = 4.0
    """How often a user connects on a day."""
    sharers: float | None = None
    """Users who share their location at the same time. None: a fifth of the daily users."""
    update_interval_s: float = 30.0
    """Seconds between two updates of a sharer."""
    update_peak_factor: float = 2.0
    """Updates at the busiest time, relative to `sharers` / `update_interval_s`."""
    location_bytes: float = 100.0
    """Size of a location in the history, in bytes."""
    history_days: float = 7.0
    """How long the history of locations is kept, in days."""
    friends: float = 400.0
    """Friends of a user."""
    nearby_share: float = 0.05
    """Share of the friends who are connected that is within the radius, so that they get the update."""
    log_hours: float = 24.0
    """How much the log could hold if nothing took messages from it, in hours."""
    replication: float = 3.0
    """Copies in the log and in the message store."""

    def __post_init__(self) -> None:
        for name in ("daily_users", "update_interval_s", "replication"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} is more than 0")
        for name in ("concurrent_share", "nearby_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is from 0 to 1")
        for name in ("peak_factor", "update_peak_factor"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is at least 1")

    @property
    def messages_a_day(self) -> float:
        """In all."""
        return self.daily_users * self.messages_each

    @property
    def messages_per_s(self) -> float:
        """On average."""
        return self.messages_a_day / DAY_S

    @property
    def peak_messages_per_s(self) -> float:
        """At the busiest time."""
        return self.messages_per_s * self.peak_factor

    @property
    def text_bytes_a_day(self) -> float:
        """Of messages, one copy, nothing but the texts."""
        return self.messages_a_day * self.message_bytes

    @property
    def connections(self) -> float:
        """At the busiest time."""
        return self.daily_users * self.concurrent_share

    @property
    def peak_connects_per_s(self) -> float:
        """At the busiest time."""
        return self.daily_users * self.connects_each / DAY_S * self.peak_factor

    @property
    def sharing(self) -> float:
        """Users who share their location at the same time."""
        return self.daily_users / 5 if self.sharers is None else self.sharers

    @property
    def updates_per_s(self) -> float:
        """Of locations, on average."""
        return self.sharing / self.update_interval_s

    @property
    def peak_updates_per_s(self) -> float:
        """Of locations, at the busiest time."""
        return self.updates_per_s * self.update_peak_factor

    @property
    def history_bytes_a_day(self) -> float:
        """Of locations, one copy."""
        return self.updates_per_s * DAY_S * self.location_bytes

    @property
    def connected_friends(self) -> float:
        """Friends of a user who are connected at the busiest time."""
        return self.friends * self.concurrent_share
