"""Wrong passwords, counted for each user, so that guessing is slow. Pure but for the clock it is given."""

from collections import OrderedDict, deque

from discovery.clock import Clock
from services.directory.errors import RateLimited


class WrongPasswords:
    """At most `most` wrong passwords a user within any `window_s` seconds.

    An attempt counts as wrong from its beginning until it is forgiven, so that many at once do not slip through.
    Users that do not exist are counted alike, and tell nothing. At most `users_most` users are remembered: beyond that
    the ones that were tried longest ago are forgotten. A restart forgets all.
    """

    def __init__(self, most: int, window_s: float, users_most: int, clock: Clock) -> None:
        self._most = most
        self._window_s = window_s
        self._users_most = users_most
        self._clock = clock
        # Least recently tried first; the times of each user ascend.
        self._times: OrderedDict[str, deque[float]] = OrderedDict()

    def begin(self, user_id: str) -> None:
        """Counts an attempt. Raises RateLimited with `retry_after_s`, and counts nothing, if the limit was reached."""
        now_s = self._clock.monotonic_s()
        self._forget_old(now_s)
        times = self._times.setdefault(user_id, deque())
        while times and times[0] <= now_s - self._window_s:
            times.popleft()
        if len(times) >= self._most:
            raise RateLimited("Too many wrong passwords.", retry_after_s=times[0] + self._window_s - now_s)
        times.append(now_s)
        self._times.move_to_end(user_id)
        if len(self._times) > self._users_most:
            self._times.popitem(last=False)

    def forgive(self, user_id: str) -> None:
        """Takes the user's latest attempt back: its password was right, or was not looked at."""
        times = self._times.get(user_id)
        if not times:
            return
        times.pop()
        if not times:
            del self._times[user_id]

    def __len__(self) -> int:
        return len(self._times)

    def _forget_old(self, now_s: float) -> None:
        while self._times:
            user_id, times = next(iter(self._times.items()))
            if times and times[-1] > now_s - self._window_s:
                return
            del self._times[user_id]
