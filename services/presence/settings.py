"""What an operator may set about presence, with the defaults."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PresenceSettings:
    """Limits and times of the presence service. All counts are at least 1, all times more than 0."""

    device_lifetime_s: float = 30.0
    """How long a device counts as connected after its last report."""
    gather_s: float = 1.0
    """How long changes of a user gather before friends are told what came of them."""
    offline_after_s: float = 5.0
    """How long a user whose last connection ended stays as told before friends are told OFFLINE: most are back sooner."""
    tick_s: float = 0.1
    """How often it is looked whether something has run out or gathered; devices and changes may be late by as much."""
    record_ttl_s: float = 30.0
    """How long the record of a user who is there lives without a report."""
    last_seen_ttl_s: float = 30 * 24 * 3600.0
    """How long it is known when a user who is not there was last seen."""
    most_devices: int = 1_000_000
    """Connected devices that this process keeps; reports of more are refused as OVERLOADED."""
    most_followed: int = 5_000
    """Friends of one user whose news reach the user. Of more friends, the first ones in order of user id."""
    friends_at_once: int = 16
    """Users whose friends are asked for at the same time."""
    friends_timeout_s: float = 2.0
    """How long the directory may take to answer."""
    friends_retry_s: float = 1.0
    """When the directory or the bus is asked again after a failure."""
    friends_refresh_s: float = 300.0
    """How long a change of friendships can go unnoticed when its announcement was lost."""
    engine_timeout_s: float = 2.0
    """How long an engine may take before what it was asked for counts as failed and is tried again."""
    events_at_once: int = 1_000
    """Events that gather into one delivery; the news of one user are never split."""
    audit_s: float = 60.0
    """How often all records of watched users are compared with what was told of them, so that nothing that was lost on the
    way, with whoever was to send it, leaves a ghost for longer."""
    watch_ttl_s: float = 24 * 3600.0
    """How long it is kept for the next owner of a user whom the user's connections watch."""
    asks_most: int = 3
    """How often friendships are asked for again that changed while they were, before a request is refused."""
    records_at_once: int = 1_000
    """Records that are read in one go after a gap in the news."""
    page_size: int = 50
    """Friends on a page where the request names no size."""
