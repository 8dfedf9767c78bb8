"""The connection registry: which connection each device of a user is held by, in the Cache.

The map at `connections:<user>` has a field for each device; it runs out by itself unless it is written again. A value is
the connection as a LookupConnectionsResponse of one: serialised messages put end to end are the message with all
their items, so a look-up of any size, made for each message that is delivered, is one cache call and one parse.
Knows nothing of what a connection means.

The cache may be away, and may lose everything at any moment. What this process put on record it also holds in memory: that
is what it answers with meanwhile, so messages go on to reach who is connected, and what it puts back when the cache is there
again, or is found to be empty, before it asks the cache again. Marks that the process keeps in the cache say that it is.
"""

import asyncio
import random
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import NoReturn
from uuid import uuid4

import structlog
from prometheus_client import Counter, Gauge

from discovery.clock import Clock
from discovery.errors import HitherError, Unavailable
from hither.sessions.v1.sessions_pb2 import Connection
from hither.sessions.v1.sessions_service_pb2 import LookupConnectionsResponse
from services.ports.cache import Cache
from services.sessions.held import Device, Held
from services.sessions.ownership import Ownership
from services.sessions.settings import SessionsSettings

_MARKS = 16
"""Marks that say that the cache has lost nothing: several, as one server of many may lose what it held."""
_MARK_TTL_S = 3600.0
_AT_ONCE = 64
_PAUSE_S = 0.5

_away = Gauge("hither_sessions_cache_away", "1 while connections are answered for from memory, without the cache.")
_put_back = Counter("hither_sessions_put_back", "Connections that were put into the cache again after it lost them.")
_log = structlog.get_logger("hither.sessions")


class ConnectionRegistry:
    """Connections by user and device. Without the cache it answers from memory, as far as that can be complete; beyond that it
    raises Unavailable (ENGINE_DOWN).
    """

    def __init__(self, cache: Cache, ownership: Ownership, clock: Clock, settings: SessionsSettings) -> None:
        self._cache = cache
        self._ownership = ownership
        self._clock = clock
        self._ttl_s = settings.connection_ttl_s
        self._check_s = settings.cache_check_s
        self._held = Held(settings.connection_ttl_s, settings.most_held)
        self._most_due = settings.most_held
        self._due: dict[Device, bytes | None] = {}
        """Written to the cache before it counts again: what is held, or, of a device that is not, what is to be removed."""
        self._lost = asyncio.Event()
        self._marks = [f"sessions:mark:{uuid4().hex}:{number}" for number in range(_MARKS)]
        self._marked = False

    async def live(self, user_ids: Sequence[str]) -> LookupConnectionsResponse:
        """All live connections of the users, in no order."""
        maps = await self._maps(user_ids)
        return LookupConnectionsResponse.FromString(b"".join([value for found in maps for value in found.values()]))

    async def of_user(self, user_id: str) -> Mapping[str, Connection]:
        """The live connections of one user, by device."""
        return {connection.device_id: connection for connection in (await self.live([user_id])).connections}

    async def as_far_as_known(self, user_id: str) -> Mapping[str, Connection]:
        """The live connections of one user, by device, without those that cannot be known while the cache is away."""
        try:
            return await self.of_user(user_id)
        except Unavailable:
            return {}

    async def hold(self, connections: Iterable[Connection]) -> None:
        """Makes each connection its device's, and gives it a full time to live."""
        for connection in connections:
            device, value = _device(connection), _value(connection)
            self._held.put(device, value, self._clock.monotonic_s())
            if self._lost.is_set():
                self._owe(device, None)
                continue
            try:
                await self._cache.put_field(_key(device[0]), device[1], value, self._ttl_s)
            except Unavailable:
                self._lose()

    async def release(self, connection: Connection) -> bool:
        """Forgets the connection if it is still its device's; tells whether it was."""
        device, value = _device(connection), _value(connection)
        was_held = self._held.drop(device, value)
        if not self._lost.is_set():
            try:
                return await self._cache.delete_field(_key(device[0]), device[1], expected=value) or was_held
            except Unavailable:
                self._lose()
        self._owe(device, value)
        return was_held

    def follow(self, owned: frozenset[int]) -> None:
        """The process owns these partitions now: what it holds of others may be old."""
        self._ownership.follow(owned, self._clock.monotonic_s())
        self._held.keep_only(self._ownership.owns)
        self._due = {device: value for device, value in self._due.items() if self._ownership.owns(device[0])}

    async def run(self) -> NoReturn:
        """Watches over the cache, and puts back what it lost, until cancelled."""
        while True:
            try:
                async with asyncio.timeout(self._check_s):
                    await self._lost.wait()
            except TimeoutError:
                await self._check()
                continue
            if not await self._put_back():
                await asyncio.sleep(_PAUSE_S * random.uniform(0.5, 1.5))  # noqa: S311 - spreads load, guards nothing

    async def _maps(self, user_ids: Sequence[str]) -> list[Mapping[str, bytes]]:
        if not self._lost.is_set():
            try:
                found = await self._cache.fields([_key(user_id) for user_id in user_ids])
            except Unavailable:
                self._lose()
            else:
                now_s = self._clock.monotonic_s()
                return [
                    _merged(self._held.of_user(user_id, now_s), fields)
                    for user_id, fields in zip(user_ids, found, strict=True)
                ]
        return [self._from_memory(user_id) for user_id in user_ids]

    def _from_memory(self, user_id: str) -> Mapping[str, bytes]:
        now_s = self._clock.monotonic_s()
        held = self._held.of_user(user_id, now_s)
        if not held and not self._ownership.owns_for(user_id, self._ttl_s, now_s):
            raise Unavailable("The user's connections are not known while the cache is away.", retry_after_s=1.0)
        return held

    def _lose(self) -> None:
        """The cache is away or has lost what it held: from now on memory answers, until all of it is there again."""
        for device in self._held.devices():
            if device not in self._due:
                self._owe(device, None)
        if not self._lost.is_set():
            self._lost.set()
            _away.set(1)
            _log.warning("cache.lost", held=len(self._held))

    def _owe(self, device: Device, removed: bytes | None) -> None:
        """Has the device's record written before the cache counts again. Of too many, it is put right by the next renewal, or runs
        out.
        """
        if device in self._due or len(self._due) < self._most_due:
            self._due[device] = removed

    async def _check(self) -> None:
        """Looks whether the cache still has what was put there."""
        try:
            found = await self._cache.get(self._marks)
            if self._marked and None in found:
                self._lose()
            elif not self._lost.is_set():
                await self._cache.set(dict.fromkeys(self._marks, b"1"), _MARK_TTL_S)
                self._marked = True
        except HitherError:
            self._lose()

    async def _put_back(self) -> bool:
        """Writes what is due; tells whether the cache counts again."""
        restored = len(self._due)
        try:
            while self._due:
                await self._write_some()
            await self._cache.set(dict.fromkeys(self._marks, b"1"), _MARK_TTL_S)
        except HitherError:
            return False
        if self._due:  # more came while the marks were written
            return False
        self._marked = True
        self._lost.clear()
        _away.set(0)
        _put_back.inc(restored)
        _log.info("cache.recovered", put_back=restored)
        return True

    async def _write_some(self) -> None:
        """Writes some of what is due. Raises Unavailable."""
        devices = list(islice(self._due, _AT_ONCE))
        for outcome in await asyncio.gather(*(self._write(device) for device in devices), return_exceptions=True):
            if outcome is not None:
                raise outcome

    async def _write(self, device: Device) -> None:
        """What is due of one device; it stays due if that fails."""
        removed = self._due[device]
        now_s = self._clock.monotonic_s()
        entry = self._held.entry(device, now_s)
        if entry is not None:
            await self._cache.put_field(_key(device[0]), device[1], entry.value, entry.ends_s - now_s)
        elif removed is not None:
            await self._cache.delete_field(_key(device[0]), device[1], expected=removed)
        if self._held.entry(device, now_s) is entry and self._due.get(device, removed) is removed:
            self._due.pop(device, None)


def _merged(held: Mapping[str, bytes], found: Mapping[str, bytes]) -> Mapping[str, bytes]:
    """What the cache has, and what it has lost meanwhile."""
    return found if held.keys() <= found.keys() else {**held, **found}


def _device(connection: Connection) -> Device:
    return connection.user_id, connection.device_id


def _key(user_id: str) -> str:
    return "connections:" + user_id


def _value(connection: Connection) -> bytes:
    return LookupConnectionsResponse(connections=[connection]).SerializeToString(deterministic=True)
