"""What connecting, staying and going mean for a device: one live connection each, the newest one.

Which is the newest, the connections' numbers say, and not the order in which their edges get to say so: an attempt that the client
has given up may come late, after its next one, and a record may be of an edge that was killed. Edges whose clocks differ
make a device that moves wait for the difference, at most: its connection is refused, and the client comes back.

Everything about one user happens one after the other here (`_one_by_one`), because the registry cannot compare and set:
else a renewal could put back a connection that was replaced while it looked. Two instances that own the user at the same
time for a moment may still do that; the next renewal of the newer connection's edge finds out.

A removed device must not come back by itself. Push forgets it first: what fails or ends there has changed nothing here, and the
device can be removed again. Its connection is taken before it, and a record that was lost is made anew
only for a device that the device store knows: so what is on record belongs to a device that exists, and noting when the
device of a released connection was last seen makes none.
"""

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar
from weakref import WeakValueDictionary

from discovery.clock import Clock
from hither.sessions.v1.sessions_pb2 import Connection
from services.ports.device_store import DeviceStore
from services.sessions.errors import NoSuchDevice, Superseded, TooManyDevices
from services.sessions.evictions import Evictions
from services.sessions.registry import ConnectionRegistry
from services.sessions.settings import SessionsSettings

T = TypeVar("T")

ForgetPush = Callable[[str, str], Awaitable[None]]
"""Has a user's device woken up no more. May be repeated. Raises Unavailable."""

_MOST_LISTED = 1_000
"""Devices of a user that are looked at: more than a user has, also after the limit was lowered."""


class Connections:
    """The live connections of the users that this process owns. Raises Unavailable (ENGINE_DOWN) when an engine is away, as far
    as the registry cannot do without it.
    """

    def __init__(
        self,
        registry: ConnectionRegistry,
        devices: DeviceStore,
        evictions: Evictions,
        forget_push: ForgetPush,
        clock: Clock,
        settings: SessionsSettings,
    ) -> None:
        self._registry = registry
        self._devices = devices
        self._forget_push = forget_push
        self._evictions = evictions
        self._clock = clock
        self._settings = settings
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def register(self, connection: Connection) -> int:
        """Makes the connection its device's and evicts the one before; returns the device's cursor, zero for a new device.

        Again with the same connection it renews it. Raises TooManyDevices, or Superseded by a newer connection; then no connection
        has changed.
        """
        user_id, device_id = connection.user_id, connection.device_id
        async with self._one_by_one(user_id):
            device = await self._devices.touch(user_id, device_id, self._clock.now_ms(), self._settings.most_devices)
            if device is None:
                raise TooManyDevices(f"A user has at most {self._settings.most_devices} devices; remove one.")
            # One that is not known now, its edge learns at its next renewal that it was replaced.
            before = (await self._registry.as_far_as_known(user_id)).get(device_id)
            if before is not None and _is_newer(before, connection):
                raise Superseded("A newer connection of the device is held.")
            await self._registry.hold([connection])
        if before is not None and before != connection:
            self._evictions.add(before)
        return device.cursor

    async def renew(self, connections: Sequence[Connection]) -> list[int]:
        """Keeps connections alive; returns the numbers of those that have lost their device to another connection or
        whose device was removed. What the registry has lost, or has never been told, is put in place.
        """
        replaced = await self._for_each_user(connections, self._renew_of_user)
        return [number for numbers in replaced for number in numbers]

    async def remove(self, connections: Sequence[Connection]) -> None:
        """Forgets connections that are still their device's, and notes that the device was seen until now."""
        await self._for_each_user(connections, self._remove_of_user)

    async def remove_device(self, user_id: str, device_id: str) -> None:
        """Has the device woken up no more, evicts its connection and forgets the device with its cursor. Raises NoSuchDevice."""
        if device_id not in await self._known_devices(user_id):
            raise NoSuchDevice("The user has no such device.")
        await self._forget_push(user_id, device_id)
        async with self._one_by_one(user_id):
            connection = (await self._registry.of_user(user_id)).get(device_id)
            if connection is not None and await self._registry.release(connection):
                self._evictions.add(connection)
            if not await self._devices.remove(user_id, device_id):
                raise NoSuchDevice("The user has no such device.")

    async def _renew_of_user(self, user_id: str, connections: Sequence[Connection]) -> Sequence[int]:
        async with self._one_by_one(user_id):
            held = await self._registry.as_far_as_known(user_id)
            on_record = {one.device_id: held[one.device_id] for one in connections if one.device_id in held}
            lost = [one for one in connections if one.device_id not in on_record]
            kept: list[Connection] = []
            for connection in sorted(connections, key=_number):
                before = on_record.get(connection.device_id)
                if before == connection:
                    kept.append(connection)
                elif before is not None and _is_newer(connection, before):
                    self._evictions.add(before)
                    on_record[connection.device_id] = connection
                    kept.append(connection)
            if lost:
                known = await self._known_devices(user_id)
                kept += [connection for connection in lost if connection.device_id in known]
            await self._registry.hold(kept)
        kept_numbers = {connection.connection_id for connection in kept}
        return [one.connection_id for one in connections if one.connection_id not in kept_numbers]

    async def _remove_of_user(self, user_id: str, connections: Sequence[Connection]) -> None:
        async with self._one_by_one(user_id):
            for connection in connections:
                if await self._registry.release(connection):
                    await self._devices.touch(
                        user_id, connection.device_id, self._clock.now_ms(), self._settings.most_devices
                    )

    def _one_by_one(self, user_id: str) -> asyncio.Lock:
        lock = self._locks.get(user_id)
        if lock is None:
            lock = self._locks[user_id] = asyncio.Lock()
        return lock

    async def _known_devices(self, user_id: str) -> frozenset[str]:
        rows = await self._devices.list_devices(user_id, "", _MOST_LISTED)
        return frozenset(row.device_id for row in rows)

    async def _for_each_user(
        self, connections: Sequence[Connection], work: Callable[[str, Sequence[Connection]], Awaitable[T]]
    ) -> list[T]:
        """Works on the users of a request beside each other, but not on too many at a time."""
        users: defaultdict[str, list[Connection]] = defaultdict(list)
        for connection in connections:
            users[connection.user_id].append(connection)
        waiting = iter(users.items())
        done: list[T] = []

        async def take() -> None:
            for user_id, its in waiting:
                done.append(await work(user_id, its))
                await asyncio.sleep(0)  # engines in the process answer without letting anybody else run

        if len(users) == 1:
            await take()
            return done
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(len(users), self._settings.users_at_once)):
                    group.create_task(take())
        except BaseExceptionGroup as failures:
            # A caller gets the error that the contract names; the rest of the group was cancelled for it.
            raise failures.exceptions[0] from None
        return done


def _number(connection: Connection) -> int:
    return connection.connection_id


def _is_newer(one: Connection, other: Connection) -> bool:
    return one.connection_id > other.connection_id
