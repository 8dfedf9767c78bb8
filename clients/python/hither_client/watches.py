"""The conversations whose live locations a device watches: pure, the time is told.

The server forgets a watch with the connection, so it is asked for again after each reconnection; and every minute, which heals
whatever was lost on the way. The answers come to the application as events.
"""

from dataclasses import dataclass

EVERY_S = 60.0
"""How long after an answer a watch is asked for again."""

_PREFIX = "watch-"


@dataclass(slots=True)
class _Watch:
    due_s: float
    asked: str = ""


class Watches:
    """What is watched, and when to ask for it again. Asks again after `answer_deadline_s` without an answer."""

    def __init__(self, answer_deadline_s: float) -> None:
        self._answer_deadline_s = answer_deadline_s
        self._watches: dict[str, _Watch] = {}
        self._asked = 0

    def add(self, conversation_id: str, now_s: float) -> None:
        """The conversation is watched; it was answered for just now."""
        self._watches[conversation_id] = _Watch(now_s + EVERY_S)

    def remove(self, conversation_id: str) -> None:
        """It is not watched any more."""
        self._watches.pop(conversation_id, None)

    def connected(self) -> None:
        """A new connection: everything is to be asked for."""
        for watch in self._watches.values():
            watch.due_s, watch.asked = 0.0, ""

    def due(self, now_s: float) -> list[tuple[str, str]]:
        """What is to be asked for now: a request id and a conversation each. Counts as asked."""
        asked = []
        for conversation_id, watch in self._watches.items():
            if watch.due_s <= now_s:
                self._asked += 1
                watch.asked = f"{_PREFIX}{self._asked}"
                watch.due_s = now_s + self._answer_deadline_s
                asked.append((watch.asked, conversation_id))
        return asked

    def next_due_s(self) -> float | None:
        """When `due` has something next; None: never."""
        return min((watch.due_s for watch in self._watches.values()), default=None)

    def answered(self, request_id: str, now_s: float) -> str:
        """The conversation that the request asked for, which is answered now; empty if nobody waits for it."""
        for conversation_id, watch in self._watches.items():
            if watch.asked and watch.asked == request_id:
                watch.due_s, watch.asked = now_s + EVERY_S, ""
                return conversation_id
        return ""

    def refused(self, request_id: str, now_s: float, *, may_retry: bool) -> bool:
        """The request was refused: for good ends the watch. Tells whether it was one of ours."""
        for conversation_id, watch in self._watches.items():
            if watch.asked and watch.asked == request_id:
                watch.due_s, watch.asked = now_s + self._answer_deadline_s, ""
                if not may_retry:
                    del self._watches[conversation_id]
                return True
        return False
