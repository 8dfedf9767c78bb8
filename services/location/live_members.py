"""Who is in the conversations whose live locations are watched or shared here, remembered for a while.

News of a change drop what is remembered, also answers that are still on their way, so a change holds for every call that begins
after it was announced. What is remembered is asked for anew from time to time, as an announcement may be lost.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from weakref import WeakValueDictionary

from discovery.clock import Clock
from discovery.errors import DeadlineExceeded, Unavailable
from discovery.ids import direct_conversation_id
from services.location.live_settings import LiveSettings

Resolve = Callable[[str, str], Awaitable[frozenset[str]]]
"""Asks the directory: (conversation_id, user_id) to all members, the user among them. Raises PermissionDenied for another."""


_PAUSE_S = 5.0
"""How long an answer that is not fresh serves before the directory, which is away, is asked again."""


@dataclass(slots=True)
class _Answer:
    members: frozenset[str]
    at_s: float
    asked_s: float
    """When the directory was asked last, successfully or not."""


class LiveMembers:
    """Remembered members, at most as many conversations as there may be viewers. `concerns` tells which conversations news
    are wanted of.
    """

    def __init__(self, resolve: Resolve, concerns: Callable[[str], bool], clock: Clock, settings: LiveSettings) -> None:
        self._resolve = resolve
        self._concerns = concerns
        self._clock = clock
        self._settings = settings
        self._answers: dict[str, _Answer] = {}
        """In the order in which the directory was asked for them last."""
        self._asking: dict[str, object] = {}
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._changed: dict[str, None] = {}

    async def of(self, conversation_id: str, user_id: str) -> frozenset[str]:
        """All members, the user among them. Raises what the directory says: NOT_A_MEMBER, BLOCKED. While it is away an old
        answer serves for a bounded time; then Unavailable.
        """
        if (members := self._remembered(conversation_id, user_id)) is not None:
            return members
        lock = self._locks.get(conversation_id)
        if lock is None:
            lock = self._locks[conversation_id] = asyncio.Lock()
        async with lock:
            if (members := self._remembered(conversation_id, user_id)) is not None:
                return members
            return await self.ask(conversation_id, user_id)

    async def ask(self, conversation_id: str, user_id: str) -> frozenset[str]:
        """As `of`, but asks the directory in any case."""
        asking = self._asking[conversation_id] = object()
        try:
            members = await self._resolve(conversation_id, user_id)
        except (Unavailable, DeadlineExceeded):
            if (old := self._old(conversation_id, user_id)) is not None:
                return old
            raise
        else:
            if self._asking.get(conversation_id) is asking:
                self._remember(conversation_id, members)
            return members
        finally:
            if self._asking.get(conversation_id) is asking:
                del self._asking[conversation_id]

    def known(self, conversation_id: str) -> frozenset[str] | None:
        """The members as far as they are remembered; None if they are not."""
        answer = self._answers.get(conversation_id)
        return None if answer is None else answer.members

    def changed(self, _topic: str, payload: bytes) -> None:
        """Takes news of the directory: "conversation <id>" or "friends <user> <user>", one on each line."""
        for line in payload.decode(errors="replace").splitlines():
            match line.split(" "):
                case ["conversation", conversation_id]:
                    self._drop(conversation_id)
                case ["friends", one, other]:
                    self._drop(direct_conversation_id(one, other))

    def take_doubtful(self) -> list[str]:
        """Conversations whose members have changed, or were asked for too long ago."""
        before_s = self._clock.monotonic_s() - self._settings.recheck_s
        doubtful, self._changed = self._changed, {}
        for conversation_id, answer in self._answers.items():
            if answer.asked_s > before_s:
                break
            doubtful[conversation_id] = None
        return list(doubtful)

    def doubt(self, conversation_id: str) -> None:
        """Has the conversation named by take_doubtful() again."""
        self._changed[conversation_id] = None

    def forget(self, conversation_id: str) -> None:
        """Nobody needs the members any more."""
        self._answers.pop(conversation_id, None)

    def _drop(self, conversation_id: str) -> None:
        self._answers.pop(conversation_id, None)
        self._asking.pop(conversation_id, None)
        if self._concerns(conversation_id):
            self._changed[conversation_id] = None

    def _remember(self, conversation_id: str, members: frozenset[str]) -> None:
        now_s = self._clock.monotonic_s()
        self._answers.pop(conversation_id, None)
        self._answers[conversation_id] = _Answer(members, now_s, now_s)
        if len(self._answers) > self._settings.most_watchers:
            del self._answers[next(iter(self._answers))]

    def _remembered(self, conversation_id: str, user_id: str) -> frozenset[str] | None:
        """What needs no asking."""
        answer = self._answers.get(conversation_id)
        if answer is None or user_id not in answer.members:
            return None
        now_s = self._clock.monotonic_s()
        if now_s - answer.at_s < self._settings.recheck_s:
            return answer.members
        is_paused = answer.asked_s > answer.at_s and now_s - answer.asked_s < _PAUSE_S
        return answer.members if is_paused and now_s - answer.at_s < self._settings.members_stale_s else None

    def _old(self, conversation_id: str, user_id: str) -> frozenset[str] | None:
        """What serves while the directory is away."""
        answer = self._answers.pop(conversation_id, None)
        if answer is None:
            return None
        now_s = answer.asked_s = self._clock.monotonic_s()
        self._answers[conversation_id] = answer
        serves = user_id in answer.members and now_s - answer.at_s < self._settings.members_stale_s
        return answer.members if serves else None
