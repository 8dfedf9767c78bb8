"""Whom each local user may have on the screen: kept in the Cache for the user's next owner, and more of them rather than fewer.

Who is about to be shown is kept before. Who is gone stays kept for a while: the event may not have arrived, as the connection broke or
an edge died, and then it is told again on the user's next connection, or by the next owner. While ownership moves, two owners may
tell a user for a moment; each looks before it overwrites what the other has kept, and the newer one looks once more later.
"""

import asyncio
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass

from discovery.clock import Clock
from hither.location.v1.location_pb2 import ShownFriends
from services.ports.cache import Cache

UNSURE_MS = 60_000
"""By then an edge has found out that a connection is broken: a client that misses two heartbeats is disconnected."""
_TTL_S = 24 * 3600.0
_FRESH_MS = 3600_000
_PREFIX = "nearby:"
_AT_ONCE = 32
_SPARE = 64
"""Friends who are gone that may stay kept without need."""
_NOBODY: Set[str] = frozenset()


@dataclass(slots=True)
class _Kept:
    value: bytes | None
    """What was read or written last; None: nothing was there."""
    friend_ids: Set[str]
    kept_ms: int


class Screens:
    """Screens by user. The asynchronous methods raise the Cache's Unavailable (ENGINE_DOWN), and are for one task only."""

    def __init__(self, cache: Cache, clock: Clock) -> None:
        self._cache = cache
        self._clock = clock
        self._kept: dict[str, _Kept] = {}
        self._gone: dict[str, dict[str, int]] = {}
        """Of whom each user was told lately that they are gone, and when."""

    def knows(self, user_id: str) -> bool:
        """Whether it was read what was kept of the user."""
        return user_id in self._kept

    def gone(self, user_id: str, friend_id: str) -> None:
        """The user is told that the friend is gone."""
        self._gone.setdefault(user_id, {})[friend_id] = self._clock.now_ms()

    def shown(self, user_id: str, friend_id: str) -> None:
        """The user is told where the friend is."""
        gone = self._gone.get(user_id)
        if gone is not None:
            gone.pop(friend_id, None)

    def unsure(self, user_id: str) -> Set[str]:
        """Of whom the user was told that they are gone, and may not have heard it."""
        gone = self._gone.get(user_id)
        if not gone:
            return _NOBODY
        since_ms = self._clock.now_ms() - UNSURE_MS
        lately = {friend_id: at_ms for friend_id, at_ms in gone.items() if at_ms > since_ms}
        if lately:
            self._gone[user_id] = lately
        else:
            del self._gone[user_id]
        return lately.keys()

    def forget(self, user_id: str) -> None:
        """The user is not local any more."""
        self._kept.pop(user_id, None)
        self._gone.pop(user_id, None)

    async def look(self, user_ids: Sequence[str]) -> dict[str, Set[str]]:
        """Whom others have kept of each user since, or, the first time, anybody has. At most 1,000 users."""
        values = await self._cache.get([_PREFIX + user_id for user_id in user_ids])
        found: dict[str, Set[str]] = {}
        for user_id, value in zip(user_ids, values, strict=True):
            friend_ids = _decoded(value)
            known = self._kept.get(user_id)
            self._kept[user_id] = _Kept(value, friend_ids, 0 if known is None else known.kept_ms)
            found[user_id] = friend_ids if known is None else friend_ids - known.friend_ids
        return found

    def due(self, screens: Mapping[str, Set[str]]) -> dict[str, Set[str]]:
        """Those of the screens that are to be kept: somebody on them is not kept, or not for long any more."""
        return {user_id: friend_ids for user_id, friend_ids in screens.items() if self._is_due(user_id, friend_ids)}

    async def keep(self, screens: Mapping[str, Set[str]]) -> dict[str, Set[str]]:
        """Has each user's friends kept; returns whom others have kept of them since, who stay kept too. Tries for as long as others
        go on to write: whoever calls has a deadline.
        """
        at_once = asyncio.Semaphore(_AT_ONCE)
        others: dict[str, Set[str]] = {}

        async def keep(user_id: str, friend_ids: Set[str]) -> None:
            async with at_once:
                found = await self._keep(user_id, friend_ids)
            if found:
                others[user_id] = found

        work = (keep(user_id, friend_ids) for user_id, friend_ids in screens.items())
        for failure in await asyncio.gather(*work, return_exceptions=True):
            if failure is not None:
                raise failure
        return others

    def _is_due(self, user_id: str, friend_ids: Set[str]) -> bool:
        kept = self._kept.get(user_id)
        if kept is None or not friend_ids <= kept.friend_ids or len(kept.friend_ids) > len(friend_ids) + _SPARE:
            return True
        return bool(friend_ids) and self._clock.now_ms() - kept.kept_ms > _FRESH_MS

    async def _keep(self, user_id: str, friend_ids: Set[str]) -> Set[str]:
        others: frozenset[str] = frozenset()
        while True:
            if user_id not in self._kept:
                others |= (await self.look([user_id]))[user_id]
            kept = self._kept[user_id]
            wanted = friend_ids | others
            value = ShownFriends(friend_ids=sorted(wanted)).SerializeToString()
            if await self._cache.compare_and_set(_PREFIX + user_id, kept.value, value, _TTL_S):
                self._kept[user_id] = _Kept(value, wanted, self._clock.now_ms())
                return others
            others |= (await self.look([user_id]))[user_id]


def _decoded(value: bytes | None) -> Set[str]:
    return frozenset(ShownFriends.FromString(value or b"").friend_ids)
