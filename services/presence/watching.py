"""Who watches whom on this instance: the local users' friends, and one Bus subscription for each friend that anybody has.

Subscribing takes time and what is watched may end at any moment, so the two are apart: topics are subscribed first,
then follow() makes the watch count, all at once; sever() and forget() end one at once, and close_idle() lets go of topics
later. The asynchronous methods are for one task only, the others for anybody.
"""

from collections.abc import Iterable, Set
from sys import intern

from services.ports.bus import Bus, Handler, OnGap, Subscription
from services.presence.records import topic_of

_NOBODY: Set[str] = frozenset()


class Watching:
    """Local users, and the friends they follow."""

    def __init__(self, bus: Bus, on_news: Handler, on_gap: OnGap, most_followed: int) -> None:
        self._bus = bus
        self._on_news = on_news
        self._on_gap = on_gap
        self._most_followed = most_followed
        self._friends: dict[str, set[str]] = {}
        """The accepted friends of each local user, followed or not."""
        self._watchers: dict[str, set[str]] = {}
        """The local users who follow each watched user."""
        self._subscriptions: dict[str, Subscription] = {}
        self._told: dict[str, bytes] = {}
        """What was told last of each subscribed user."""
        self._idle: set[str] = set()
        """Subscribed users who may have no watcher."""

    def knows(self, user_id: str) -> bool:
        """Whether the user's friends are known here."""
        return user_id in self._friends

    def watchers_of(self, user_id: str) -> list[str]:
        """The local users who may be told of the user: those who follow, and whom the user has as a friend too, as far as
        this instance knows the user's friends.
        """
        return [watcher for watcher in self._watchers.get(user_id, _NOBODY) if self._is_accepted(user_id, watcher)]

    def may_tell(self, user_id: str, friend_id: str) -> bool:
        """Whether the local user is among watchers_of the friend."""
        return self.follows(user_id, friend_id) and self._is_accepted(friend_id, user_id)

    def follows(self, user_id: str, friend_id: str) -> bool:
        """Whether the local user follows the friend."""
        return user_id in self._watchers.get(friend_id, _NOBODY)

    def followed_by(self, user_id: str) -> list[str]:
        """The friends whom the local user follows."""
        return [friend for friend in self._friends.get(user_id, _NOBODY) if self.follows(user_id, friend)]

    def remember(self, friend_id: str, told: bytes) -> None:
        """What was told last of the user, kept for as long as the user's topic is subscribed."""
        if friend_id in self._subscriptions:
            self._told[friend_id] = told

    def last_told(self, friend_id: str) -> bytes | None:
        """What was remembered last of the user."""
        return self._told.get(friend_id)

    async def subscribe(self, friend_ids: Iterable[str]) -> None:
        """Makes sure that news of those whom follow() would follow of these friends come. Raises Unavailable."""
        for friend_id in self._most_relevant(friend_ids):
            if friend_id not in self._subscriptions:
                topic = topic_of(friend_id)
                self._subscriptions[friend_id] = await self._bus.subscribe(topic, self._on_news, self._on_gap)
                self._idle.add(friend_id)

    def follow(self, user_id: str, friend_ids: Iterable[str]) -> frozenset[str]:
        """These are the local user's friends now; returns those that are followed anew. Their topics must be subscribed."""
        friends = {intern(friend_id) for friend_id in friend_ids}
        followed = set(self._most_relevant(friends))
        before = set(self.followed_by(user_id))
        user_id = intern(user_id)
        for friend_id in before - followed:
            self._unwatch(friend_id, user_id)
        for friend_id in followed - before:
            self._watchers.setdefault(friend_id, set()).add(user_id)
            self._idle.discard(friend_id)
        self._friends[user_id] = friends
        return frozenset(followed - before)

    def sever(self, one: str, other: str) -> None:
        """The two learn nothing of each other any more, until follow() is called with the other among the friends."""
        for user_id, friend_id in ((one, other), (other, one)):
            self._unwatch(friend_id, user_id)
            self._friends.get(user_id, set()).discard(friend_id)

    def forget(self, user_id: str) -> None:
        """The user is not local any more."""
        for friend_id in self.followed_by(user_id):
            self._unwatch(friend_id, user_id)
        self._friends.pop(user_id, None)

    async def close_idle(self) -> None:
        """Lets go of the topics that nobody watches. Raises Unavailable."""
        while self._idle:
            friend_id = next(iter(self._idle))
            if friend_id in self._subscriptions and friend_id not in self._watchers:
                await self._subscriptions[friend_id].close()
                del self._subscriptions[friend_id]
                self._told.pop(friend_id, None)
            self._idle.discard(friend_id)

    async def close(self) -> None:
        """Forgets everything and lets go of all topics. Raises Unavailable."""
        self._friends.clear()
        self._watchers.clear()
        self._idle.update(self._subscriptions)
        await self.close_idle()

    def _is_accepted(self, watched_id: str, watcher_id: str) -> bool:
        friends = self._friends.get(watched_id)
        return friends is None or watcher_id in friends

    def _most_relevant(self, friend_ids: Iterable[str]) -> list[str]:
        return sorted(friend_ids)[: self._most_followed]

    def _unwatch(self, friend_id: str, user_id: str) -> None:
        watchers = self._watchers.get(friend_id)
        if watchers is None:
            return
        watchers.discard(user_id)
        if not watchers:
            del self._watchers[friend_id]
            self._idle.add(friend_id)
