"""What an operator may set about push, with the defaults."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PushSettings:
    """Limits and times of the push service. All counts are at least 1, all times more than 0."""

    most_tokens: int = 32
    """Devices of a user that can be woken up."""
    most_mutes: int = 1_000
    """Conversations that a user may have muted."""
    page_size: int = 50
    """Items on a page where the request names no size."""
    test_interval_s: float = 10.0
    """Least time between two tests of a device."""
    most_tests: int = 10_000
    """Devices of which it is remembered when they were tested; who is forgotten may test again."""
