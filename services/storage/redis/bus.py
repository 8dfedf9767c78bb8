"""The bus on Redis Pub/Sub.

A process hears its own news from the server too, as everybody does: so all who listen to a topic hear its news in one order, the
server's, and the newest is the same for all. Publishing waits for that echo where this process listens.
"""

import asyncio
from typing import Self

from discovery.errors import InvalidArgument, ResourceExhausted, Unavailable
from services.ports.bus import Handler, OnGap
from services.storage.redis.connections import RedisSettings, away, engine_errors
from services.storage.redis.frames import Frame
from services.storage.redis.metrics import GAPS
from services.storage.redis.server import BusServer, Frames, note_end
from services.storage.topics import Topics, TopicSubscription

_MOST_PAYLOAD_BYTES = 64 * 1024


class RedisBus:
    """See services.ports.bus.Bus. Made by `open`.

    While the server is away it raises Unavailable and tries to come back by itself, on Sentinels to whoever is the primary
    then; what was published meanwhile was lost. Subscriptions live on over that, and are told of the gap. Publishing raises
    Unavailable too if the news may have gone out, but did not come back here. A subscriber that falls so far behind that
    the server ends the connection loses what was on its way, and is told as well.
    """

    def __init__(self, url: str, settings: RedisSettings) -> None:
        self._settings = settings
        self._server = BusServer(url, settings, Frames(), self)
        self._topics = Topics(self._forget)
        self._confirmed: dict[str, asyncio.Future[None]] = {}
        """For each topic: done when it was first listened to."""
        self._ended = False
        self._running: asyncio.Task[None] | None = None

    @classmethod
    async def open(cls, url: str, settings: RedisSettings | None = None) -> Self:
        """Connects to a URL of `services.storage.redis.connections` that is no Cluster's. Raises ValueError for other URLs,
        and Unavailable.
        """
        chosen = settings or RedisSettings()
        bus = cls(url, chosen)
        bus._start()
        try:
            with engine_errors():
                async with asyncio.timeout(chosen.timeout_s):
                    await bus._server.listener.live.wait()
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
                await self._server.publish(topic, payload)

    async def subscribe(self, topic: str, handler: Handler, on_gap: OnGap | None = None) -> TopicSubscription:
        """See Bus. Raises ResourceExhausted if this process listens to too many topics."""
        self._check_open()
        if not self._server.is_live:
            raise away()
        if topic not in self._confirmed:
            if len(self._confirmed) >= self._settings.topics_most:
                raise ResourceExhausted("The bus listens to too many topics.")
            self._confirmed[topic] = asyncio.get_running_loop().create_future()
            self._server.listen(topic)
        confirmed = self._confirmed[topic]
        subscription = self._topics.add(topic, handler, on_gap)
        try:
            with engine_errors():
                async with asyncio.timeout(self._settings.timeout_s):
                    await asyncio.shield(confirmed)
        except BaseException:
            await subscription.close()
            raise
        return subscription

    async def close(self) -> None:
        """See Bus. May be called twice."""
        self._ended = True
        self._server.lost()
        for confirmed in self._confirmed.values():
            refuse(confirmed)
        self._topics.clear()
        self._confirmed.clear()
        if self._running is None:
            return
        running, self._running = self._running, None
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)  # how it ended was noted
        with engine_errors():
            await self._server.close()

    def heard(self, server: BusServer, topic: str, frame: Frame) -> None:
        """See server.Bus."""
        self._topics.run(topic, frame.payload)

    def listening(self, server: BusServer, topic: str) -> None:
        """See server.Bus."""
        confirmed = self._confirmed.get(topic)
        if confirmed is None:
            return
        if not confirmed.done():
            confirmed.set_result(None)
            return
        GAPS.inc()
        self._topics.missed(topic)

    def _forget(self, topic: str) -> None:
        """Nobody listens to the topic here any more."""
        del self._confirmed[topic]
        self._server.forget(topic)

    def _check_open(self) -> None:
        if self._ended:
            raise closed()

    def _start(self) -> None:
        self._running = asyncio.create_task(self._server.run(), name="redis-bus")
        self._running.add_done_callback(self._note_end)

    def _note_end(self, running: asyncio.Task[None]) -> None:
        """Every later call says so."""
        self._ended = True
        note_end(running)


def check_payload(payload: bytes) -> None:
    """Raises InvalidArgument for one that is too large."""
    if len(payload) > _MOST_PAYLOAD_BYTES:
        raise InvalidArgument(f"A payload of {len(payload)} bytes is larger than {_MOST_PAYLOAD_BYTES}.")


def closed() -> Unavailable:
    """What a caller gets of a bus that was closed, or ended by a bug."""
    return Unavailable("The bus is closed.", reason="ENGINE_DOWN")


def refuse(confirmed: asyncio.Future[None]) -> None:
    """Ends a wait that a bus will not fulfil any more."""
    if not confirmed.done():
        confirmed.set_exception(closed())
        confirmed.exception()  # seen, also if nobody waits
