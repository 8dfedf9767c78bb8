"""How news look on Redis: who published them, the how manieth of theirs they are, and the payload."""

import struct
from collections import OrderedDict
from dataclasses import dataclass

_HEAD = struct.Struct(">B8sQ")
_VERSION = 1
PUBLISHER_BYTES = 8


@dataclass(frozen=True, slots=True)
class Frame:
    """News. A publisher is a bus that was opened; it counts its news over all topics, from 1."""

    publisher: bytes
    number: int
    payload: bytes

    def packed(self) -> bytes:
        """As it travels."""
        return _HEAD.pack(_VERSION, self.publisher, self.number) + self.payload


def unpacked(data: bytes) -> Frame | None:
    """The frame that travelled; None if it is none that this version knows."""
    if len(data) < _HEAD.size or data[0] != _VERSION:
        return None
    _, publisher, number = _HEAD.unpack_from(data)
    return Frame(publisher, number, data[_HEAD.size :])


class Newest:
    """Tells news that come too late, for a bounded number of publishers: those heard of last.

    A server that hung carries out what it was sent before, perhaps after what its sender, who had given up on that, sent
    over another connection.
    """

    def __init__(self, most_publishers: int) -> None:
        self._most = most_publishers
        self._numbers: OrderedDict[bytes, int] = OrderedDict()

    def takes(self, frame: Frame) -> bool:
        """Whether it is newer than all that came from its publisher."""
        if frame.number <= self._numbers.get(frame.publisher, 0):
            return False
        self._numbers[frame.publisher] = frame.number
        self._numbers.move_to_end(frame.publisher)
        if len(self._numbers) > self._most:
            self._numbers.popitem(last=False)
        return True
