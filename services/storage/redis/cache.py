"""The cache on Redis. Several keys travel together in one round trip, and nothing is atomic over more than one."""

import asyncio
import math
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Self, cast

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from discovery.errors import InvalidArgument, ResourceExhausted, Unavailable
from services.storage.redis.connections import RedisSettings, client_of, engine_errors
from services.storage.redis.scripts import COMPARE_AND_SET, DELETE_FIELD, PUT_FIELD, live_value

_MOST_KEY_BYTES = 256
_MOST_FIELDS = 256
_LONGEST_S = 10 * 365 * 86_400.0
_KEYS_AT_ONCE = 1_000
"""Keys in one command or pipeline at most, so that nobody else waits long at the server."""


class RedisCache:
    """See services.ports.cache.Cache. A map that has 256 live fields lets the one go that runs out first.

    Setting a key that holds a map replaces the map, and the other way round. Times count on the server's clock. More calls than
    may wait raise ResourceExhausted.
    """

    def __init__(self, client: Redis, settings: RedisSettings) -> None:
        self._client = client
        self._settings = settings
        self._compare_and_set = client.register_script(COMPARE_AND_SET)
        self._put_field = client.register_script(PUT_FIELD)
        self._delete_field = client.register_script(DELETE_FIELD)
        self._under_way = 0
        self._closed = False

    @classmethod
    async def open(cls, url: str, settings: RedisSettings | None = None) -> Self:
        """Connects to "redis://...", "rediss://..." or "unix://...". Raises ValueError for other URLs, and Unavailable."""
        chosen = settings or RedisSettings()
        cache = cls(client_of(url, chosen.connections, chosen), chosen)
        try:
            async with cache._call():
                await cache._client.ping()
        except BaseException:
            await cache.close()
            raise
        return cache

    async def get(self, keys: Sequence[str]) -> Sequence[bytes | None]:
        """See Cache."""
        found: list[bytes | None] = []
        async with self._call():
            for some in _chunks(keys):
                # Nothing is decoded, so what comes is bytes.
                found += cast(list[bytes | None], await self._client.mget([self._name(key) for key in some]))
        return found

    async def set(self, items: Mapping[str, bytes], ttl_s: float) -> None:
        """See Cache."""
        ttl_ms = _checked_ttl_ms(ttl_s)
        for key in items:
            _check_key(key)
        async with self._call():
            for some in _chunks(list(items)):
                pipeline = self._client.pipeline(transaction=False)
                for key in some:
                    pipeline.set(self._name(key), items[key], px=ttl_ms)
                await pipeline.execute()

    async def compare_and_set(self, key: str, expected: bytes | None, value: bytes | None, ttl_s: float) -> bool:
        """See Cache. `ttl_s` is not looked at when it deletes."""
        _check_key(key)
        ttl_ms = 0 if value is None else _checked_ttl_ms(ttl_s)
        async with self._call():
            arguments = (*_optional(expected), *_optional(value), ttl_ms)
            return bool(await self._compare_and_set([self._name(key)], arguments))

    async def delete(self, keys: Sequence[str]) -> None:
        """See Cache."""
        async with self._call():
            for some in _chunks(keys):
                await self._client.unlink(*(self._name(key) for key in some))

    async def put_field(self, key: str, field: str, value: bytes, ttl_s: float) -> None:
        """See Cache."""
        _check_key(key)
        ttl_ms = _checked_ttl_ms(ttl_s)
        async with self._call():
            await self._put_field([self._name(key)], [field, value, ttl_ms, _MOST_FIELDS])

    async def fields(self, keys: Sequence[str]) -> Sequence[Mapping[str, bytes]]:
        """See Cache."""
        found: list[Mapping[str, bytes]] = []
        async with self._call():
            for some in _chunks(keys):
                pipeline = self._client.pipeline(transaction=False)
                pipeline.time()
                for key in some:
                    pipeline.hgetall(self._name(key))
                now, *maps = await pipeline.execute(raise_on_error=False)
                found += _live_maps(now, maps)
        return found

    async def delete_field(self, key: str, field: str, expected: bytes | None = None) -> bool:
        """See Cache."""
        async with self._call():
            return bool(await self._delete_field([self._name(key)], [field, *_optional(expected)]))

    async def close(self) -> None:
        """See Cache. May be called twice; calls that are under way end as Unavailable."""
        self._closed = True
        with engine_errors():
            await self._client.aclose()

    @asynccontextmanager
    async def _call(self) -> AsyncIterator[None]:
        """Counts the block as a call, bounds its time, and turns the driver's errors into ours."""
        if self._closed:
            raise Unavailable("The cache is closed.", reason="ENGINE_DOWN")
        if self._under_way >= self._settings.calls_most:
            raise ResourceExhausted("Too many calls wait for the cache.", retry_after_s=1.0)
        self._under_way += 1
        try:
            with engine_errors():
                async with asyncio.timeout(self._settings.timeout_s):
                    yield
        finally:
            self._under_way -= 1

    def _name(self, key: str) -> str:
        return self._settings.prefix + key


def _chunks(keys: Sequence[str]) -> Iterator[Sequence[str]]:
    return (keys[begin : begin + _KEYS_AT_ONCE] for begin in range(0, len(keys), _KEYS_AT_ONCE))


def _optional(value: bytes | None) -> tuple[str, bytes]:
    """A value that may be absent, as the scripts take it."""
    return ("0", b"") if value is None else ("1", value)


def _live_maps(
    now: tuple[int, int] | Exception, maps: Sequence[Mapping[bytes, bytes] | Exception]
) -> list[dict[str, bytes]]:
    """The live fields of each map, at the server's time in seconds and microseconds. Raises what the server refused with."""
    if isinstance(now, Exception):
        raise now
    now_ms = now[0] * 1000 + now[1] // 1000
    return [_live_fields(stored, now_ms) for stored in maps]


def _live_fields(stored: Mapping[bytes, bytes] | Exception, now_ms: int) -> dict[str, bytes]:
    if isinstance(stored, ResponseError) and str(stored).startswith("WRONGTYPE"):
        return {}  # a plain value is no map
    if isinstance(stored, Exception):
        raise stored
    live = {}
    for field, entry in stored.items():
        value = live_value(entry, now_ms)
        if value is not None:
            live[field.decode()] = value
    return live


def _check_key(key: str) -> None:
    if len(key) * 4 > _MOST_KEY_BYTES and len(key.encode()) > _MOST_KEY_BYTES:
        raise InvalidArgument(f"A key is longer than {_MOST_KEY_BYTES} bytes.")


def _checked_ttl_ms(ttl_s: float) -> int:
    if not ttl_s > 0:
        raise InvalidArgument("A time to live is more than zero seconds.")
    return math.ceil(min(ttl_s, _LONGEST_S) * 1000)
