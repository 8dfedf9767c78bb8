"""The newest messages of conversations, as a cache may hold them, and what may be answered from them. Pure: no engine, no clock.

Rows are immutable and contiguous by seq, so a contiguous run of them is true for ever, whoever made it. What it cannot know is
whether it still reaches to the conversation's end. So nothing is answered from a tail alone: its user compares it with the head
that the store has now, and extends it by the rows that it lacks. An ack comes after its row is visible in the store, so what was
acked before a read began is in the answer, however many owners the conversation had and whichever of them made the tail.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter

from google.protobuf.message import DecodeError

from hither.messaging.v1 import tails_pb2
from services.ports.message_store import Head, MessageRow

MOST_MESSAGES = 100
"""Messages of a tail."""
NO_BOUND = 2**63 - 1
"""A seq that no message reaches."""

_TAIL_BYTES = 400
_MESSAGE_BYTES = 48
"""What a tail and a message of it weigh in memory beside the payloads, about."""


@dataclass(frozen=True, slots=True)
class Asked:
    """Asks for the messages with after_seq < seq < before_seq, at most `limit`: the newest of them or the oldest."""

    after_seq: int
    before_seq: int
    limit: int
    newest: bool

    def seqs(self, head_seq: int) -> range:
        """Which they are, in a conversation that ends at `head_seq`; may be empty."""
        first, last = self.after_seq + 1, min(self.before_seq - 1, head_seq)
        if self.newest:
            return range(max(first, last - self.limit + 1), last + 1)
        return range(first, min(last, first + self.limit - 1) + 1)

    @property
    def to_the_end(self) -> bool:
        """Whether only the conversation's end, or the limit, bounds it upwards."""
        return self.before_seq >= NO_BOUND


@dataclass(frozen=True, slots=True)
class Span:
    """Adjacent messages in ascending order, serialised; the first is at `first_seq`."""

    first_seq: int
    payloads: Sequence[bytes]


NOTHING = Span(0, ())


@dataclass(frozen=True, slots=True)
class Tail:
    """Adjacent messages of a conversation, at least one and at most MOST_MESSAGES; `log_offset` is what made the last of them."""

    first_seq: int
    log_offset: int
    payloads: tuple[bytes, ...]
    size_bytes: int

    @property
    def newest_seq(self) -> int:
        """The place of the last message."""
        return self.first_seq + len(self.payloads) - 1

    def contradicts(self, head: Head) -> bool:
        """Whether the conversation that has this head was never one that this is a part of: its store has lost or changed rows."""
        return head.place < self.newest_seq or (head.place == self.newest_seq and head.log_offset != self.log_offset)

    def span(self, seqs: range) -> Span:
        """The messages at these places, which must not reach beyond the tail."""
        if not seqs:
            return NOTHING
        begin = seqs.start - self.first_seq
        return Span(seqs.start, self.payloads[begin : begin + len(seqs)])

    def extended(self, rows: Sequence[MessageRow]) -> "Tail | None":
        """With the rows that follow. `rows` begins with the tail's own last one, to prove that both tell of the same
        conversation; None if they do not.
        """
        if not rows or rows[0].seq != self.newest_seq:
            return None
        if rows[0].payload != self.payloads[-1] or rows[0].log_offset != self.log_offset:
            return None
        return self.followed_by(rows[1:])

    def followed_by(self, rows: Sequence[MessageRow]) -> "Tail":
        """With rows that come directly after it."""
        if not rows:
            return self
        return _made(self.first_seq, rows[-1].log_offset, (*self.payloads, *(row.payload for row in rows)))

    def preceded_by(self, rows: Sequence[MessageRow]) -> "Tail":
        """With those of the rows (adjacent, ascending) that come directly before it, as far as there is room."""
        before = [row.payload for row in rows if row.seq < self.first_seq]
        if not before or rows[0].seq + len(before) != self.first_seq:
            return self
        return _made(rows[0].seq, self.log_offset, (*before, *self.payloads))


def tail_of(rows: Sequence[MessageRow]) -> Tail:
    """The newest of at least one row; they are adjacent and in ascending order."""
    return _made(rows[0].seq, rows[-1].log_offset, tuple(row.payload for row in rows))


def encode_tail(tail: Tail) -> bytes:
    """For a cache that other processes share."""
    return tails_pb2.ConversationTail(
        first_seq=tail.first_seq, log_offset=tail.log_offset, messages=tail.payloads
    ).SerializeToString()


def decode_tail(value: bytes) -> Tail | None:
    """What was encoded; None if it is something else."""
    stored = tails_pb2.ConversationTail()
    try:
        stored.ParseFromString(value)
    except DecodeError:
        return None
    if not stored.messages or not stored.first_seq:
        return None
    return _made(stored.first_seq, stored.log_offset, tuple(stored.messages))


class Tails:
    """The tails of the conversations that were read last: at most `most` of them and `most_bytes` in all."""

    def __init__(self, most: int, most_bytes: int) -> None:
        self._most = most
        self._most_bytes = most_bytes
        self._tails: dict[str, Tail] = {}
        self.size_bytes = 0

    def __len__(self) -> int:
        return len(self._tails)

    def find(self, conversation_id: str) -> Tail | None:
        """The conversation's tail, which becomes the one that was read last."""
        tail = self._tails.pop(conversation_id, None)
        if tail is not None:
            self._tails[conversation_id] = tail
        return tail

    def put(self, conversation_id: str, tail: Tail) -> None:
        """Keeps the tail, unless it is no better than the one that is there; those that were not read for longest give way."""
        known = self._tails.get(conversation_id)
        if known is not None and (known.newest_seq, -known.first_seq) >= (tail.newest_seq, -tail.first_seq):
            return
        self.forget(conversation_id)
        self._tails[conversation_id] = tail
        self.size_bytes += tail.size_bytes
        self._make_room()

    def forget(self, conversation_id: str) -> None:
        """Lets the conversation go."""
        tail = self._tails.pop(conversation_id, None)
        if tail is not None:
            self.size_bytes -= tail.size_bytes

    def wrote(self, rows: Sequence[MessageRow]) -> None:
        """Takes rows that are visible in the store, of any conversations, in order: the tails that they follow go on with them.

        What nobody has read takes no room: a conversation comes in by being read.
        """
        for conversation_id, some in groupby(rows, key=attrgetter("conversation_id")):
            tail = self._tails.get(conversation_id)
            if tail is None:
                continue
            following = [row for row in some if row.seq > tail.newest_seq]
            if not following or following[0].seq != tail.newest_seq + 1:
                continue
            longer = self._tails[conversation_id] = tail.followed_by(following)
            self.size_bytes += longer.size_bytes - tail.size_bytes
        self._make_room()

    def _make_room(self) -> None:
        while len(self._tails) > self._most or self.size_bytes > self._most_bytes:
            self.forget(next(iter(self._tails)))


def _made(first_seq: int, log_offset: int, payloads: tuple[bytes, ...]) -> Tail:
    surplus = max(0, len(payloads) - MOST_MESSAGES)
    kept = payloads[surplus:]
    size_bytes = _TAIL_BYTES + len(kept) * _MESSAGE_BYTES + sum(map(len, kept))
    return Tail(first_seq + surplus, log_offset, kept, size_bytes)
