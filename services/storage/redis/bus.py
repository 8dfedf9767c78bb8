"""The bus on Redis Pub/Sub.

A process hears its own news from the server too, as everybody does: so all who listen to a topic hear its news in one order, the
server's, and the newest is the same for all. Publishing waits for that echo where this process listens.
"""

import asyncio
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import count
from typing import Self

import structlog

from discovery.errors import InvalidArgument, ResourceExhausted, Unavailable
from services.ports.bus import Handler
from services.storage.redis.connections import RedisSettings, away, engine_errors
from services.storage.redis.frames import PUBLISHER_BYTES, Frame, Newest, unpacked
from services.storage.redis.listener import Listener
from services.storage.redis.metrics import BUGS, IGNORED
from services.storage.redis.publisher import Publisher
from services.storage.topics import Topics, TopicSubscription

_MOST_PAYLOAD_BYTES = 64 * 1024
_MOST_PUBLISHERS = 10_000

_log = structlog.get_logger(__name__)


@dataclass(slots=True)
class _Heard:
    """A topic that this process listens to: whether the server knows, and the news of ours that have not come back."""

    confirmed: asyncio.Future[None]
    echoes: dict[int, asyncio.Future[None]] = field(default_factory=dict)

    @property
    def is_sure(self) -> bool:
        """Whether what is published from now on comes back."""
        return self.confirmed.done() and self.confirmed.exception() is None


class RedisBus:
    """See services.ports.bus.Bus. Made by `open`.

    While the server is away it raises Unavailable and tries to come back by itself; what was published meanwhile was lost.
    Subscriptions live on over that. Publishing raises Unavailable too if the news may have gone out, but did not come back
    here. A subscriber that falls so far behind that the server ends the connection loses what was on its way.
    """

    def __init__(self, url: str, settings: RedisSettings) -> None:
        self._settings = settings
        self._id = os.urandom(PUBLISHER_BYTES)
        self._numbers = count(1)
        self._newest = Newest(_MOST_PUBLISHERS)
        self._topics = Topics(self._forget)
        self._heard: dict[str, _Heard] = {}
        self._publisher = Publisher(url, settings)
        self._listener = Listener(url, settings, self)
        self._ended = False
        self._running: asyncio.Task[None] | None = None

    @classmethod
    async def open(cls, url: str, settings: RedisSettings | None = None) -> Self:
        """Connects to "redis://...", "rediss://..." or "unix://...". Raises ValueError for other URLs, and Unavailable."""
        chosen = settings or RedisSettings()
        bus = cls(url, chosen)
        bus._start()
        try:
            with engine_errors():
                async with asyncio.timeout(chosen.timeout_s):
                    await bus._listener.live.wait()
        except BaseException:
            await bus.close()
            raise
        return bus

    async def publish(self, topic: str, payload: bytes) -> None:
        """See Bus. Raises ResourceExhausted if too much waits to be sent."""
        self._check_open()
        if len(payload) > _MOST_PAYLOAD_BYTES:
            raise InvalidArgument(f"A payload of {len(payload)} bytes is larger than {_MOST_PAYLOAD_BYTES}.")
        heard = self._heard.get(topic)
        if heard is not None and not self._listener.live.is_set():
            raise away()
        frame = Frame(self._id, next(self._numbers), payload)
        with engine_errors():
            async with asyncio.timeout(self._settings.timeout_s):
                if heard is None or not heard.is_sure:
                    await self._publisher.publish(self._channel(topic), frame.packed())
                else:
                    await self._publish_and_hear(topic, frame, heard)

    async def subscribe(self, topic: str, handler: Handler) -> TopicSubscription:
        """See Bus. Raises ResourceExhausted if this process listens to too many topics."""
        self._check_open()
        heard = self._heard.get(topic)
        if heard is None:
            if len(self._heard) >= self._settings.topics_most:
                raise ResourceExhausted("The bus listens to too many topics.")
            heard = self._heard[topic] = _Heard(self._listener.subscribe(self._channel(topic)))
        subscription = self._topics.add(topic, handler)
        try:
            with engine_errors():
                async with asyncio.timeout(self._settings.timeout_s):
                    await asyncio.shield(heard.confirmed)
        except BaseException:
            await subscription.close()
            raise
        return subscription

    async def close(self) -> None:
        """See Bus. May be called twice."""
        self._ended = True
        self.lost()
        self._topics.clear()
        self._heard.clear()
        if self._running is None:
            return
        running, self._running = self._running, None
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)  # how it ended was noted
        with engine_errors():
            await self._publisher.close()

    def channels(self) -> Iterable[str]:
        """See Audience."""
        return [self._channel(topic) for topic in self._heard]

    def heard(self, channel: str, data: bytes) -> None:
        """See Audience."""
        frame = unpacked(data)
        if frame is None:
            IGNORED.labels("unknown").inc()
            return
        if not self._newest.takes(frame):
            IGNORED.labels("late").inc()
            return
        topic = channel.removeprefix(self._settings.prefix)
        self._topics.run(topic, frame.payload)
        heard = self._heard.get(topic)
        if heard is None or frame.publisher != self._id:
            return
        echo = heard.echoes.get(frame.number)
        if echo is not None and not echo.done():
            echo.set_result(None)

    def lost(self) -> None:
        """See Audience."""
        for heard in self._heard.values():
            for echo in heard.echoes.values():
                if not echo.done():
                    echo.set_exception(away())

    async def _publish_and_hear(self, topic: str, frame: Frame, heard: _Heard) -> None:
        echo: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heard.echoes[frame.number] = echo
        try:
            await self._publisher.publish(self._channel(topic), frame.packed())
            await echo
        finally:
            del heard.echoes[frame.number]
            if echo.done() and not echo.cancelled():
                echo.exception()  # seen, also if publishing failed before

    def _forget(self, topic: str) -> None:
        """Nobody listens to the topic here any more."""
        heard = self._heard.pop(topic)
        self._listener.unsubscribe(self._channel(topic))
        for echo in heard.echoes.values():
            if not echo.done():
                echo.set_result(None)

    def _channel(self, topic: str) -> str:
        return self._settings.prefix + topic

    def _check_open(self) -> None:
        if self._ended:
            raise Unavailable("The bus is closed.", reason="ENGINE_DOWN")

    def _start(self) -> None:
        self._running = asyncio.create_task(self._run(), name="redis-bus")
        self._running.add_done_callback(self._note_end)

    async def _run(self) -> None:
        async with asyncio.TaskGroup() as parts:
            parts.create_task(self._listener.run())
            parts.create_task(self._publisher.run())

    def _note_end(self, running: asyncio.Task[None]) -> None:
        """Neither part ends by itself: if one did, every later call says so."""
        self._ended = True
        if not running.cancelled() and running.exception() is not None:
            BUGS.inc()
            _log.error("bus_ended", exc_info=running.exception())
