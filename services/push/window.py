"""Which records of a partition are settled, and how that is committed. Pure.

Records settle in any order: a call at once, a group's message after minutes. What is committed is the lowest offset that is not
settled; beside it stand the offsets beyond it that are not settled either, so that after a crash the others are not
pushed again, and the last alerts of some pairs, so that the limits on alerts hold across it.
"""

import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from services.ports.log import Committed

MOST_OFFSETS: Final = 16_384
"""Offsets that a state tells of: two kilobytes of them."""
MOST_PAIRS: Final = 64
"""Pairs that a state tells of: at ten bytes each. With both the state stays below 3,000 bytes."""
_HEAD = struct.Struct(">BQIB")
_PAIR = struct.Struct(">QH")
_VERSION = 1


@dataclass(frozen=True, slots=True)
class Resumed:
    """What a commit tells: everything before `end` is settled but `open_offsets`. And when pairs had their last alert."""

    end: int
    open_offsets: frozenset[int]
    alerts: Mapping[int, int] = field(default_factory=dict)


def read_committed(committed: Committed) -> Resumed:
    """What was written by write_committed. A state of another kind is none."""
    start = committed.next_offset
    try:
        state = zlib.decompress(committed.state)
        version, newest_ms, span, pairs = _HEAD.unpack_from(state)
    except (zlib.error, struct.error):
        return Resumed(start, frozenset())
    if version != _VERSION:
        return Resumed(start, frozenset())
    bits_at = _HEAD.size + pairs * _PAIR.size
    entries = _PAIR.iter_unpack(state[_HEAD.size : bits_at])
    alerts = {pair: newest_ms - age_ms for pair, age_ms in entries}
    bits = int.from_bytes(state[bits_at:], "little")
    return Resumed(start + span, frozenset(start + n for n in range(span) if bits >> n & 1), alerts)


def write_committed(resumed: Resumed) -> Committed:
    """At most 3,000 bytes of state: of more than MOST_OFFSETS and MOST_PAIRS, the later offsets count as not settled, and of the
    pairs the first stand.
    """
    start = min(resumed.open_offsets, default=resumed.end)
    span = min(resumed.end - start, MOST_OFFSETS)
    newest_ms = max(resumed.alerts.values(), default=0)
    entries = [(pair, newest_ms - at_ms) for pair, at_ms in resumed.alerts.items() if newest_ms - at_ms < 1 << 16]
    entries = entries[:MOST_PAIRS]
    if not span and not entries:
        return Committed(start, b"")
    bits = bytearray((span + 7) // 8)
    for offset in resumed.open_offsets:
        if offset - start < span:
            bits[(offset - start) // 8] |= 1 << (offset - start) % 8
    parts = [
        _HEAD.pack(_VERSION, newest_ms, span, len(entries)),
        *(_PAIR.pack(*entry) for entry in entries),
        bytes(bits),
    ]
    return Committed(start, zlib.compress(b"".join(parts)))


class Window:
    """The records of a partition from the lowest that is not settled on."""

    def __init__(self, resumed: Resumed) -> None:
        self._resumed = resumed
        self._end = min(resumed.open_offsets, default=resumed.end)
        self._open: dict[int, None] = {}

    @property
    def end(self) -> int:
        """The offset to read next."""
        return self._end

    @property
    def lowest(self) -> int:
        """The lowest offset that is not settled; the end if all are."""
        return next(iter(self._open), self._end)

    @property
    def span(self) -> int:
        """How many offsets there are from the lowest that is not settled to the end."""
        return self._end - self.lowest

    @property
    def held(self) -> int:
        """How many records are not settled."""
        return len(self._open)

    def read(self, offset: int) -> bool:
        """A record was read; in ascending order. Whether it has yet to be settled."""
        self._end = offset + 1
        if offset < self._resumed.end and offset not in self._resumed.open_offsets:
            return False
        self._open[offset] = None
        return True

    def settle(self, offset: int) -> None:
        """The record needs nothing any more; may be called again."""
        self._open.pop(offset, None)

    def now(self, alerts: Mapping[int, int]) -> Resumed:
        """How it stands. Records that were settled before a crash and have not been read again since stay settled."""
        if self._end >= self._resumed.end:
            return Resumed(self._end, frozenset(self._open), alerts)
        unread = {offset for offset in self._resumed.open_offsets if offset >= self._end}
        return Resumed(self._resumed.end, frozenset(unread | self._open.keys()), alerts)
