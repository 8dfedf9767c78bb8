"""Live locations of the conversations that this process owns: takes points, keeps them, and shows them to who watches.

What is shared is for `sessions` to say, who may see it for the directory; both are asked when something is not known, and tell of
changes. A point is in the Cache before its sharer is answered, and goes straight to the viewers' edges: the conversation's
owner knows them all, so no log and no bus lies between. A log would put every place of everybody on disk, and a durable append
costs ten times what a point costs here (305 us of CPU and 2.1 ms against 30 us and 0.7 for each viewer, on SQLite), for what
the next point replaces. Nothing here logs a place.
"""

import asyncio
from collections.abc import Callable, Sequence
from weakref import WeakValueDictionary

import structlog

from discovery.clock import Clock
from discovery.errors import HitherError, InvalidArgument, Violation
from hither.location.v1.location_pb2 import (
    EndReason,
    Fix,
    LiveLocationEndedEvent,
    LiveLocationEvent,
    LiveLocationStaleEvent,
    LiveLocationView,
)
from services.location.live_audit import LiveAudit
from services.location.live_cache import LiveCache
from services.location.live_errors import LiveLocationEnded, NotTheSharer, TooManyShared
from services.location.live_feeds import LiveFeeds
from services.location.live_members import LiveMembers
from services.location.live_peers import LivePeers
from services.location.live_settings import LiveSettings
from services.location.live_shares import Shared, Shares, conversation_of
from services.location.live_watchers import Watcher, Watchers

_SWEEP_S = 60.0
_KEPT_AFTER_MS = 60_000

_log = structlog.get_logger("hither.location")


class LiveLocations:
    """See the module. Raises Unavailable (ENGINE_DOWN) when the cache is away."""

    def __init__(
        self,
        shares: Shares,
        watchers: Watchers,
        members: LiveMembers,
        cache: LiveCache,
        feeds: LiveFeeds,
        peers: LivePeers,
        clock: Clock,
        settings: LiveSettings,
        audit: LiveAudit | None = None,
    ) -> None:
        self._shares = shares
        self._watchers = watchers
        self._members = members
        self._cache = cache
        self._feeds = feeds
        self._peers = peers
        self._clock = clock
        self._settings = settings
        self._audit = audit
        self._loaded: set[str] = set()
        """Conversations whose watchers have been read from the cache."""
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._swept_s = clock.monotonic_s()

    async def update(self, session_id: str, user_id: str, fix: Fix) -> None:
        """Takes a point: where the user is, or the ciphertext of it. Its time is now.

        Raises LiveLocationEnded, NotTheSharer, InvalidArgument for a place where a ciphertext is due or the other way round,
        PermissionDenied (NOT_A_MEMBER, BLOCKED) and TooManyShared.
        """
        shared = await self._going_on(session_id)
        if shared.user_id != user_id:
            raise NotTheSharer("The live location is another user's.")
        _check_kind(shared, fix)
        members = await self._members.of(shared.conversation_id, user_id)
        number = shared.next_number()
        now_ms = self._clock.now_ms()
        fix.timestamp.FromMilliseconds(now_ms)
        await self._cache.put_point(session_id, number, fix, (shared.expires_ms - now_ms) / 1000)
        if shared.is_over:  # it ended meanwhile, and its points were forgotten before this one was kept
            await self._cache.forget_points(session_id)
            raise LiveLocationEnded("The live location has ended.")
        if self._shares.point(shared, number, fix, self._clock.monotonic_s()):
            if self._audit is not None:
                self._audit.take(shared, fix)
            watchers = [one for one in self._watchers.of(shared.conversation_id) if one.user_id in members]
            self._tell(watchers, shared.session_id, "live_location", _point_event(shared, fix))

    async def show(self, conversation_id: str) -> list[LiveLocationView]:
        """The live locations of the conversation as they are now, with their trails as far as the cache has them."""
        async with self._one_by_one(conversation_id):
            await self._load(conversation_id)
        shares = self._shares.of(conversation_id)
        try:
            trails = await self._cache.points([shared.session_id for shared in shares])
        except HitherError as error:
            _log.warning("live.without_trails", reason=error.reason)
            trails = [[] for _ in shares]
        share_bytes = self._settings.trail_bytes // max(1, len(shares))
        after_ms = self._clock.now_ms() - round(self._settings.trail_s * 1000)
        recent = ([fix for _, fix in trail if fix.timestamp.ToMilliseconds() > after_ms] for trail in trails)
        return [self._view(shared, _newest(trail, share_bytes)) for shared, trail in zip(shares, recent, strict=True)]

    async def end(self, session_id: str, reason: EndReason.ValueType) -> None:
        """The live location has ended: its points are forgotten and its viewers told. May be repeated."""
        conversation_id = conversation_of(session_id)
        async with self._one_by_one(conversation_id):
            await self.load_watchers(conversation_id)
            shared = self._shares.end(session_id)
            if shared is not None:
                shared.is_over = True
        event = LiveLocationEndedEvent(session_id=session_id, reason=reason)
        self._tell(self._watchers.of(conversation_id), session_id, "live_location_ended", event)
        try:
            await self._cache.forget_points(session_id)
        except HitherError as error:  # they run out by themselves
            _log.warning("live.points_not_forgotten", reason=error.reason)

    def hide(self, watcher: Watcher) -> None:
        """The watcher may not see the conversation any more: for it, all live locations there have ended."""
        self._watchers.drop(watcher)
        for shared in self._shares.of(watcher.conversation_id):
            event = LiveLocationEndedEvent(session_id=shared.session_id, reason=EndReason.END_REASON_REMOVED)
            self._tell([watcher], shared.session_id, "live_location_ended", event, slot=(shared.session_id, watcher))

    async def load_watchers(self, conversation_id: str) -> None:
        """Makes sure that those are known who began to watch while another process owned the conversation."""
        if conversation_id in self._loaded:
            return
        try:
            found = await self._cache.watchers(conversation_id)
        except HitherError as error:
            _log.warning("live.watchers_unread", reason=error.reason)
            return
        until_s = self._clock.monotonic_s() + self._settings.watch_lease_s
        for watcher in found:
            if self._watchers.find(conversation_id, watcher.user_id, watcher.device_id) is None:
                self._watchers.put(watcher, until_s)
        self._loaded.add(conversation_id)

    def tell_silences(self) -> None:
        """Tells viewers which live locations have become stale."""
        for shared in self._shares.fallen_silent(self._clock.monotonic_s()):
            assert shared.latest is not None, "only what has sent a point can fall silent"
            event = LiveLocationStaleEvent(session_id=shared.session_id, last_seen=shared.latest.timestamp)
            members = self._members.known(shared.conversation_id)
            watchers = self._watchers.of(shared.conversation_id)
            told = watchers if members is None else [one for one in watchers if one.user_id in members]
            self._tell(told, shared.session_id, "live_location_stale", event)

    def sweep(self) -> None:
        """Forgets what nobody needs any more, once in a while."""
        if self._clock.monotonic_s() - self._swept_s < _SWEEP_S:
            return
        self._swept_s = self._clock.monotonic_s()
        over_ms = self._clock.now_ms() - _KEPT_AFTER_MS
        self._shares.keep_only(lambda shared: shared.expires_ms > over_ms)
        self._loaded = {one for one in self._loaded if self.concerns(one)}

    def keep_only(self, is_owned: Callable[[str], bool]) -> None:
        """Forgets the conversations that another process owns now."""
        self._shares.keep_only(lambda shared: is_owned(shared.conversation_id))
        self._watchers.keep_only(is_owned)
        self._loaded = {one for one in self._loaded if is_owned(one)}

    def concerns(self, conversation_id: str) -> bool:
        """Whether anything is shared or watched there, as far as this process knows."""
        return bool(self._watchers.count(conversation_id) or self._shares.of(conversation_id))

    async def _going_on(self, session_id: str) -> Shared:
        conversation_id = conversation_of(session_id)
        if not conversation_id:
            raise LiveLocationEnded("There is no such live location.")
        shared = self._shares.find(session_id)
        if shared is not None and self._clock.now_ms() < shared.expires_ms:
            return shared
        async with self._one_by_one(conversation_id):
            shared = self._shares.find(session_id)
            if shared is None or self._clock.now_ms() >= shared.expires_ms:
                await self._load(conversation_id)
                shared = self._shares.find(session_id)
        if shared is None:
            raise LiveLocationEnded("There is no such live location, or it has ended.")
        return shared

    async def _load(self, conversation_id: str) -> None:
        """Brings what is known of the conversation up to date with what sessions says."""
        await self.load_watchers(conversation_id)
        going_on = await self._peers.live_locations(conversation_id)
        names = {known.session_id for known in going_on}
        for shared in self._shares.of(conversation_id):
            if shared.session_id not in names:
                self._shares.end(shared.session_id)
        unknown = [known for known in going_on if self._shares.find(known.session_id) is None]
        if len(self._shares) + len(unknown) > self._settings.most_shared:
            raise TooManyShared("Too many live locations are shared.")
        found = {known.session_id: self._shares.put(known) for known in going_on}
        await self._load_points([found[known.session_id] for known in unknown])

    async def _load_points(self, shares: Sequence[Shared]) -> None:
        """Goes on where another process left off."""
        try:
            trails = await self._cache.points([shared.session_id for shared in shares])
        except HitherError as error:
            _log.warning("live.points_unread", reason=error.reason)
            return
        now_ms, now_s = self._clock.now_ms(), self._clock.monotonic_s()
        for shared, trail in zip(shares, trails, strict=True):
            if trail:
                number, fix = trail[-1]
                age_s = max(0, now_ms - fix.timestamp.ToMilliseconds()) / 1000
                # Remainders begin at 0, numbers of points at 1.
                self._shares.point(shared, number + self._settings.trail_points, fix, now_s - age_s)

    def _view(self, shared: Shared, trail: Sequence[Fix]) -> LiveLocationView:
        view = LiveLocationView(
            session_id=shared.session_id,
            user_id=shared.user_id,
            latest=shared.latest,
            trail=trail,
            opaque=shared.opaque,
            stale=self._shares.is_stale(shared, self._clock.monotonic_s()),
        )
        view.expires_at.FromMilliseconds(shared.expires_ms)
        return view

    def _tell(
        self,
        watchers: Sequence[Watcher],
        session_id: str,
        type_: str,
        event: LiveLocationEvent | LiveLocationEndedEvent | LiveLocationStaleEvent,
        slot: object = None,
    ) -> None:
        if watchers:
            self._feeds.tell(watchers, type_, event.SerializeToString(), f"live:{session_id}", slot)

    def _one_by_one(self, conversation_id: str) -> asyncio.Lock:
        lock = self._locks.get(conversation_id)
        if lock is None:
            lock = self._locks[conversation_id] = asyncio.Lock()
        return lock


def _check_kind(shared: Shared, fix: Fix) -> None:
    if shared.opaque and (not fix.ciphertext or fix.lat or fix.lng):
        rule = "must be filled, and lat and lng must not: the live location is opaque"
        raise InvalidArgument(f"ciphertext {rule}.", violations=(Violation("ciphertext", rule),))
    if not shared.opaque and fix.ciphertext:
        rule = "must not be filled: the live location is not opaque"
        raise InvalidArgument(f"ciphertext {rule}.", violations=(Violation("ciphertext", rule),))


def _newest(trail: Sequence[Fix], most_bytes: int) -> list[Fix]:
    """The newest points of the trail that weigh no more together; oldest first."""
    kept: list[Fix] = []
    for fix in reversed(trail):
        most_bytes -= fix.ByteSize()
        if most_bytes < 0:
            break
        kept.append(fix)
    return kept[::-1]


def _point_event(shared: Shared, fix: Fix) -> LiveLocationEvent:
    return LiveLocationEvent(
        session_id=shared.session_id,
        conversation_id=shared.conversation_id,
        user_id=shared.user_id,
        lat=fix.lat,
        lng=fix.lng,
        timestamp=fix.timestamp,
        ciphertext=fix.ciphertext,
    )
