"""How much a user has not read: for the number on an app's icon, and for who is about to wake a device up for nothing."""

import asyncio
from collections.abc import Sequence
from typing import Final

from services.messaging.activity import unread_count
from services.messaging.tails import NO_BOUND
from services.ports.message_store import InboxStore

COUNTED_CONVERSATIONS: Final = 500
"""Conversations of an inbox whose unread messages are counted: those that were active last."""
_AT_ONCE = 16


class Unread:
    """Reads what the inbox and the marks say. Raises what the store raises."""

    def __init__(self, store: InboxStore) -> None:
        self._store = store

    async def of_user(self, user_id: str, conversation_ids: Sequence[str]) -> tuple[int, list[int]]:
        """How many messages the user has not read, and how far each of these conversations was read (zero: not at all)."""
        listed = await self._store.list_activity(user_id, NO_BOUND, COUNTED_CONVERSATIONS)
        seen = {activity.row.conversation_id: activity.seen_seq for activity in listed}
        await self._look_up([name for name in dict.fromkeys(conversation_ids) if name not in seen], user_id, seen)
        count = sum(unread_count(activity.row, activity.seen_seq) for activity in listed)
        return count, [seen[conversation_id] for conversation_id in conversation_ids]

    async def _look_up(self, conversation_ids: Sequence[str], user_id: str, seen: dict[str, int]) -> None:
        for start in range(0, len(conversation_ids), _AT_ONCE):
            some = conversation_ids[start : start + _AT_ONCE]
            marks = await asyncio.gather(*(self._seen_seq(name, user_id) for name in some))
            seen.update(zip(some, marks, strict=True))

    async def _seen_seq(self, conversation_id: str, user_id: str) -> int:
        marks = await self._store.read_marks(conversation_id, _just_before(user_id), 1)
        return marks[0].seen_seq if marks and marks[0].user_id == user_id else 0


def _just_before(user_id: str) -> str:
    """What stands before this user id, and after every other one that does: user ids have no character as high as this one ends."""
    return f"{user_id[:-1]}{chr(ord(user_id[-1]) - 1)}\x7f"
