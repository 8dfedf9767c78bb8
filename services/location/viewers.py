"""Whose devices are connected, as the edges report it: those are told of friends nearby. Pure: fed with reports and the time."""

from collections import OrderedDict
from collections.abc import Iterable
from typing import NamedTuple

from discovery.errors import ResourceExhausted
from hither.sessions.v1.sessions_pb2 import Connection


class Link(NamedTuple):
    """A connection."""

    edge_id: str
    connection_id: int


class Viewers:
    """The live connections of users. A connection that is not reported again in time is gone."""

    def __init__(self, lifetime_s: float, most_viewers: int) -> None:
        self._lifetime_s = lifetime_s
        self._most_viewers = most_viewers
        self._links: dict[str, set[Link]] = {}
        self._ends: OrderedDict[tuple[str, Link], float] = OrderedDict()
        """When each connection runs out, soonest first: all live equally long, so the one reported last comes last."""

    def __len__(self) -> int:
        """How many users are here."""
        return len(self._links)

    def is_here(self, user_id: str) -> bool:
        """Whether the user has a connection."""
        return user_id in self._links

    def connect(self, user_id: str, link: Link, now_s: float) -> bool:
        """The connection is there; tells whether it is new. Raises ResourceExhausted (OVERLOADED) for one user too many."""
        links = self._links.get(user_id)
        if links is None:
            if len(self._links) >= self._most_viewers:
                raise ResourceExhausted("This instance takes no more viewers.", reason="OVERLOADED", retry_after_s=5.0)
            links = self._links[user_id] = set()
        is_new = link not in links
        links.add(link)
        self._ends[user_id, link] = now_s + self._lifetime_s
        self._ends.move_to_end((user_id, link))
        return is_new

    def disconnect(self, user_id: str, link: Link) -> bool:
        """The connection is gone; tells whether it was the user's last."""
        links = self._links.get(user_id, set())
        if link not in links:
            return False
        links.discard(link)
        del self._ends[user_id, link]
        if links:
            return False
        del self._links[user_id]
        return True

    def expire(self, now_s: float) -> list[str]:
        """Lets connections go that were not reported for too long; returns the users who have none any more."""
        left: list[str] = []
        while self._ends:
            (user_id, link), ends_s = next(iter(self._ends.items()))
            if ends_s > now_s:
                return left
            if self.disconnect(user_id, link):
                left.append(user_id)
        return left

    def connections(self, user_ids: Iterable[str]) -> dict[str, list[Connection]]:
        """The connections of each user who is here, without their devices."""
        return {
            user_id: [
                Connection(user_id=user_id, edge_id=link.edge_id, connection_id=link.connection_id)
                for link in self._links[user_id]
            ]
            for user_id in user_ids
            if user_id in self._links
        }

    def forgive(self, now_s: float) -> None:
        """Nothing could be reported for a while: every connection has its whole lifetime again."""
        for key in self._ends:
            self._ends[key] = now_s + self._lifetime_s

    def users(self) -> list[str]:
        """Who is here."""
        return list(self._links)

    def drop(self, user_id: str) -> None:
        """Forgets the user."""
        for link in self._links.pop(user_id, set()):
            del self._ends[user_id, link]
