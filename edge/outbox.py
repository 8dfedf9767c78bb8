"""What waits to be sent to one client: in order, bounded in bytes, the newest in place of the older where that is enough.

Pure: it holds frames and sends none.
"""

from collections import deque
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

FRAME_OVERHEAD_BYTES: Final = 64
"""What a waiting frame counts beyond its own bytes, so that many small ones are bounded too."""


class Put(Enum):
    """What became of a frame."""

    QUEUED = auto()
    CONFLATED = auto()
    """It has taken the place of an older one of its key."""
    DROPPED = auto()
    """There was no room for a frame that may be lost."""
    OVERFLOW = auto()
    """There was no room for a frame that may not be lost."""


_QUEUED: Final = Put.QUEUED


@dataclass(slots=True)
class _Replaceable:
    """A waiting frame with a key. One that had to make room for another is `dropped`, and stays until its turn comes."""

    frame: bytes
    key: str
    dropped: bool = False


class Outbox:
    """First in, first out, within `limit_bytes`.

    A frame with a key replaces the one that waits under the same key, at its place in the order. A frame without one is
    never lost: frames with keys make room for it, and where that is not enough the answer is OVERFLOW. A frame that is
    larger than the limit by itself is taken if nothing waits.
    """

    __slots__ = ("_by_key", "_limit_bytes", "_replaceable", "_waiting", "waiting_bytes")

    def __init__(self, limit_bytes: int) -> None:
        self.waiting_bytes = 0
        """What the waiting frames count together; zero if none waits."""
        self._limit_bytes = limit_bytes
        self._waiting: deque[bytes | _Replaceable] = deque()
        self._by_key: dict[str, _Replaceable] = {}
        self._replaceable = 0

    def __bool__(self) -> bool:
        return self.waiting_bytes > 0

    def __len__(self) -> int:
        """Frames that wait, those among them that had to make room and have not come to their turn yet."""
        return len(self._waiting)

    @property
    def more_than_half_full(self) -> bool:
        """Whether what can wait elsewhere should."""
        return self.waiting_bytes * 2 > self._limit_bytes

    def put(self, frame: bytes, key: str = "") -> Put:
        """Adds a frame. Empty key: it may not be lost."""
        if key:
            return self._put_replaceable(frame, key)
        size = len(frame) + FRAME_OVERHEAD_BYTES
        if self.waiting_bytes + size > self._limit_bytes and self.waiting_bytes:
            self._make_room(size)
            if self.waiting_bytes + size > self._limit_bytes and self.waiting_bytes:
                return Put.OVERFLOW
        self._waiting.append(frame)
        self.waiting_bytes += size
        return _QUEUED

    def take(self, most_bytes: int) -> list[bytes]:
        """Removes the oldest frames: at least one if any waits, and no more than fit into `most_bytes`."""
        waiting = self._waiting
        taken: list[bytes] = []
        if not self._replaceable and self.waiting_bytes <= most_bytes:
            taken.extend(waiting)  # type: ignore[arg-type]  # nothing but bytes waits
            waiting.clear()
            self.waiting_bytes = 0
            return taken
        while waiting:
            frame = waiting[0].frame if isinstance(waiting[0], _Replaceable) else waiting[0]
            most_bytes -= len(frame)
            if taken and most_bytes < 0:
                break
            if self._left(waiting.popleft()):
                taken.append(frame)
        return taken

    def clear(self) -> None:
        """Forgets everything that waits."""
        self._waiting.clear()
        self._by_key.clear()
        self._replaceable = 0
        self.waiting_bytes = 0

    def _put_replaceable(self, frame: bytes, key: str) -> Put:
        if (older := self._by_key.get(key)) is not None:
            self.waiting_bytes += len(frame) - len(older.frame)
            older.frame = frame
            return Put.CONFLATED
        size = len(frame) + FRAME_OVERHEAD_BYTES
        if self.waiting_bytes + size > self._limit_bytes and self.waiting_bytes:
            return Put.DROPPED
        waiting = self._by_key[key] = _Replaceable(frame, key)
        self._waiting.append(waiting)
        self._replaceable += 1
        self.waiting_bytes += size
        return Put.QUEUED

    def _left(self, waiting: bytes | _Replaceable) -> bool:
        """Settles the accounts for what was taken from the front; False if it had been dropped before."""
        if isinstance(waiting, _Replaceable):
            self._replaceable -= 1
            if waiting.dropped:
                return False
            del self._by_key[waiting.key]
            waiting_bytes = len(waiting.frame)
        else:
            waiting_bytes = len(waiting)
        self.waiting_bytes -= waiting_bytes + FRAME_OVERHEAD_BYTES
        return True

    def _make_room(self, size: int) -> None:
        """Drops frames with keys, oldest first, until `size` fits or none is left."""
        for key in list(self._by_key):
            if self.waiting_bytes + size <= self._limit_bytes:
                return
            older = self._by_key.pop(key)
            older.dropped = True
            self.waiting_bytes -= len(older.frame) + FRAME_OVERHEAD_BYTES
            older.frame = b""
