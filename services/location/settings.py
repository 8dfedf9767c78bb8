"""What an operator may set about nearby friends, with the defaults."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LocationSettings:
    """Limits and times of nearby friends. All counts are at least 1, all times more than 0."""

    radius_miles: float = 5.0
    """How far away friends are shown to a user who does not say."""
    moving_s: int = 5
    """Seconds between the updates of a device that drives."""
    walking_s: int = 30
    """Seconds between the updates of a device that is walked about."""
    still_s: int = 60
    """Seconds between the updates of a device that lies still."""
    min_move_m: int = 50
    """The least move that is worth an update, or a fix in the history."""
    history_apart_s: float = 300.0
    """After which time the history gets a fix without a move."""
    history_waiting: int = 10_000
    """Fixes that wait for the history; of more, the oldest ones are lost to it."""
    history_gather_s: float = 0.5
    """How long fixes gather before they go to the history together."""
    most_followed: int = 400
    """Friends of one user whose places reach the user: those who decided about the user first, then in order of user id."""
    most_grants: int = 1_000
    """Friends about whom one user may have decided."""
    most_viewers: int = 200_000
    """Connected users that this process keeps; reports of more are refused as OVERLOADED."""
    viewer_lifetime_s: float = 30.0
    """How long a connection counts as there after its last report."""
    most_seen: int = 100_000
    """Views that gather for the log; of more, the oldest ones are written at once or lost."""
    views_gather_s: float = 5.0
    """How long views gather before they are logged."""
    most_names: int = 100_000
    """Names of users that this process remembers."""
    names_s: float = 600.0
    """For how long."""
    friends_at_once: int = 16
    """Users whose friends are asked for at the same time."""
    friends_timeout_s: float = 2.0
    """How long the directory may take to answer."""
    friends_retry_s: float = 1.0
    """When the directory or an engine is asked again after a failure."""
    friends_refresh_s: float = 300.0
    """How long a change of friendships can go unnoticed when its announcement was lost."""
    engine_timeout_s: float = 2.0
    """How long an engine may take before what it was asked for counts as failed."""
    tick_s: float = 0.5
    """How often it is looked whether something has run out."""
    rules_at_once: int = 100
    """Users whose changed rules are read in one go."""
    page_size: int = 20
    """Nearby friends on a page where the request names no size."""
    log_page_size: int = 50
    """Entries on a page of the other lists where the request names no size."""
