"""What an operator may set about live locations, with the defaults."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LiveSettings:
    """Limits and times of the live part of the location service. All counts are at least 1, all times more than 0 where
    nothing else is said.
    """

    stale_s: float = 30.0
    """How long after its newest point a live location counts as stale."""
    trail_s: float = 600.0
    """How old the points of a trail may be. The newest one is shown for as long as its live location goes on."""
    trail_points: int = 100
    """Points that are kept of a live location, until it ends: 1 to 200."""
    trail_bytes: int = 262_144
    """What all trails of one answer weigh together at most; each live location has an equal share, and the newest points go first."""
    watch_lease_s: float = 120.0
    """How long a device counts as watching before it is looked whether its connection still lives."""
    watch_doubt_s: float = 40.0
    """How long it counts so when the registry does not know the connection: an edge takes so long to renew all of its own."""
    recheck_s: float = 60.0
    """How long a viewer's leaving of a conversation can go unnoticed when its announcement was lost."""
    members_stale_s: float = 300.0
    """How long members are known while the directory is away."""
    tick_s: float = 0.5
    """How often it is looked whether something is stale, or somebody gone."""
    at_once: int = 16
    """Conversations, or viewers, that others are asked about at the same time."""
    call_timeout_s: float = 2.0
    """How long another service may take to answer."""
    engine_timeout_s: float = 1.0
    """How long the cache may take before it counts as away."""
    most_shared: int = 200_000
    """Live locations that this process keeps; a point of one more is refused as OVERLOADED."""
    most_watchers: int = 200_000
    """Viewers of all conversations that this process keeps; one more is refused as OVERLOADED."""
    most_watchers_of_one: int = 2_000
    """Viewers of one conversation."""
    audit_every_s: float = 0.0
    """How far apart the points are that the location history keeps for audit; 0: none is kept."""
    deliver_tries: int = 4
    """How often an event is offered to an edge that does not take it. What is lost heals when the viewer asks again."""
    deliver_retry_s: float = 0.5
    """When it is offered again."""
