"""Following friends: who of an instance's own users follows whom, and the friend lists that this rests on. Knows no service.

`Following` holds one Bus subscription for each followed user, however many follow. Subscribing takes time and a friendship may
end at any moment, so the two are apart: topics are subscribed first, then follow() makes it count, all at once; sever() and
forget() end it at once, and close_idle() lets go of topics later.

`FriendLists` asks the directory when a user comes, and again when it says that friendships changed. Such news sever two users at
once, and only a fresh answer brings them together again; an answer that was on its way when the news came is thrown away. News
that were lost are made up for by asking again: when the Bus says that there may have been some, and from time to time.
"""

import asyncio
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Iterable, Sequence, Set
from dataclasses import dataclass
from sys import intern
from typing import Protocol

import structlog
from prometheus_client import Counter

from discovery.clock import Clock
from discovery.errors import HitherError
from services.ports.bus import Bus, Handler, OnGap, Subscription

CHANGES_TOPIC = "directory.changes"
"""Where the directory tells how which users stand to each other in another way."""
_NOBODY: Set[str] = frozenset()

_failures = Counter("hither_following_failures", "Times that a user's friends could not be asked for or followed.")
_log = structlog.get_logger("hither.following")


class Following:
    """Local users, their friends, and whom of them they follow. The asynchronous methods are for one task only."""

    def __init__(self, bus: Bus, topic_of: Callable[[str], str], on_news: Handler, on_gap: OnGap) -> None:
        self._bus = bus
        self._topic_of = topic_of
        self._on_news = on_news
        self._on_gap = on_gap
        self._friends: dict[str, set[str]] = {}
        """The accepted friends of each local user, followed or not."""
        self._followed: dict[str, set[str]] = {}
        self._followers: dict[str, set[str]] = {}
        self._followed_lists: dict[str, tuple[str, ...]] = {}
        self._followers_lists: dict[str, tuple[str, ...]] = {}
        """Both made when they are asked for, and thrown away when they change."""
        self._subscriptions: dict[str, Subscription] = {}
        self._idle: set[str] = set()
        """Subscribed users whom perhaps nobody follows."""

    def knows(self, user_id: str) -> bool:
        """Whether the user is local and the user's friends are known."""
        return user_id in self._friends

    def followed_by(self, user_id: str) -> Set[str]:
        """Whom the local user follows; never the user."""
        return self._followed.get(user_id, _NOBODY)

    def list_followed_by(self, user_id: str) -> tuple[str, ...]:
        """As followed_by(), in some order: the same object as long as it says the same."""
        followed = self._followed_lists.get(user_id)
        if followed is None:
            followed = tuple(self.followed_by(user_id))
            if followed:
                self._followed_lists[user_id] = followed
        return followed

    def followers_of(self, user_id: str) -> tuple[str, ...]:
        """The local users who follow, and whom the user has as a friend too, as far as this instance knows the user's friends: the
        same object as long as it says the same.
        """
        followers = self._followers_lists.get(user_id)
        if followers is None:
            following = self._followers.get(user_id, _NOBODY)
            followers = tuple(one for one in following if self._is_accepted(user_id, one))
            if followers:
                self._followers_lists[user_id] = followers
        return followers

    def may_tell(self, user_id: str, friend_id: str) -> bool:
        """Whether the local user is among the followers_of the friend."""
        if user_id not in self._followers.get(friend_id, _NOBODY):
            return False
        friends = self._friends.get(friend_id)  # as _is_accepted: asked for each pair that is looked at
        return friends is None or user_id in friends

    def is_subscribed(self, user_id: str) -> bool:
        """Whether news of the user come."""
        return user_id in self._subscriptions

    async def subscribe(self, user_ids: Iterable[str]) -> None:
        """Makes sure that news of the users come. Raises Unavailable."""
        for user_id in user_ids:
            if user_id not in self._subscriptions:
                topic = self._topic_of(user_id)
                self._subscriptions[user_id] = await self._bus.subscribe(topic, self._on_news, self._on_gap)
                self._idle.add(user_id)

    def follow(self, user_id: str, friend_ids: Iterable[str], followed_ids: Iterable[str]) -> frozenset[str]:
        """These are the local user's friends now, and of them those that the user follows; returns who is followed anew. Their
        topics, and the user's own, must be subscribed.
        """
        user_id = intern(user_id)
        followed = {intern(friend_id) for friend_id in followed_ids}
        before = self._followed.get(user_id, set())
        for friend_id in before - followed:
            self._unfollow(friend_id, user_id)
        for friend_id in followed - before:
            self._followers.setdefault(friend_id, set()).add(user_id)
            self._followers_lists.pop(friend_id, None)
        self._forget_lists(user_id)
        self._friends[user_id] = {intern(friend_id) for friend_id in friend_ids}
        self._followed[user_id] = followed
        return frozenset(followed - before)

    def sever(self, one: str, other: str) -> None:
        """The two learn nothing of each other any more, until follow() is called with the other among the friends."""
        for user_id, friend_id in ((one, other), (other, one)):
            self._unfollow(friend_id, user_id)
            self._friends.get(user_id, set()).discard(friend_id)
            self._followed.get(user_id, set()).discard(friend_id)
            self._forget_lists(user_id)

    def forget(self, user_id: str) -> None:
        """The user is not local any more."""
        for friend_id in self._followed.pop(user_id, set()):
            self._unfollow(friend_id, user_id)
        self._friends.pop(user_id, None)
        self._forget_lists(user_id)
        self._idle.add(user_id)

    async def close_idle(self, forgotten: Callable[[str], None]) -> None:
        """Lets go of the topics of users who are neither followed nor local, and says of whom. Raises Unavailable."""
        while self._idle:
            user_id = next(iter(self._idle))
            if user_id in self._subscriptions and user_id not in self._followers and user_id not in self._friends:
                await self._subscriptions[user_id].close()
                del self._subscriptions[user_id]
                forgotten(user_id)
            self._idle.discard(user_id)

    async def close(self) -> None:
        """Forgets everything and lets go of all topics. Raises Unavailable."""
        self._friends.clear()
        self._followed.clear()
        self._followers.clear()
        self._followed_lists.clear()
        self._followers_lists.clear()
        self._idle.update(self._subscriptions)
        await self.close_idle(lambda _: None)

    def _is_accepted(self, user_id: str, follower_id: str) -> bool:
        friends = self._friends.get(user_id)
        return friends is None or follower_id in friends

    def _forget_lists(self, user_id: str) -> None:
        self._followed_lists.pop(user_id, None)
        self._followers_lists.pop(user_id, None)

    def _unfollow(self, friend_id: str, user_id: str) -> None:
        followers = self._followers.get(friend_id)
        if followers is None:
            return
        followers.discard(user_id)
        self._followers_lists.pop(friend_id, None)
        if not followers:
            del self._followers[friend_id]
            self._idle.add(friend_id)


@dataclass(slots=True, eq=False)
class Question:
    """A question about a user's friends that is on its way, and whether news have overtaken it."""

    user_id: str
    is_stale: bool = False


class FollowingSettings(Protocol):
    """What FriendLists has to know; see PresenceSettings for what each means."""

    @property
    def friends_at_once(self) -> int:
        """Users whose friends are asked for at the same time."""

    @property
    def friends_retry_s(self) -> float:
        """When the directory or the Bus is asked again after a failure."""

    @property
    def friends_refresh_s(self) -> float:
        """How long a change can go unnoticed when its announcement was lost."""


TakeFriends = Callable[[Question, Sequence[str]], Awaitable[None]]
"""Follows a user's accepted friends, unless the question has become stale by the time that it can. Raises HitherError or
TimeoutError, then the user is asked for again.
"""


class FriendLists:
    """Keeps the friends of the users who are here (`is_here`) up to date, and of nobody else.

    `sever` is called at once for two who stand to each other in another way; `tidy` after each step, in the task of run().
    """

    def __init__(
        self,
        ask: Callable[[str], Awaitable[Sequence[str]]],
        is_here: Callable[[str], bool],
        take: TakeFriends,
        sever: Callable[[str, str], None],
        tidy: Callable[[], Awaitable[None]],
        clock: Clock,
        settings: FollowingSettings,
    ) -> None:
        self._ask = ask
        self._is_here = is_here
        self._take = take
        self._sever = sever
        self._tidy = tidy
        self._clock = clock
        self._settings = settings
        self._due: dict[str, None] = {}
        self._later: deque[tuple[float, str]] = deque()
        """Users to ask for again after a failure, soonest first."""
        self._asked: OrderedDict[str, float] = OrderedDict()
        """When each local user was asked for last, longest ago first."""
        self._questions: set[Question] = set()
        self._wake = asyncio.Event()

    def ask_soon(self, user_id: str) -> None:
        """The user's friends are to be asked for."""
        self._due[user_id] = None
        self._wake.set()

    def left(self, user_id: str) -> None:
        """The user is here no longer."""
        self._due.pop(user_id, None)
        self._asked.pop(user_id, None)
        self._make_stale(user_id)
        self._wake.set()

    def changed(self, _topic: str, payload: bytes) -> None:
        """Takes news of the directory: "friends <user> <user>" for how the two stand, one on each line."""
        for line in payload.decode(errors="replace").splitlines():
            match line.split(" "):
                case ["friends", one, other]:
                    self._sever(one, other)
                    for user_id in (one, other):
                        self._make_stale(user_id)
                        if self._is_here(user_id):
                            self.ask_soon(user_id)

    def missed(self, _topic: str) -> None:
        """News of the directory may have been missed: everybody's friends are asked for again, few at a time."""
        self._due.update(dict.fromkeys(self._asked))
        self._asked.clear()
        self._wake.set()

    async def run(self) -> None:
        """Works until cancelled."""
        while True:
            await self.step()
            try:
                async with asyncio.timeout(self._settings.friends_retry_s):
                    await self._wake.wait()
            except TimeoutError:
                continue  # whoever is to be asked for again may be due

    async def step(self) -> None:
        """Asks for everybody who is due, then tidies up. Answers are taken one after the other, in the same task."""
        self._wake.clear()
        self._take_up_what_is_due()
        while self._due:
            users = list(self._due)[: self._settings.friends_at_once]
            for user_id in users:
                del self._due[user_id]
            questions = [Question(user_id) for user_id in users if self._is_here(user_id)]
            self._questions.update(questions)
            try:
                async with asyncio.TaskGroup() as group:
                    answers = [group.create_task(self._friends_of(question.user_id)) for question in questions]
                for question, answer in zip(questions, answers, strict=True):
                    await self._take_answer(question, answer.result())
            finally:
                self._questions.difference_update(questions)
        await self._tidy()

    def _take_up_what_is_due(self) -> None:
        now_s = self._clock.monotonic_s()
        while self._later and self._later[0][0] <= now_s:
            self._due[self._later.popleft()[1]] = None
        refresh_before_s = now_s - self._settings.friends_refresh_s
        while self._asked:
            user_id, asked_s = next(iter(self._asked.items()))
            if asked_s > refresh_before_s:
                return
            del self._asked[user_id]
            self._due[user_id] = None

    async def _friends_of(self, user_id: str) -> Sequence[str] | None:
        try:
            return await self._ask(user_id)
        except HitherError as error:
            self._failed(user_id, error)
            return None

    async def _take_answer(self, question: Question, friend_ids: Sequence[str] | None) -> None:
        if friend_ids is None or question.is_stale:
            return
        try:
            await self._take(question, friend_ids)
        except (HitherError, TimeoutError) as error:
            self._failed(question.user_id, error)
            return
        if not question.is_stale:
            self._asked[question.user_id] = self._clock.monotonic_s()
            self._asked.move_to_end(question.user_id)

    def _make_stale(self, user_id: str) -> None:
        for question in self._questions:
            question.is_stale = question.is_stale or question.user_id == user_id

    def _failed(self, user_id: str, error: Exception) -> None:
        _failures.inc()
        _log.warning("friends.failed", error=str(error))
        self._later.append((self._clock.monotonic_s() + self._settings.friends_retry_s, user_id))
