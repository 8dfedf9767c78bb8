"""The device store on several PostgreSQL databases: each user's devices are on the shard that the hash of the user's id names.

Nothing spans shards but a batch of cursor moves, whose parts are independent. While a shard is away its users' calls, and batches
that hold one of them, raise Unavailable; all others are served.

For operators: the setting lists the shards' URLs, separated by spaces. Their number and order are fixed for the life of the data
and are written into each database, which refuses to be opened as another shard. Choose as many shards as the data will ever need:
several may be databases of one server at first and move to servers of their own later, by replication and a new address in the
same place of the list. All of them must be there when a process starts.
"""

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Self

from services.ports.device_store import CursorMove, DeviceRow
from services.storage.sql.devices import SqlDeviceStore
from services.storage.sql.directory import SqlSettings
from services.storage.sql.shards import Shard, shard_of


class ShardedDeviceStore:
    """See services.ports.device_store.DeviceStore. Made by `open`."""

    def __init__(self, shards: Sequence[SqlDeviceStore]) -> None:
        self._shards = shards

    @classmethod
    async def open(cls, urls: Sequence[str], settings: SqlSettings | None = None) -> Self:
        """Opens each shard as SqlDeviceStore.open does, and raises what that raises."""
        shards = []
        async with AsyncExitStack() as stack:
            for number, url in enumerate(urls):
                store = await SqlDeviceStore.open(url, settings, Shard(number, len(urls)))
                stack.push_async_callback(store.close)
                shards.append(store)
            stack.pop_all()
        return cls(shards)

    async def touch(self, user_id: str, device_id: str, seen_ms: int, most: int) -> DeviceRow | None:
        """See DeviceStore."""
        return await self._shard(user_id).touch(user_id, device_id, seen_ms, most)

    async def advance(self, moves: Sequence[CursorMove]) -> Sequence[int]:
        """See DeviceStore. All shards are tried; if one fails, cursors of the others may have moved."""
        places: defaultdict[int, list[int]] = defaultdict(list)
        for place, move in enumerate(moves):
            places[shard_of(move.user_id, len(self._shards))].append(place)
        parts = await asyncio.gather(
            *(self._shards[number].advance([moves[place] for place in mine]) for number, mine in places.items()),
            return_exceptions=True,
        )
        answers = [0] * len(moves)
        for mine, part in zip(places.values(), parts, strict=True):
            if isinstance(part, BaseException):
                raise part
            for place, before in zip(mine, part, strict=True):
                answers[place] = before
        return answers

    async def list_devices(self, user_id: str, after_device_id: str, limit: int) -> Sequence[DeviceRow]:
        """See DeviceStore."""
        return await self._shard(user_id).list_devices(user_id, after_device_id, limit)

    async def remove(self, user_id: str, device_id: str) -> bool:
        """See DeviceStore."""
        return await self._shard(user_id).remove(user_id, device_id)

    async def close(self) -> None:
        """See DeviceStore. May be called twice."""
        async with AsyncExitStack() as stack:
            for shard in self._shards:
                stack.push_async_callback(shard.close)

    def _shard(self, user_id: str) -> SqlDeviceStore:
        return self._shards[shard_of(user_id, len(self._shards))]
