"""The live part of the location service of one process: put together, and kept going."""

import asyncio
from collections.abc import Sequence
from functools import partial

import structlog

from discovery.clock import Clock
from discovery.errors import HitherError
from discovery.mesh import Mesh
from services.location.live_cache import LiveCache
from services.location.live_feeds import LiveFeeds
from services.location.live_locations import LiveLocations
from services.location.live_members import LiveMembers
from services.location.live_peers import LivePeers
from services.location.live_settings import LiveSettings
from services.location.live_shares import Shares
from services.location.live_watchers import Watchers
from services.location.live_watching import LiveWatching
from services.ports.bus import Bus, Subscription
from services.ports.cache import Cache

CHANGES_TOPIC = "directory.changes"
"""Where the directory tells whose memberships and friendships have changed."""
SERVICE = "hither.location.v1.LocationService"

_log = structlog.get_logger("hither.location")


class Live:
    """`locations` takes points and `watching` viewers from the start; viewers are told while run() runs."""

    def __init__(
        self,
        mesh: Mesh,
        cache: Cache,
        bus: Bus,
        clock: Clock,
        settings: LiveSettings = LiveSettings(),  # noqa: B008 - frozen
    ) -> None:
        self._mesh = mesh
        self._bus = bus
        self._settings = settings
        self._watchers = Watchers()
        shares = Shares(settings.stale_s)
        peers = LivePeers(mesh, settings.call_timeout_s)
        live_cache = LiveCache(cache, settings)
        self._feeds = LiveFeeds(mesh, self._gone, settings)
        self._members = LiveMembers(peers.members, self._concerns, clock, settings)
        self.locations = LiveLocations(
            shares, self._watchers, self._members, live_cache, self._feeds, peers, clock, settings
        )
        self.watching = LiveWatching(self.locations, self._watchers, self._members, live_cache, peers, clock, settings)

    async def run(self) -> None:
        """Works in the background until cancelled; ends with an ExceptionGroup if part of the work dies."""
        changes = await self._bus.subscribe(CHANGES_TOPIC, self._members.changed)
        try:
            async with asyncio.TaskGroup() as work:
                work.create_task(self._feeds.run(), name="live-feeds")
                work.create_task(self._listen(), name="live-silences")
                work.create_task(self._look_after_watchers(), name="live-watchers")
                work.create_task(self._follow_ownership(), name="live-ownership")
        finally:
            await self._unsubscribe(changes)

    async def step(self) -> None:
        """Does once what run() does again and again."""
        self.locations.tell_silences()
        self.locations.sweep()
        await self.watching.recheck_members()
        await self.watching.recheck_connections()
        await self._feeds.step()

    async def _listen(self) -> None:
        while True:
            await asyncio.sleep(self._settings.tick_s)
            self.locations.tell_silences()
            self.locations.sweep()

    async def _look_after_watchers(self) -> None:
        while True:
            await asyncio.sleep(self._settings.tick_s)
            await self.watching.recheck_members()
            await self.watching.recheck_connections()

    async def _follow_ownership(self) -> None:
        async for owned in self._mesh.watch_owned(SERVICE):
            self.locations.keep_only(partial(self._is_among, owned))

    def _is_among(self, partitions: frozenset[int], conversation_id: str) -> bool:
        return self._mesh.partition_of(conversation_id) in partitions

    def _concerns(self, conversation_id: str) -> bool:
        return self.locations.concerns(conversation_id)

    def _gone(self, edge_id: str, connection_ids: Sequence[int]) -> None:
        self._watchers.gone(edge_id, connection_ids)

    async def _unsubscribe(self, changes: Subscription) -> None:
        try:
            async with asyncio.timeout(self._settings.call_timeout_s):
                await changes.close()
        except (HitherError, TimeoutError) as error:  # the bus is away, and the subscription with it
            _log.warning("unsubscribing.failed", error=str(error))
