"""Who is in a conversation, as the directory says, remembered for a while.

An answer is kept for each (conversation, sender), since a block counts for one sender only; refusals are never kept.
News of a change drop what is kept for the conversation, also answers that are still on their way, so a change holds
at once for every call that begins after it was published.
"""

import asyncio
import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from discovery.clock import Clock
from discovery.errors import Cancelled, DeadlineExceeded, HitherError, PermissionDenied, Unavailable
from discovery.ids import direct_conversation_id
from services.messaging.settings import MessagingSettings

CHANGES_TOPIC = "directory.changes"

Members = tuple[str, ...]
Resolve = Callable[[str, str, str], Awaitable[Members]]
"""Asks the directory: (conversation_id, sender_id, peer_id) to all members, the sender among them."""


@dataclass(frozen=True, slots=True)
class _Answer:
    members: Members
    at_s: float
    """When it was asked for."""


@dataclass(slots=True)
class _Conversation:
    answers: dict[str, _Answer] = field(default_factory=dict)
    asked: dict[str, "asyncio.Future[Members | None]"] = field(default_factory=dict)


class Memberships:
    """Remembered answers of the directory, for a bounded number of conversations."""

    def __init__(self, resolve: Resolve, clock: Clock, settings: MessagingSettings) -> None:
        self._resolve = resolve
        self._clock = clock
        self._ttl_s = settings.membership_ttl_s
        self._stale_s = settings.membership_stale_s
        self._most = settings.most_memberships
        self._conversations: dict[str, _Conversation] = {}
        self._sure_after_s = -math.inf
        """Answers that were asked for earlier may not have been dropped when they should have been."""

    async def members(self, conversation_id: str, sender_id: str, peer_id: str = "") -> Members:
        """All members, the sender among them. Raises what the directory says: NOT_A_MEMBER, BLOCKED, NO_SUCH_USER.

        While the directory is away an old answer serves for a bounded time; then Unavailable.
        """
        known = self._conversations.get(conversation_id)
        answer = known.answers.get(sender_id) if known else None
        if answer and answer.at_s > self._sure_after_s and self._clock.monotonic_s() - answer.at_s < self._ttl_s:
            return answer.members
        try:
            return await self._ask(conversation_id, sender_id, peer_id)
        except (Unavailable, DeadlineExceeded):
            known = self._conversations.get(conversation_id)
            answer = known.answers.get(sender_id) if known else None
            if answer and self._clock.monotonic_s() - answer.at_s < self._stale_s:
                return answer.members
            raise

    async def readers(self, conversation_id: str, user_id: str) -> Members:
        """Who may know what the user reads there; the user alone where one of the two of a direct conversation has blocked the
        other: they may still read, but learn nothing of each other. Raises NOT_A_MEMBER.
        """
        try:
            return await self.members(conversation_id, user_id)
        except PermissionDenied as error:
            if error.reason == "BLOCKED":
                return (user_id,)
            raise

    def changed(self, topic: str, payload: bytes) -> None:
        """Takes news of the directory: "conversation <id>" or "friends <user> <user>", one on each line."""
        for line in payload.decode(errors="replace").splitlines():
            match line.split(" "):
                case ["conversation", conversation_id]:
                    self._conversations.pop(conversation_id, None)
                case ["friends", one, other]:
                    self._conversations.pop(direct_conversation_id(one, other), None)

    def missed(self, topic: str) -> None:
        """News of the directory may have been missed: what is kept is asked for again, and serves only while that cannot be."""
        self._sure_after_s = self._clock.monotonic_s()

    async def _ask(self, conversation_id: str, sender_id: str, peer_id: str) -> Members:
        """Asks the directory once for all who ask at the same time."""
        while True:
            conversation = self._touch(conversation_id)
            underway = conversation.asked.get(sender_id)
            if underway is None:
                return await self._lead(conversation, conversation_id, sender_id, peer_id)
            members = await asyncio.shield(underway)
            if members is not None:
                return members

    async def _lead(self, conversation: _Conversation, conversation_id: str, sender_id: str, peer_id: str) -> Members:
        future: asyncio.Future[Members | None] = asyncio.get_running_loop().create_future()
        conversation.asked[sender_id] = future
        began_s = self._clock.monotonic_s()
        try:
            members = await self._resolve(conversation_id, sender_id, peer_id)
        except HitherError as error:
            if isinstance(error, (DeadlineExceeded, Cancelled)):
                raise  # this caller's own limit: whoever waits asks by itself
            if not isinstance(error, Unavailable):
                conversation.answers.pop(sender_id, None)
            future.set_exception(error)
            future.exception()  # seen, also if nobody waits
            raise
        else:
            # A change meanwhile has dropped this object from the table, and the answer with it.
            conversation.answers[sender_id] = _Answer(members, began_s)
            future.set_result(members)
            return members
        finally:
            del conversation.asked[sender_id]
            if not future.done():
                future.set_result(None)

    def _touch(self, conversation_id: str) -> _Conversation:
        """The conversation's entry, made if need be, as the one that was used last."""
        conversation = self._conversations.pop(conversation_id, None) or _Conversation()
        self._conversations[conversation_id] = conversation
        if len(self._conversations) > self._most:
            del self._conversations[next(iter(self._conversations))]
        return conversation
