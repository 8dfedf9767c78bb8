"""What an operator may set about sessions, with the defaults."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SessionsSettings:
    """Limits and times of the sessions service. All counts are at least 1, all times more than 0."""

    most_devices: int = 32
    """Devices that a user may have."""
    connection_ttl_s: float = 65.0
    """How long a connection counts as live after it was registered or renewed last."""
    users_at_once: int = 16
    """Users of one request whose engines are asked beside each other."""
    page_size: int = 50
    """Devices on a page where the request names no size."""
    most_evictions: int = 10_000
    """Connections that wait to be closed; of more, the edge learns at its next renewal."""
    evictions_at_once: int = 16
    """Evictions under way at a time, so that an edge that hangs does not hold up the others'."""
    most_held: int = 1_000_000
    """Connections that are held in memory for the time that the cache is away; beyond, those that run out first are not."""
    cache_check_s: float = 5.0
    """How often it is looked whether the cache has lost what it held."""
    push_timeout_s: float = 2.0
    """How long push may take to forget a removed device."""
    most_live_sessions: int = 200_000
    """Live locations that this process watches over; a start beyond is refused as OVERLOADED."""
    live_recheck_s: float = 60.0
    """How long a sharer's leaving of a conversation can go unnoticed when its announcement was lost."""
    live_retry_s: float = 2.0
    """When a step of a live location that failed is tried again."""
    live_at_once: int = 16
    """Live locations that are worked on beside each other."""
    live_call_timeout_s: float = 2.0
    """How long another service may take to answer what a live location needs of it."""
