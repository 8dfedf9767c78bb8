"""Which devices watch the live locations of which conversation, and by which connection they are told. Pure."""

import heapq
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import count

from hither.sessions.v1.sessions_pb2 import Connection


@dataclass(frozen=True, slots=True)
class Watcher:
    """A device that watches a conversation, and its connection."""

    conversation_id: str
    user_id: str
    device_id: str
    edge_id: str
    connection_id: int

    def connection(self) -> Connection:
        """The connection, as the registry has it."""
        return Connection(
            user_id=self.user_id,
            device_id=self.device_id,
            edge_id=self.edge_id,
            connection_id=self.connection_id,
        )


def watcher_of(conversation_id: str, connection: Connection) -> Watcher:
    """The device at that connection, as one that watches the conversation."""
    return Watcher(
        conversation_id, connection.user_id, connection.device_id, connection.edge_id, connection.connection_id
    )


class Watchers:
    """See the module. A watcher has a lease; who renews it, and what happens when it is over, is the caller's to decide."""

    def __init__(self) -> None:
        self._conversations: dict[str, dict[tuple[str, str], Watcher]] = {}
        self._connections: dict[tuple[str, int], set[Watcher]] = {}
        self._until_s: dict[Watcher, float] = {}
        self._ends: list[tuple[float, int, Watcher]] = []
        self._entries = count()
        self._doubted: set[Watcher] = set()

    def __len__(self) -> int:
        return len(self._until_s)

    def __contains__(self, watcher: Watcher) -> bool:
        return watcher in self._until_s

    def of(self, conversation_id: str) -> list[Watcher]:
        """Who watches the conversation."""
        return list(self._conversations.get(conversation_id, {}).values())

    def count(self, conversation_id: str) -> int:
        """How many watch the conversation."""
        return len(self._conversations.get(conversation_id, ()))

    def find(self, conversation_id: str, user_id: str, device_id: str) -> Watcher | None:
        """The device, if it watches the conversation."""
        return self._conversations.get(conversation_id, {}).get((user_id, device_id))

    def put(self, watcher: Watcher, until_s: float) -> None:
        """The device watches at least until then; another connection of it does not any more."""
        device = watcher.user_id, watcher.device_id
        before = self.find(watcher.conversation_id, *device)
        if before is not None and before != watcher:
            self.drop(before)
        if watcher not in self._until_s:
            self._conversations.setdefault(watcher.conversation_id, {})[device] = watcher
            self._connections.setdefault(_link(watcher), set()).add(watcher)
            heapq.heappush(self._ends, (until_s, next(self._entries), watcher))
        self._until_s[watcher] = until_s

    def over(self, now_s: float) -> Iterator[Watcher]:
        """Those whose lease is over. They stay until they are dropped, and come again only after put()."""
        while self._ends and self._ends[0][0] <= now_s:
            ends_s, _, watcher = heapq.heappop(self._ends)
            until_s = self._until_s.get(watcher)
            if until_s is None:
                continue
            if until_s > now_s:
                heapq.heappush(self._ends, (until_s, next(self._entries), watcher))
                continue
            self._until_s[watcher] = ends_s
            yield watcher

    def renew(self, watcher: Watcher, until_s: float) -> None:
        """Gives a watcher that over() named another lease, if it still watches."""
        if watcher in self._until_s:
            self._doubted.discard(watcher)
            self._until_s[watcher] = until_s
            heapq.heappush(self._ends, (until_s, next(self._entries), watcher))

    def doubt(self, watcher: Watcher, until_s: float) -> bool:
        """Gives it another lease, once: False if it was doubted already and not renewed since."""
        if watcher in self._doubted:
            return False
        self.renew(watcher, until_s)
        self._doubted.add(watcher)
        return True

    def drop(self, watcher: Watcher) -> bool:
        """The device does not watch any more by this connection; tells whether it did."""
        if self._until_s.pop(watcher, None) is None:
            return False
        self._doubted.discard(watcher)
        its = self._conversations[watcher.conversation_id]
        del its[watcher.user_id, watcher.device_id]
        if not its:
            del self._conversations[watcher.conversation_id]
        link = self._connections[_link(watcher)]
        link.discard(watcher)
        if not link:
            del self._connections[_link(watcher)]
        return True

    def gone(self, edge_id: str, connection_ids: Iterable[int]) -> list[Watcher]:
        """These connections are gone; returns who watched by them, who do not any more."""
        gone = [one for number in connection_ids for one in self._connections.get((edge_id, number), ())]
        for watcher in gone:
            self.drop(watcher)
        return gone

    def keep_only(self, is_kept: Callable[[str], bool]) -> None:
        """Forgets who watches conversations of which `is_kept` says no."""
        for conversation_id in [one for one in self._conversations if not is_kept(one)]:
            for watcher in self.of(conversation_id):
                self.drop(watcher)


def _link(watcher: Watcher) -> tuple[str, int]:
    return watcher.edge_id, watcher.connection_id
