"""The live locations that this process knows: whose they are, until when, and the newest point of each. Pure.

Silence costs nothing to watch for: of each live location that has sent a point one entry waits in a heap, for the time at which it
would be stale if nothing more came; when that time is there and more has come, the entry goes back with a later time.
"""

import heapq
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import count

from discovery.partitions import SEPARATOR
from hither.location.v1.location_pb2 import Fix
from hither.sessions.v1.sessions_pb2 import LiveLocation


def conversation_of(session_id: str) -> str:
    """The conversation that the session is in; empty if that is no session's id."""
    conversation_id, separator, _ = session_id.partition(SEPARATOR)
    return conversation_id if separator else ""


@dataclass(slots=True, eq=False)
class Shared:
    """A live location. `number` is that of the newest point that has begun to be taken, `latest_number` that of `latest`."""

    session_id: str
    conversation_id: str
    user_id: str
    opaque: bool
    expires_ms: int
    number: int = 0
    latest: Fix | None = None
    latest_number: int = 0
    seen_s: float = 0.0
    """When the newest point came, on the monotonic clock."""
    is_listened_for: bool = field(default=False, repr=False)

    def next_number(self) -> int:
        """The number of a point that comes now."""
        self.number += 1
        return self.number


class Shares:
    """See the module. Of each conversation at most one live location for each member."""

    def __init__(self, stale_s: float) -> None:
        self._stale_s = stale_s
        self._shared: dict[str, Shared] = {}
        self._conversations: dict[str, dict[str, Shared]] = {}
        self._silences: list[tuple[float, int, Shared]] = []
        self._entries = count()

    def __len__(self) -> int:
        return len(self._shared)

    def find(self, session_id: str) -> Shared | None:
        """The live location, if it is known here."""
        return self._shared.get(session_id)

    def of(self, conversation_id: str) -> list[Shared]:
        """Those of a conversation that are known here."""
        return list(self._conversations.get(conversation_id, {}).values())

    def put(self, known: LiveLocation) -> Shared:
        """The live location goes on, as sessions says; its points stay as they are."""
        expires_ms = known.expires_at.ToMilliseconds()
        shared = self._shared.get(known.session_id)
        if shared is not None:
            shared.expires_ms = expires_ms
            return shared
        shared = Shared(known.session_id, known.conversation_id, known.user_id, known.opaque, expires_ms)
        self._shared[known.session_id] = shared
        self._conversations.setdefault(known.conversation_id, {})[known.session_id] = shared
        return shared

    def point(self, shared: Shared, number: int, fix: Fix, seen_s: float) -> bool:
        """A point was taken; tells whether it is the newest. Points that are taken at once may be told out of their order."""
        if number <= shared.latest_number:
            return False
        shared.number = max(shared.number, number)
        shared.latest, shared.latest_number, shared.seen_s = fix, number, seen_s
        if not shared.is_listened_for:
            shared.is_listened_for = True
            self._listen(shared)
        return True

    def is_stale(self, shared: Shared, now_s: float) -> bool:
        """Whether it has been silent for too long since its newest point."""
        return shared.latest is not None and now_s - shared.seen_s >= self._stale_s

    def fallen_silent(self, now_s: float) -> Iterator[Shared]:
        """The live locations that have become stale, each once until another point comes."""
        while self._silences and self._silences[0][0] <= now_s:
            shared = heapq.heappop(self._silences)[2]
            if self._shared.get(shared.session_id) is not shared:
                continue
            if shared.seen_s + self._stale_s > now_s:
                self._listen(shared)
                continue
            shared.is_listened_for = False
            yield shared

    def end(self, session_id: str) -> Shared | None:
        """Forgets the live location; what was known of it."""
        shared = self._shared.pop(session_id, None)
        if shared is not None:
            its = self._conversations[shared.conversation_id]
            del its[session_id]
            if not its:
                del self._conversations[shared.conversation_id]
        return shared

    def keep_only(self, is_kept: Callable[[Shared], bool]) -> None:
        """Forgets the live locations of which `is_kept` says no."""
        for shared in [shared for shared in self._shared.values() if not is_kept(shared)]:
            self.end(shared.session_id)

    def _listen(self, shared: Shared) -> None:
        heapq.heappush(self._silences, (shared.seen_s + self._stale_s, next(self._entries), shared))
