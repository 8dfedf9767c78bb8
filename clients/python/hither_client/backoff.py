"""When to try again: exponential backoff with full jitter, as pure arithmetic."""

import random
from collections.abc import Callable


class Backoff:
    """Delays drawn evenly from 0 to a bound that doubles from `first_s` up to `limit_s`.

    Full jitter: clients that lost their server at one moment come back spread over the whole interval. `reset()` after a success.
    """

    def __init__(
        self, first_s: float = 1.0, limit_s: float = 30.0, *, uniform: Callable[[float, float], float] = random.uniform
    ) -> None:
        self._first_s = first_s
        self._limit_s = limit_s
        self._uniform = uniform
        self._failures = 0

    def next_s(self, at_least_s: float = 0.0) -> float:
        """The delay before the next attempt; never less than what the server asked for."""
        bound_s = min(self._limit_s, self._first_s * 2.0 ** min(self._failures, 32))
        self._failures += 1
        return at_least_s + self._uniform(0.0, bound_s)

    def reset(self) -> None:
        """An attempt succeeded: begin anew."""
        self._failures = 0
