"""What live locations have in the Cache: the points of each session, and who watches, so that a new owner knows both at once.

Points are a map with a field for each, numbered around, so that a point costs one write, the oldest gives way to the newest,
and each runs out by itself: with its session, as the newest is shown for that long, however old it is by then. Who shows more of
them looks at their times. Ciphertexts and places alike are bytes here: nothing is logged of them.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from xxhash import xxh3_64_intdigest

from discovery.errors import Unavailable
from hither.location.v1.location_pb2 import Fix
from hither.sessions.v1.sessions_pb2 import Connection
from services.location.live_settings import LiveSettings
from services.location.live_watchers import Watcher, watcher_of
from services.ports.cache import Cache

_SHARDS = 16
"""Maps that the watchers of a conversation are spread over, since a map holds 256 of them."""
_WATCH_LEASES = 2.5
"""How many leases a watcher stays on record without being renewed."""


class LiveCache:
    """See the module. Raises Unavailable (ENGINE_DOWN)."""

    def __init__(self, cache: Cache, settings: LiveSettings) -> None:
        self._cache = cache
        self._settings = settings

    async def put_point(self, session_id: str, number: int, fix: Fix, left_s: float) -> None:
        """Keeps the point, in the place of the one that has the number's remainder. `left_s`: how long its session goes on."""
        field = str(number % self._settings.trail_points)
        ttl_s = max(left_s, self._settings.trail_s)
        async with self._in_time():
            await self._cache.put_field(_points(session_id), field, fix.SerializeToString(), ttl_s)

    async def points(self, session_ids: Sequence[str]) -> list[list[tuple[int, Fix]]]:
        """The points of each session that are kept, oldest first, each with its number's remainder."""
        if not session_ids:
            return []
        async with self._in_time():
            maps = await self._cache.fields([_points(session_id) for session_id in session_ids])
        trails = []
        for found in maps:
            points = [(int(number), Fix.FromString(value)) for number, value in found.items()]
            trails.append(sorted(points, key=lambda point: (point[1].timestamp.seconds, point[1].timestamp.nanos)))
        return trails

    async def forget_points(self, session_id: str) -> None:
        """Removes all points of the session."""
        async with self._in_time():
            await self._cache.delete([_points(session_id)])

    async def put_watcher(self, watcher: Watcher) -> None:
        """Keeps on record that the device watches."""
        ttl_s = self._settings.watch_lease_s * _WATCH_LEASES
        value = watcher.connection().SerializeToString(deterministic=True)
        async with self._in_time():
            await self._cache.put_field(_watchers(watcher), _device(watcher), value, ttl_s)

    async def drop_watcher(self, watcher: Watcher) -> None:
        """Takes it off the record, if this connection is what stands there."""
        value = watcher.connection().SerializeToString(deterministic=True)
        async with self._in_time():
            await self._cache.delete_field(_watchers(watcher), _device(watcher), expected=value)

    async def watchers(self, conversation_id: str) -> list[Watcher]:
        """Who is on record as watching the conversation."""
        keys = [_shard(conversation_id, number) for number in range(_SHARDS)]
        async with self._in_time():
            maps = await self._cache.fields(keys)
        return [watcher_of(conversation_id, Connection.FromString(one)) for found in maps for one in found.values()]

    @asynccontextmanager
    async def _in_time(self) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(self._settings.engine_timeout_s):
                yield
        except TimeoutError:
            raise Unavailable("The cache does not answer.") from None


def _points(session_id: str) -> str:
    return f"live:points:{session_id}"


def _shard(conversation_id: str, number: int) -> str:
    return f"live:watch:{conversation_id}:{number}"


def _watchers(watcher: Watcher) -> str:
    return _shard(watcher.conversation_id, xxh3_64_intdigest(_device(watcher).encode()) % _SHARDS)


def _device(watcher: Watcher) -> str:
    return f"{watcher.user_id} {watcher.device_id}"
