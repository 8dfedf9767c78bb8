"""The cache on Redis. Several keys travel together in one round trip, to each server that has some of them, and nothing is
atomic over more than one.
"""

import asyncio
import math
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Self, cast

from redis.asyncio import Redis
from redis.exceptions import NoScriptError, ResponseError

from discovery.errors import InvalidArgument, ResourceExhausted, Unavailable
from services.storage.redis.connections import Cluster, RedisSettings, client_of, engine_errors, heeding_cancellation
from services.storage.redis.scripts import COMPARE_AND_SET, DELETE_FIELD, PUT_FIELD, Script, live_value

_MOST_KEY_BYTES = 256
_MOST_FIELDS = 256
_LONGEST_S = 10 * 365 * 86_400.0
_KEYS_AT_ONCE = 1_000
"""Keys in one command or pipeline at most, so that nobody else waits long at the server."""


class RedisCache:
    """See services.ports.cache.Cache. A map that has 256 live fields lets the one go that runs out first.

    Setting a key that holds a map replaces the map, and the other way round. Times count on the server's clock; of a Cluster's
    servers, whose clocks must agree, one tells which fields are live. More calls than may wait raise ResourceExhausted. When
    a replica takes its primary's place, calls work again by themselves, and what the primary did not pass on was lost.
    """

    def __init__(self, client: Redis | Cluster, settings: RedisSettings) -> None:
        self._client = client
        self._settings = settings
        self._turns = asyncio.Semaphore(settings.connections)
        self._under_way = 0
        self._closed = False

    @classmethod
    async def open(cls, url: str, settings: RedisSettings | None = None) -> Self:
        """Connects to a URL of `services.storage.redis.connections`. Raises ValueError for other URLs, and Unavailable."""
        chosen = settings or RedisSettings()
        cache = cls(client_of(url, chosen.connections, chosen), chosen)
        try:
            async with cache._call():
                await cache._greet()
        except BaseException:
            await cache.close()
            raise
        return cache

    async def get(self, keys: Sequence[str]) -> Sequence[bytes | None]:
        """See Cache."""
        found: list[bytes | None] = []
        async with self._call():
            for some in _chunks(keys):
                found += await self._get([self._name(key) for key in some])
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
            return bool(await self._run(COMPARE_AND_SET, key, *arguments))

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
            await self._run(PUT_FIELD, key, field, value, ttl_ms, _MOST_FIELDS)

    async def fields(self, keys: Sequence[str]) -> Sequence[Mapping[str, bytes]]:
        """See Cache."""
        found: list[Mapping[str, bytes]] = []
        async with self._call():
            for some in _chunks(keys):
                now, *maps = await self._maps([self._name(key) for key in some])
                found += _live_maps(now, maps)
        return found

    async def delete_field(self, key: str, field: str, expected: bytes | None = None) -> bool:
        """See Cache."""
        async with self._call():
            return bool(await self._run(DELETE_FIELD, key, field, *_optional(expected)))

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
            with heeding_cancellation(), engine_errors():
                async with asyncio.timeout(self._settings.timeout_s), self._turns:
                    yield
        except Unavailable:
            if isinstance(self._client, Cluster):
                self._client.doubt()
            raise
        finally:
            self._under_way -= 1

    async def _get(self, names: list[str]) -> list[bytes | None]:
        """The values of keys. Nothing is decoded, so what comes is bytes."""
        if isinstance(self._client, Cluster):
            return cast(list[bytes | None], await self._client.mget_nonatomic(names))
        return cast(list[bytes | None], await self._client.mget(names))

    async def _maps(self, names: list[str]) -> list[Any]:
        """The time of the first map's server, then the maps."""
        pipeline = self._client.pipeline(transaction=False)
        if isinstance(self._client, Cluster):
            await self._client.initialize()
            pipeline.execute_command("TIME", target_nodes=[self._client.get_node_from_key(names[0])])
        else:
            pipeline.time()
        for name in names:
            pipeline.hgetall(name)
        return await pipeline.execute(raise_on_error=False)

    async def _greet(self) -> None:
        """Returns when the server is there; of a Cluster any."""
        if isinstance(self._client, Cluster):
            await self._client.initialize()
        else:
            await self._client.ping()

    async def _run(self, script: Script, key: str, *arguments: str | bytes | int) -> object:
        """What a script answers about its one key. The server is told the script if it does not know it."""
        name = self._name(key)
        try:
            return await self._client.evalsha(script.digest, 1, name, *arguments)
        except NoScriptError:
            return await self._client.eval(script.text, 1, name, *arguments)

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
