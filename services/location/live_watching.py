"""Who watches live locations: begins and ends it, and looks after who has left the conversation or lost the connection.

A watcher is a device with its connection. It watches for as long as that lives: an edge that is handed an event for it says when it
is gone, and where nothing happens the registry is asked when the lease is over. So a client has nothing to renew.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import TypeVar

import structlog

from discovery.clock import Clock
from discovery.errors import HitherError, NotFound, PermissionDenied
from hither.location.v1.location_pb2 import LiveLocationView
from services.location.live_cache import LiveCache
from services.location.live_errors import NotConnected, TooManyWatchers
from services.location.live_locations import LiveLocations
from services.location.live_members import LiveMembers
from services.location.live_peers import LivePeers
from services.location.live_settings import LiveSettings
from services.location.live_watchers import Watcher, Watchers, watcher_of

T = TypeVar("T")
_log = structlog.get_logger("hither.location")


class LiveWatching:
    """See the module."""

    def __init__(
        self,
        locations: LiveLocations,
        watchers: Watchers,
        members: LiveMembers,
        cache: LiveCache,
        peers: LivePeers,
        clock: Clock,
        settings: LiveSettings,
    ) -> None:
        self._locations = locations
        self._watchers = watchers
        self._members = members
        self._cache = cache
        self._peers = peers
        self._clock = clock
        self._settings = settings

    async def watch(self, conversation_id: str, user_id: str, device_id: str) -> Sequence[LiveLocationView]:
        """From now on the device is told; returns what there is to see. Raises NotConnected, TooManyWatchers, and PermissionDenied
        (NOT_A_MEMBER, BLOCKED).
        """
        await self._members.of(conversation_id, user_id)
        await self._locations.load_watchers(conversation_id)
        connection = await self._peers.connection(user_id, device_id)
        if connection is None:
            raise NotConnected("The device has no connection.")
        watcher = watcher_of(conversation_id, connection)
        self._check_room(watcher)
        self._watchers.put(watcher, self._lease_s())
        await self._record(watcher)
        return await self._locations.show(conversation_id)

    async def unwatch(self, conversation_id: str, user_id: str, device_id: str) -> None:
        """The device is not told any more."""
        await self._locations.load_watchers(conversation_id)
        watcher = self._watchers.find(conversation_id, user_id, device_id)
        if watcher is not None:
            self._watchers.drop(watcher)
            await self._erase(watcher)

    async def recheck_members(self) -> None:
        """Ends the watching of who is a member no longer, where that may be so."""
        await self._each(self._members.take_doubtful(), self._recheck)

    async def recheck_connections(self) -> None:
        """Ends the watching of devices whose connection is gone, once their lease is over."""
        await self._each(list(self._watchers.over(self._clock.monotonic_s())), self._renew)

    async def _recheck(self, conversation_id: str) -> None:
        if not self._locations.concerns(conversation_id):
            self._members.forget(conversation_id)
            return
        watchers = self._watchers.of(conversation_id)
        members: frozenset[str] = frozenset()
        try:
            for user_id in dict.fromkeys(watcher.user_id for watcher in watchers):
                try:
                    members = await self._members.ask(conversation_id, user_id)
                    break
                except (PermissionDenied, NotFound):
                    continue
        except HitherError as error:
            _log.warning("live.members_unknown", reason=error.reason)
            if self._members.known(conversation_id) is None:
                self._members.doubt(conversation_id)
            return
        if not watchers:
            self._members.forget(conversation_id)
        for watcher in watchers:
            if watcher.user_id not in members and watcher in self._watchers:
                self._locations.hide(watcher)
                await self._erase(watcher)

    async def _renew(self, watcher: Watcher) -> None:
        try:
            connection = await self._peers.connection(watcher.user_id, watcher.device_id)
        except HitherError as error:
            _log.warning("live.connection_unknown", reason=error.reason)
            connection = watcher.connection()
        if connection == watcher.connection():
            self._watchers.renew(watcher, self._lease_s())
            await self._record(watcher)
            return
        # The registry knows nobody whom an edge could not renew in time, as after a sleep of either.
        if connection is None and self._watchers.doubt(
            watcher, self._clock.monotonic_s() + self._settings.watch_doubt_s
        ):
            return
        if self._watchers.drop(watcher):
            await self._erase(watcher)

    def _check_room(self, watcher: Watcher) -> None:
        if self._watchers.find(watcher.conversation_id, watcher.user_id, watcher.device_id) is not None:
            return
        if (
            len(self._watchers) >= self._settings.most_watchers
            or self._watchers.count(watcher.conversation_id) >= self._settings.most_watchers_of_one
        ):
            raise TooManyWatchers("Too many devices watch.")

    def _lease_s(self) -> float:
        return self._clock.monotonic_s() + self._settings.watch_lease_s

    async def _record(self, watcher: Watcher) -> None:
        try:
            await self._cache.put_watcher(watcher)
        except HitherError as error:  # this process knows; only a successor would not
            _log.warning("live.watcher_unrecorded", reason=error.reason)

    async def _erase(self, watcher: Watcher) -> None:
        try:
            await self._cache.drop_watcher(watcher)
        except (
            HitherError
        ) as error:  # the record runs out by itself, and members are looked at before anything is shown
            _log.warning("live.watcher_unerased", reason=error.reason)

    async def _each(self, items: Iterable[T], work: Callable[[T], Awaitable[None]]) -> None:
        """Works on the items, a few beside each other."""
        waiting = iter(items)

        async def take() -> None:
            for item in waiting:
                await work(item)

        async with asyncio.TaskGroup() as group:
            for _ in range(self._settings.at_once):
                group.create_task(take())
