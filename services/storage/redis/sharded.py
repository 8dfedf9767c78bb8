"""The bus over several Redis servers, each of which has a share of the topics: partition and ring are those of the mesh, over the
servers that the registry names now.

When servers come or go, topics move. A move begins at each process when the process sees the new ring, and they do not all see
it at once; that is why nobody stays without news for good:

- Who listens goes on listening at the old server until it is sure of two things: that the new server has confirmed the
  subscription, and that the old server keeps the new ring (see shards). Then it tells of a gap and lets go.
- Who publishes reads, behind each batch and in the same round trip, the ring that the server keeps. If that is newer than
  its own, the news may have met nobody: publishing fails, and the publisher goes on with the newer ring. If it is not, the
  batch was carried out before the server learnt of a newer ring, and so before anybody let go for its sake.
- News that went to the new server before who listens was there are covered by the gap, which is told when it is there.
- Who has an older ring, perhaps since it is cut off from the registry, hears of the new one from the servers that it listens at.

For a second the old server is not told of the new ring: by then all publishers know it from the registry, and nobody fails.
A server that cannot be reached cannot be told; it is let go a minute after it has left the ring. What remains is a publisher
that is cut off from the registry, and goes on at a server that has left the ring, has restarted since and is reached by nobody else.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Self

import structlog

from discovery.errors import HitherError, ResourceExhausted, Unavailable
from discovery.partitions import partition_of
from discovery.registry.port import Registry
from services.ports.bus import Handler, OnGap
from services.storage.redis.bus import check_payload, closed, refuse
from services.storage.redis.connections import RedisSettings, away, engine_errors
from services.storage.redis.frames import Frame, Newest
from services.storage.redis.metrics import GAPS, IGNORED, MOVES, SERVERS
from services.storage.redis.publisher import Guard
from services.storage.redis.server import BusServer, Frames, note_end
from services.storage.redis.shards import KEEP_NEWEST, NO_SHARDS, RING_TOPIC, Shards, shards_of, unpack
from services.storage.topics import Topics, TopicSubscription

_SETTLE_S = 1.0
"""How long after a change old servers are not told of the new ring yet."""
_ABANDON_S = 60.0
"""After so long outside the ring a server that cannot be reached is let go."""
_WATCH_AGAIN_S = 1.0
_PUBLISHERS_IN_A_MOVE = 1_000
_TOPICS_AT_ONCE = 500

_log = structlog.get_logger(__name__)


@dataclass(slots=True)
class _Listened:
    """A topic that this process listens to."""

    partition: int
    home: BusServer
    confirmed: asyncio.Future[None]
    """Done when `home` has confirmed it."""
    was_heard: bool = False
    """Whether it was ever confirmed: from then on every change is a gap."""
    old: set[BusServer] = field(default_factory=set)
    """Servers that it has moved away from and is still listened to at."""
    newest: Newest | None = None
    """While it moves: news of one publisher may come from two servers in the wrong order."""


@dataclass(slots=True)
class _Member:
    """A server, in the ring or on its way out."""

    server: BusServer
    task: asyncio.Task[None]
    told_revision: int = -1
    """Of the newest ring that the server is known to keep."""
    has_news: bool = False
    """Whether who listens there is still to hear of that ring."""
    left_s: float | None = None
    """When it left the ring, on the loop's clock."""


class ShardedBus:
    """See services.ports.bus.Bus. Made by `open`.

    As RedisBus for each topic. Publishing and subscribing raise Unavailable while the topic's server is away, until the registry
    names it no more and the topic has moved; while the registry names none; and where a topic moves at that very moment,
    though the news may have been heard. Without the registry, the last servers serve.
    """

    def __init__(
        self, registry: Registry, partitions: int, url_of: Callable[[str], str], settings: RedisSettings
    ) -> None:
        self._registry = registry
        self._partitions = partitions
        self._url_of = url_of
        self._settings = settings
        self._ring_key = f"{settings.prefix}ring"
        self._frames = Frames()
        self._shards = NO_SHARDS
        self._placed_revision = -1
        """When the servers last became others."""
        self._members: dict[str, _Member] = {}
        self._addresses: dict[BusServer, str] = {}
        self._topics = Topics(self._forget)
        self._listened: dict[str, _Listened] = {}
        self._moving: set[str] = set()
        self._rumour: Shards | None = None
        """A newer ring that a server keeps."""
        self._rumoured = asyncio.Event()
        self._changed = asyncio.Event()
        self._seen = asyncio.Event()
        self._ended = False
        self._running: asyncio.Task[None] | None = None
        self._group: asyncio.TaskGroup | None = None

    @classmethod
    async def open(
        cls,
        registry: Registry,
        partitions: int,
        url_of: Callable[[str], str] = "redis://{}".format,
        settings: RedisSettings | None = None,
    ) -> Self:
        """Reads the registry and connects to its servers, whose addresses `url_of` makes URLs of. Raises Unavailable if none
        of them answers; those that do not are tried again.
        """
        chosen = settings or RedisSettings()
        bus = cls(registry, partitions, url_of, chosen)
        bus._running = asyncio.create_task(bus._run(), name="redis-buses")
        bus._running.add_done_callback(bus._note_end)
        try:
            await bus._wait_live(chosen.timeout_s)
        except BaseException:
            await bus.close()
            raise
        return bus

    async def publish(self, topic: str, payload: bytes) -> None:
        """See Bus. Raises ResourceExhausted if too much waits to be sent."""
        self._check_open()
        check_payload(payload)
        with engine_errors():
            async with asyncio.timeout(self._settings.timeout_s):
                server = await self._placed(topic)
                await server.publish(topic, payload)
        if self._owner(partition_of(topic, self._partitions)) is not server:
            raise Unavailable("The topic has moved.", reason="ENGINE_DOWN", retry_after_s=1.0)

    async def subscribe(self, topic: str, handler: Handler, on_gap: OnGap | None = None) -> TopicSubscription:
        """See Bus. Raises ResourceExhausted if this process listens to too many topics."""
        self._check_open()
        listened = self._listen(topic)
        if not listened.home.is_live:
            self._forget_if_unused(topic)
            raise away()
        subscription = self._topics.add(topic, handler, on_gap)
        try:
            with engine_errors():
                async with asyncio.timeout(self._settings.timeout_s):
                    await asyncio.shield(listened.confirmed)
        except BaseException:
            await subscription.close()
            raise
        return subscription

    async def close(self) -> None:
        """See Bus. May be called twice."""
        self._ended = True
        for member in self._members.values():
            member.server.lost()
        for listened in self._listened.values():
            refuse(listened.confirmed)
        self._topics.clear()
        self._listened.clear()
        if self._running is None:
            return
        running, self._running = self._running, None
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)  # how it ended was noted
        SERVERS.set(0)
        for member in self._members.values():
            with engine_errors():
                await member.server.close()
        self._members.clear()

    # What the servers say

    def heard(self, server: BusServer, topic: str, frame: Frame) -> None:
        """See server.Bus."""
        if topic == RING_TOPIC:
            self._hear_of(frame.payload)
            return
        listened = self._listened.get(topic)
        if listened is None:
            return
        if listened.newest is not None and not listened.newest.takes(frame):
            IGNORED.labels("moved").inc()
            return
        self._topics.run(topic, frame.payload)

    def listening(self, server: BusServer, topic: str) -> None:
        """See server.Bus."""
        if topic == RING_TOPIC:
            address = self._addresses.get(server)
            if address is not None:  # it may have restarted, and know no ring
                self._members[address].told_revision = -1
                self._changed.set()
            return
        listened = self._listened.get(topic)
        if listened is None:
            return
        if server is listened.home and not listened.confirmed.done():
            listened.confirmed.set_result(None)
        if listened.was_heard:
            GAPS.inc()
            self._topics.missed(topic)
        elif listened.confirmed.done():
            listened.was_heard = True

    def _allows(self, kept: bytes | None) -> bool:
        """See Guard: whether what was published with this ring has met who listens."""
        return kept is None or not self._hear_of(kept)

    def _hear_of(self, packed: bytes) -> bool:
        """Whether a server keeps a newer ring that places topics in another way. It is then looked into."""
        told = unpack(packed, self._shards, self._partitions)
        if told is None or told.revision <= self._shards.revision or told.has_servers_of(self._shards):
            return False
        if self._rumour is None or told.revision > self._rumour.revision:
            self._rumour = told
            self._rumoured.set()
        return True

    # Where topics are

    def _owner(self, number: int) -> BusServer:
        if not self._shards.owners:
            raise Unavailable("No server of the bus is known.", reason="ENGINE_DOWN", retry_after_s=1.0)
        return self._members[self._shards.owners[number]].server

    async def _placed(self, topic: str) -> BusServer:
        """The topic's server; where this process listens, once it hears there what it publishes."""
        while True:
            server = self._owner(partition_of(topic, self._partitions))
            listened = self._listened.get(topic)
            if listened is None:
                return server
            self._move(topic, listened)
            if not server.is_live:
                raise away()
            if server.hears(topic) or not listened.was_heard:
                return server
            await asyncio.shield(listened.confirmed)

    def _listen(self, topic: str) -> _Listened:
        listened = self._listened.get(topic)
        if listened is not None:
            self._move(topic, listened)
            return listened
        if len(self._listened) >= self._settings.topics_most:
            raise ResourceExhausted("The bus listens to too many topics.")
        number = partition_of(topic, self._partitions)
        home = self._owner(number)
        listened = self._listened[topic] = _Listened(number, home, asyncio.get_running_loop().create_future())
        home.listen(topic)
        return listened

    def _move(self, topic: str, listened: _Listened) -> None:
        """Has the topic listened to at its present owner too."""
        owner = self._owner(listened.partition)
        if owner is listened.home:
            return
        MOVES.inc()
        listened.old.add(listened.home)
        listened.home = owner
        listened.newest = listened.newest or Newest(_PUBLISHERS_IN_A_MOVE)
        self._moving.add(topic)
        is_back = owner in listened.old
        listened.old.discard(owner)
        if is_back and owner.hears(topic):
            self.listening(owner, topic)  # what was published elsewhere meanwhile may have been missed
            return
        if listened.confirmed.done():
            listened.confirmed = asyncio.get_running_loop().create_future()
        if not is_back:
            owner.listen(topic)

    def _forget_if_unused(self, topic: str) -> None:
        if not self._topics.count(topic):
            self._forget(topic)

    def _forget(self, topic: str) -> None:
        """Nobody listens to the topic here any more."""
        listened = self._listened.pop(topic)
        self._moving.discard(topic)
        for server in (listened.home, *listened.old):
            server.forget(topic)
        if not listened.confirmed.done():
            listened.confirmed.set_result(None)

    # Following the registry

    async def _run(self) -> None:
        async with asyncio.TaskGroup() as self._group:
            self._group.create_task(self._follow())
            self._group.create_task(self._look_into_rumours())
            self._group.create_task(self._tend())

    async def _follow(self) -> None:
        """Takes over what the registry reports, until it is closed."""
        while True:
            try:
                async for snapshot in self._registry.watch():
                    self._adopt(shards_of(snapshot, self._shards, self._partitions))
            except HitherError as error:
                _log.warning("bus_registry_away", reason=error.reason)
                await asyncio.sleep(_WATCH_AGAIN_S)
            else:
                return

    async def _look_into_rumours(self) -> None:
        """Asks the registry whether a newer ring that a server keeps is one; where there is no answer, believes the server."""
        while True:
            await self._rumoured.wait()
            self._rumoured.clear()
            rumour, self._rumour = self._rumour, None
            if rumour is None:
                continue
            try:
                async with asyncio.timeout(self._settings.timeout_s):
                    snapshot = await self._registry.snapshot()
            except (HitherError, TimeoutError):
                self._adopt(rumour)
                continue
            self._adopt(shards_of(snapshot, self._shards, self._partitions))
            if snapshot.revision < rumour.revision:
                # The registry has begun anew since, and its revisions with it.
                _log.warning("bus_ring_of_another_time", revision=snapshot.revision, kept=rumour.revision)
                await asyncio.gather(*(self._tell(member, force="1") for member in self._members.values()))

    def _adopt(self, shards: Shards) -> None:
        if shards.revision <= self._shards.revision:
            return
        before, self._shards = self._shards, shards
        if shards.has_servers_of(before):
            return
        self._placed_revision = shards.revision
        now_s = asyncio.get_running_loop().time()
        for address in shards.weights:
            if address not in self._members:
                self._start(address)
            self._members[address].left_s = None
        for address in before.weights.keys() - shards.weights.keys():
            self._members[address].left_s = now_s
        SERVERS.set(len(shards.weights))
        _log.info("bus_servers", servers=sorted(shards.weights), revision=shards.revision)
        self._changed.set()
        if shards.weights:
            self._seen.set()

    def _start(self, address: str) -> None:
        assert self._group is not None
        guard = Guard(self._ring_key, self._allows)
        server = BusServer(self._url_of(address), self._settings, self._frames, self, guard)
        task = self._group.create_task(server.run(), name=f"redis-bus {address}")
        self._members[address] = _Member(server, task)
        self._addresses[server] = address
        server.listen(RING_TOPIC)

    # Moving topics

    async def _tend(self) -> None:
        """Moves topics after each change, and lets go of where they were when that is safe."""
        while True:
            if self._is_settled():
                await self._changed.wait()
            if self._changed.is_set():
                self._changed.clear()
                await self._move_topics()
            if await self._changes_within(_SETTLE_S):
                continue
            await asyncio.gather(*(self._tell(member) for member in self._members.values()))
            await self._let_go_of_topics()
            await self._let_go_of_servers()

    def _is_settled(self) -> bool:
        left = any(member.left_s is not None for member in self._members.values())
        behind = any(member.server.is_live and self._is_behind(member) for member in self._members.values())
        return not (self._moving or behind or (left and self._shards.owners))

    def _is_behind(self, member: _Member) -> bool:
        return member.told_revision < self._placed_revision or member.has_news

    async def _move_topics(self) -> None:
        for number, (topic, listened) in enumerate(list(self._listened.items()), 1):
            if not self._shards.owners:
                return
            if self._listened.get(topic) is listened:
                self._move(topic, listened)
            if number % _TOPICS_AT_ONCE == 0:
                await asyncio.sleep(0)

    async def _changes_within(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                await self._changed.wait()
        except TimeoutError:
            return False
        return True

    async def _tell(self, member: _Member, force: str = "0") -> None:
        """Has the server keep this ring, or learns of a newer one there."""
        server = member.server
        if not server.is_live or not (self._is_behind(member) or force == "1"):
            return
        try:
            with engine_errors():
                async with asyncio.timeout(self._settings.timeout_s):
                    await self._tell_live(member, force)
        except HitherError as error:
            _log.debug("bus_ring_not_told", reason=error.reason)

    async def _tell_live(self, member: _Member, force: str) -> None:
        shards, publisher = self._shards, member.server.publisher
        packed = shards.packed()
        answer = await publisher.evaluate(KEEP_NEWEST, self._ring_key, shards.revision, packed, force)
        if isinstance(answer, bytes) and self._hear_of(answer):
            return
        member.told_revision = shards.revision
        member.has_news = member.has_news or answer == 1
        if member.has_news:
            await member.server.publish(RING_TOPIC, packed)
            member.has_news = False

    async def _let_go_of_topics(self) -> None:
        for number, topic in enumerate(list(self._moving), 1):
            listened = self._listened.get(topic)
            if listened is not None and listened.home.hears(topic):
                for server in [old for old in listened.old if self._may_let_go(old)]:
                    server.forget(topic)
                    listened.old.discard(server)
                if not listened.old:
                    listened.newest = None
                    self._moving.discard(topic)
            if number % _TOPICS_AT_ONCE == 0:
                await asyncio.sleep(0)

    def _may_let_go(self, server: BusServer) -> bool:
        """Whether nobody can publish there without noticing that it is the wrong place, or nobody can reach it."""
        member = self._members[self._addresses[server]]
        return not self._is_behind(member) or self._is_abandoned(member)

    def _is_abandoned(self, member: _Member) -> bool:
        now_s = asyncio.get_running_loop().time()
        return member.left_s is not None and not member.server.is_live and now_s - member.left_s >= _ABANDON_S

    async def _let_go_of_servers(self) -> None:
        """Closes those that have left the ring and that no topic needs."""
        left = {address: one for address, one in self._members.items() if one.left_s is not None}
        if not left:
            return
        needed = {server for one in self._listened.values() for server in (one.home, *one.old)}
        for address, member in left.items():
            if member.server in needed or not self._may_let_go(member.server):
                continue
            del self._members[address], self._addresses[member.server]
            member.task.cancel()
            await asyncio.wait([member.task])
            with engine_errors():
                await member.server.close()

    # Beginning and end

    async def _wait_live(self, timeout_s: float) -> None:
        try:
            async with asyncio.timeout(timeout_s):
                await self._seen.wait()
                for member in list(self._members.values()):
                    await member.server.listener.live.wait()
        except TimeoutError:
            pass
        if not any(member.server.is_live for member in self._members.values()):
            raise Unavailable("No server of the bus answers.", reason="ENGINE_DOWN", retry_after_s=1.0)

    def _check_open(self) -> None:
        if self._ended:
            raise closed()

    def _note_end(self, running: asyncio.Task[None]) -> None:
        """Every later call says so."""
        self._ended = True
        note_end(running)
