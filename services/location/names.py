"""What users are called, as the directory says, remembered for a while. Nobody waits long for a name: without one it is empty."""

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence

import structlog

from discovery.clock import Clock
from discovery.errors import HitherError

AskNames = Callable[[Sequence[str]], Awaitable[Mapping[str, str]]]
"""The names of at most 200 users."""
_NAMES_AT_ONCE = 200
_log = structlog.get_logger("hither.location")


class Names:
    """Names by user."""

    def __init__(self, ask: AskNames, clock: Clock, most_names: int, lifetime_s: float) -> None:
        self._ask = ask
        self._clock = clock
        self._most_names = most_names
        self._lifetime_s = lifetime_s
        self._names: OrderedDict[str, tuple[str, float]] = OrderedDict()
        """Each name, and until when it is believed; the oldest first."""

    def known(self, user_ids: Collection[str]) -> Mapping[str, str] | None:
        """The names of the users, if nobody has to be asked."""
        now_s, names = self._clock.monotonic_s(), {}
        for user_id in user_ids:
            name, believed_s = self._names.get(user_id, ("", 0.0))
            if believed_s <= now_s:
                return None
            names[user_id] = name
        return names

    async def of(self, user_ids: Iterable[str]) -> Mapping[str, str]:
        """The names of the users; empty where none is known."""
        now_s, wanted = self._clock.monotonic_s(), list(dict.fromkeys(user_ids))
        unknown = [user_id for user_id in wanted if self._names.get(user_id, ("", 0.0))[1] <= now_s]
        for start in range(0, len(unknown), _NAMES_AT_ONCE):
            chunk = unknown[start : start + _NAMES_AT_ONCE]
            try:
                found = await self._ask(chunk)
            except HitherError as error:
                _log.warning("names.failed", error=str(error))
                break
            for user_id in chunk:
                self._names[user_id] = found.get(user_id, ""), now_s + self._lifetime_s
                self._names.move_to_end(user_id)
        names = {user_id: self._names.get(user_id, ("", 0.0))[0] for user_id in wanted}
        while len(self._names) > self._most_names:
            self._names.popitem(last=False)
        return names
