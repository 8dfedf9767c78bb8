"""The newest inbox rows in brief, so that acknowledging what just came needs no look into the store."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from services.ports.message_store import InboxRow


@dataclass(frozen=True, slots=True)
class Brief:
    """An inbox row without its payload."""

    pos: int
    conversation_id: str
    seq: int
    sender_id: str


def brief(row: InboxRow) -> Brief:
    """What acknowledging needs to know of a row."""
    return Brief(row.pos, row.conversation_id, row.seq, row.sender_id)


class RecentRows:
    """Contiguous ends of inboxes, at most `most` rows in all. Rows are immutable, so what it knows is true; it may know nothing."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._total = 0
        self._inboxes: dict[str, deque[Brief]] = {}

    def add(self, rows: Sequence[InboxRow]) -> None:
        """Remembers rows that are durable; the inboxes that were quiet for longest give way."""
        for row in rows:
            inbox = self._inboxes.pop(row.user_id, None)
            if inbox is None or inbox[-1].pos + 1 != row.pos:
                self._total -= len(inbox or ())
                inbox = deque()
            inbox.append(brief(row))
            self._inboxes[row.user_id] = inbox
            self._total += 1
        while self._total > self._most:
            user_id = next(iter(self._inboxes))
            inbox = self._inboxes[user_id]
            inbox.popleft()
            self._total -= 1
            if not inbox:
                del self._inboxes[user_id]

    def newest(self, user_id: str) -> int:
        """The newest place that is remembered of the inbox; 0 for none."""
        inbox = self._inboxes.get(user_id)
        return inbox[-1].pos if inbox else 0

    def between(self, user_id: str, after_pos: int, through_pos: int) -> list[Brief] | None:
        """The rows with after_pos < pos <= through_pos; None unless all of them are remembered."""
        inbox = self._inboxes.get(user_id)
        if inbox is None or inbox[0].pos > after_pos + 1 or inbox[-1].pos < through_pos:
            return None
        first = max(0, after_pos + 1 - inbox[0].pos)
        return [inbox[index] for index in range(first, through_pos + 1 - inbox[0].pos)]
