"""The batches of one direction that the other end has not acknowledged, pure: what must be sent again after a break.

Both ends of the relay and the sender to an edge keep one. How much it holds is bounded by whoever fills it.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Sent:
    """A batch as it was written, and what its sender remembers of it: ids, or whatever else it is about."""

    seq: int
    message: bytes
    about: tuple[int, ...] = ()


@dataclass(slots=True)
class SendWindow:
    """Numbers batches from 1 and keeps them until they are acknowledged."""

    seq: int = 0
    """The number of the last batch."""
    size_bytes: int = 0
    """Of what is kept."""
    _sent: deque[Sent] = field(default_factory=deque)

    def __len__(self) -> int:
        return len(self._sent)

    def __iter__(self) -> Iterator[Sent]:
        return iter(self._sent)

    def next_seq(self) -> int:
        """The number of a batch that will be given to `keep`."""
        self.seq += 1
        return self.seq

    def keep(self, message: bytes, about: tuple[int, ...] = ()) -> None:
        """Keeps the batch of the last number."""
        self._sent.append(Sent(self.seq, message, about))
        self.size_bytes += len(message)

    def acknowledge(self, seq: int) -> None:
        """The other end has taken over every batch up to this number."""
        while self._sent and self._sent[0].seq <= seq:
            self.size_bytes -= len(self._sent.popleft().message)

    def clear(self) -> None:
        """Keeps nothing any more; the numbers go on."""
        self._sent.clear()
        self.size_bytes = 0

    def restart(self) -> None:
        """Keeps nothing any more, and numbers from 1 again."""
        self.clear()
        self.seq = 0
