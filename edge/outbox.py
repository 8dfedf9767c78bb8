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


@dataclass(slots=True)
class _Waiting:
    frame: bytes
    key: str
    dropped: bool = False


class Outbox:
    """First in, first out, within `limit_bytes`.

    A frame with a key replaces the one that waits under the same key, at its place in the order. A frame without one is
    never lost: frames with keys make room for it, and where that is not enough the answer is OVERFLOW. A frame that is
    larger than the limit by itself is taken if nothing waits.
    """

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._waiting: deque[_Waiting] = deque()
        self._by_key: dict[str, _Waiting] = {}
        self._bytes = 0

    def __bool__(self) -> bool:
        return self._bytes > 0

    @property
    def waiting_bytes(self) -> int:
        """What the waiting frames count together."""
        return self._bytes

    @property
    def more_than_half_full(self) -> bool:
        """Whether what can wait elsewhere should."""
        return self._bytes * 2 > self._limit_bytes

    def put(self, frame: bytes, key: str = "") -> Put:
        """Adds a frame. Empty key: it may not be lost."""
        if key and (older := self._by_key.get(key)) is not None:
            self._bytes += len(frame) - len(older.frame)
            older.frame = frame
            return Put.CONFLATED
        size = len(frame) + FRAME_OVERHEAD_BYTES
        if self._bytes and self._bytes + size > self._limit_bytes:
            if key:
                return Put.DROPPED
            self._make_room(size)
            if self._bytes and self._bytes + size > self._limit_bytes:
                return Put.OVERFLOW
        waiting = _Waiting(frame, key)
        self._waiting.append(waiting)
        self._bytes += size
        if key:
            self._by_key[key] = waiting
        return Put.QUEUED

    def take(self, most_bytes: int) -> list[bytes]:
        """Removes the oldest frames: at least one if any waits, and no more than fit into `most_bytes`."""
        taken: list[bytes] = []
        waiting = self._waiting
        while waiting:
            oldest = waiting[0]
            if not oldest.dropped:
                most_bytes -= len(oldest.frame)
                if taken and most_bytes < 0:
                    break
                taken.append(oldest.frame)
                self._bytes -= len(oldest.frame) + FRAME_OVERHEAD_BYTES
                if oldest.key:
                    del self._by_key[oldest.key]
            waiting.popleft()
        return taken

    def clear(self) -> None:
        """Forgets everything that waits."""
        self._waiting.clear()
        self._by_key.clear()
        self._bytes = 0

    def _make_room(self, size: int) -> None:
        """Drops frames with keys, oldest first, until `size` fits or none is left."""
        for key in list(self._by_key):
            if self._bytes + size <= self._limit_bytes:
                return
            older = self._by_key.pop(key)
            older.dropped = True
            self._bytes -= len(older.frame) + FRAME_OVERHEAD_BYTES
            older.frame = b""
