"""The retry budget, pure: what a process may add to a mesh that is ailing already.

Every call earns a share of a retry, and some retries come with time, so that a process with few calls has any at all. When they
are used up, a failure is the caller's to hear: a peer that dies under its load is not hammered for it.
"""

import time
from collections.abc import Callable


class RetryBudget:
    """`ratio` retries a call and `per_s` a second; at most `most` are saved up: by default, enough for all that can be open at
    one peer to be tried once more when it dies.
    """

    def __init__(
        self,
        ratio: float = 0.2,
        per_s: float = 10.0,
        most: float = 2048.0,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ratio = ratio
        self._per_s = per_s
        self._most = most
        self._now_s = now_s
        self._saved = per_s
        self._seen_s = now_s()

    def earn(self) -> None:
        """A call was made."""
        self._saved = min(self._most, self._saved + self._ratio)

    def spend(self) -> bool:
        """Takes a retry out of the budget. False: there is none."""
        now_s = self._now_s()
        self._saved = min(self._most, self._saved + (now_s - self._seen_s) * self._per_s)
        self._seen_s = now_s
        if self._saved < 1:
            return False
        self._saved -= 1
        return True
