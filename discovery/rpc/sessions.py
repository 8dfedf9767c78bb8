"""Sessions of streams that others opened: they outlive their stream for a while, so that a break loses nothing.

A session belongs to the peer that opened it; nobody else resumes it. Without a stream it is kept for a fixed time, and only so
many are; the one that has been without for longest makes room.
"""

import asyncio
import secrets
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Generic, Protocol, TypeVar

from discovery.rpc.identity import Peer
from discovery.rpc.link import NEW_SESSION
from discovery.rpc.stream_metrics import StreamNumbers


class Session(Protocol):
    """What can be kept."""

    session_id: str
    peer: Peer

    @property
    def over(self) -> bool:
        """It cannot be resumed (any more)."""

    def close(self) -> None:
        """It is forgotten."""


S = TypeVar("S", bound=Session)


class Sessions(Generic[S]):
    """The sessions of one kind. `make` makes one from its id (empty: it ends with its stream) and its peer."""

    def __init__(self, make: Callable[[str, Peer], S], *, keep_s: float, most: int, numbers: StreamNumbers) -> None:
        self._make = make
        self._keep_s = keep_s
        self._most = most
        self._numbers = numbers
        self._streams: dict[str, int] = {}
        self._sessions: dict[str, S] = {}
        self._unnamed: set[S] = set()
        self._left: OrderedDict[str, asyncio.TimerHandle] = OrderedDict()

    @property
    def all(self) -> tuple[S, ...]:
        """All, with or without a stream."""
        return (*self._sessions.values(), *self._unnamed)

    @contextmanager
    def attached(self, wanted: str, peer: Peer) -> Iterator[S]:
        """The session of a stream that asks for `wanted`, for the time of the block: the one of that id, a new one if that is not
        known, or (for empty) one that ends with its stream.
        """
        session = self._find(wanted, peer)
        name = session.session_id
        self._numbers.open += 1
        if name:
            self._streams[name] = self._streams.get(name, 0) + 1
            self._sessions[name] = session
            self._keep(name, None)
        else:
            self._unnamed.add(session)
        try:
            yield session
        finally:
            self._numbers.open -= 1
            if name:
                self._leave(name)
            else:
                self._unnamed.discard(session)
                session.close()

    def close(self) -> None:
        """Forgets all."""
        for name in list(self._sessions):
            self._forget(name)

    def _find(self, wanted: str, peer: Peer) -> S:
        if not wanted:
            return self._make("", peer)
        found = self._sessions.get(wanted)
        if found is not None and found.peer == peer and not found.over:
            self._numbers.resumes += 1
            return found
        if wanted != NEW_SESSION:
            self._numbers.losses += 1
        return self._make(secrets.token_hex(16), peer)

    def _leave(self, name: str) -> None:
        left = self._streams.get(name, 1) - 1
        self._streams[name] = left
        if left:
            return
        session = self._sessions.get(name)
        if session is None or session.over:
            self._forget(name)
            return
        self._keep(name, asyncio.get_running_loop().call_later(self._keep_s, self._forget, name))
        if len(self._left) > self._most:
            self._forget(next(iter(self._left)))

    def _keep(self, name: str, timer: asyncio.TimerHandle | None) -> None:
        before = self._left.pop(name, None)
        if before is not None:
            before.cancel()
        if timer is not None:
            self._left[name] = timer

    def _forget(self, name: str) -> None:
        self._keep(name, None)
        self._streams.pop(name, None)
        session = self._sessions.pop(name, None)
        if session is not None:
            session.close()
