"""Who watches whom on this instance, and one Bus subscription for each user whom anybody watches.

A local user watches the friends; a device that has named users watches those of them who are friends or strangers without a
block between the two. Subscribing takes time and what is watched may end at any moment, so the two are apart: topics are
subscribed first, then follow() makes the watch count, all at once; sever() and forget() end one at once, and close_idle()
lets go of topics later. Who calls an asynchronous method, and who calls follow() after it, holds `changing` meanwhile.
"""

import asyncio
from collections.abc import Callable, Iterator, Mapping, Set
from dataclasses import dataclass
from sys import intern

from services.ports.bus import Bus, Handler, OnGap, Subscription
from services.presence.folding import Interest
from services.presence.records import topic_of
from services.presence.visibility import Relation

_NOBODY: Set[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Circle:
    """The accepted friends of a user, followed or not, and the strangers whom the user's devices named and may ask for."""

    friend_ids: frozenset[str]
    stranger_ids: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Watcher:
    """A local user who watches somebody, and on which devices (None: on all)."""

    user_id: str
    relation: Relation
    device_ids: frozenset[str] | None


class Watching:
    """Local users, and whom they follow. `interests` says whose news each of a user's devices wants (see Folding)."""

    def __init__(
        self,
        bus: Bus,
        on_news: Handler,
        on_gap: OnGap,
        interests: Callable[[str], Mapping[str, Interest]],
        most_followed: int,
    ) -> None:
        self.changing = asyncio.Lock()
        self._bus = bus
        self._on_news = on_news
        self._on_gap = on_gap
        self._interests = interests
        self._most_followed = most_followed
        self._circles: dict[str, tuple[set[str], set[str]]] = {}
        """The friends and the strangers of each local user."""
        self._narrow: set[str] = set()
        """Local users who may not follow all their friends, since devices named users."""
        self._watchers: dict[str, set[str]] = {}
        """The local users who follow each watched user."""
        self._subscriptions: dict[str, Subscription] = {}
        self._told: dict[str, bytes] = {}
        """What was told last of each subscribed user."""
        self._idle: set[str] = set()
        """Subscribed users who may have no watcher."""

    def knows(self, user_id: str) -> bool:
        """Whether the user's friends are known here."""
        return user_id in self._circles

    def is_narrow(self, user_id: str) -> bool:
        """Whether a device of the user has named users, now or when follow() was called last."""
        return user_id in self._narrow or bool(self._interests(user_id))

    def circle(self, user_id: str) -> Circle:
        """As it was given to follow() last, without those who were severed since; empty for others."""
        friends, strangers = self._circles.get(user_id, (set(), set()))
        return Circle(frozenset(friends), frozenset(strangers))

    def watchers_of(self, user_id: str) -> Iterator[Watcher]:
        """The local users who may be told of the user."""
        for watcher_id in self._watchers.get(user_id, _NOBODY):
            watcher = self._watcher(watcher_id, user_id)
            if watcher is not None:
                yield watcher

    def watcher(self, user_id: str, watched_id: str) -> Watcher | None:
        """The local user as a watcher of the other; None if there is nothing to be told. Friends are those whom both sides have
        as one, as far as this instance knows the other's.
        """
        return self._watcher(user_id, watched_id) if self.follows(user_id, watched_id) else None

    def relation(self, user_id: str, watched_id: str) -> Relation | None:
        """How the local user stands to the other, followed or not; None: there may be a block, or only one side is a friend."""
        friends, strangers = self._circles.get(user_id, (_NOBODY, _NOBODY))
        if watched_id in friends:
            theirs = self._circles.get(watched_id)
            return Relation.FRIEND if theirs is None or user_id in theirs[0] else None
        return Relation.STRANGER if watched_id in strangers else None

    def follows(self, user_id: str, watched_id: str) -> bool:
        """Whether the local user follows the other."""
        return user_id in self._watchers.get(watched_id, _NOBODY)

    def followed_by(self, user_id: str) -> list[str]:
        """Whom the local user follows."""
        friends, strangers = self._circles.get(user_id, (_NOBODY, _NOBODY))
        return [watched for watched in (*friends, *strangers) if self.follows(user_id, watched)]

    def subscribed(self) -> list[str]:
        """All whose news come."""
        return list(self._subscriptions)

    def remember(self, watched_id: str, told: bytes) -> None:
        """What was told last of the user, kept for as long as the user's topic is subscribed."""
        if watched_id in self._subscriptions:
            self._told[watched_id] = told

    def last_told(self, watched_id: str) -> bytes | None:
        """What was remembered last of the user."""
        return self._told.get(watched_id)

    async def subscribe(self, user_id: str, circle: Circle) -> None:
        """Makes sure that news of those whom follow() would follow come. Raises Unavailable."""
        for watched_id in self._wanted(user_id, circle):
            if watched_id not in self._subscriptions:
                topic = topic_of(watched_id)
                self._subscriptions[watched_id] = await self._bus.subscribe(topic, self._on_news, self._on_gap)
                self._idle.add(watched_id)

    def follow(self, user_id: str, circle: Circle) -> frozenset[str]:
        """Takes the local user's circle as it is now; returns those that are followed anew. Their topics must be subscribed."""
        user_id = intern(user_id)
        before = set(self.followed_by(user_id))
        followed = {intern(watched) for watched in self._wanted(user_id, circle)}
        for watched_id in before - followed:
            self._unwatch(watched_id, user_id)
        for watched_id in followed - before:
            self._watchers.setdefault(watched_id, set()).add(user_id)
            self._idle.discard(watched_id)
        self._circles[user_id] = (
            {intern(one) for one in circle.friend_ids},
            {intern(one) for one in circle.stranger_ids},
        )
        if self._interests(user_id):
            self._narrow.add(user_id)
        else:
            self._narrow.discard(user_id)
        return frozenset(followed - before)

    def sever(self, one: str, other: str) -> None:
        """The two learn nothing of each other any more, until follow() is called with the other in the circle."""
        for user_id, watched_id in ((one, other), (other, one)):
            self._unwatch(watched_id, user_id)
            for ids in self._circles.get(user_id, ()):
                ids.discard(watched_id)

    def forget(self, user_id: str) -> None:
        """The user is not local any more."""
        for watched_id in self.followed_by(user_id):
            self._unwatch(watched_id, user_id)
        self._circles.pop(user_id, None)
        self._narrow.discard(user_id)

    async def close_idle(self) -> None:
        """Lets go of the topics that nobody watches. Raises Unavailable."""
        while self._idle:
            watched_id = next(iter(self._idle))
            if watched_id in self._subscriptions and watched_id not in self._watchers:
                await self._subscriptions[watched_id].close()
                del self._subscriptions[watched_id]
                self._told.pop(watched_id, None)
            self._idle.discard(watched_id)

    async def close(self) -> None:
        """Forgets everything and lets go of all topics. Raises Unavailable."""
        self._circles.clear()
        self._narrow.clear()
        self._watchers.clear()
        self._idle.update(self._subscriptions)
        await self.close_idle()

    def _watcher(self, user_id: str, watched_id: str) -> Watcher | None:
        relation = self.relation(user_id, watched_id)
        if relation is None:
            return None
        interests = self._interests(user_id)
        if not interests:
            return Watcher(user_id, relation, None) if relation is Relation.FRIEND else None
        device_ids = frozenset(
            device_id
            for device_id, named in interests.items()
            if (relation is Relation.FRIEND if named is None else watched_id in named)
        )
        return Watcher(user_id, relation, device_ids) if device_ids else None

    def _wanted(self, user_id: str, circle: Circle) -> list[str]:
        """All friends (of too many, the first ones in order of id) unless every device has named users; and those named."""
        interests = self._interests(user_id)
        named: set[str] = set().union(*(ids for ids in interests.values() if ids))
        wanted = sorted(named & (circle.friend_ids | circle.stranger_ids))
        if not interests or None in interests.values():
            wanted += [friend for friend in sorted(circle.friend_ids)[: self._most_followed] if friend not in named]
        return wanted

    def _unwatch(self, watched_id: str, user_id: str) -> None:
        watchers = self._watchers.get(watched_id)
        if watchers is None:
            return
        watchers.discard(user_id)
        if not watchers:
            del self._watchers[watched_id]
            self._idle.add(watched_id)
