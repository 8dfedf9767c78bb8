"""A bus's dealings with one server (or with whoever is the primary of some Sentinels): topics are listened to, news go out and
come in, and a server that went away is found again with all topics.
"""

import asyncio
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Protocol

import structlog

from services.storage.redis.connections import RedisSettings, away
from services.storage.redis.frames import PUBLISHER_BYTES, Frame, Newest, unpacked
from services.storage.redis.listener import Listener
from services.storage.redis.metrics import BUGS, IGNORED
from services.storage.redis.publisher import Guard, Publisher

_MOST_PUBLISHERS = 10_000
_TOPICS_AT_ONCE = 500
"""Topics after which others on the event loop have their turn."""

_log = structlog.get_logger(__name__)


class Frames:
    """Makes a bus's frames. It counts them over all its servers."""

    def __init__(self) -> None:
        self.publisher = os.urandom(PUBLISHER_BYTES)
        self._numbers = count(1)

    def frame(self, payload: bytes) -> Frame:
        """The next one."""
        return Frame(self.publisher, next(self._numbers), payload)


class Bus(Protocol):
    """Whom a server serves. Nothing here blocks or raises."""

    def heard(self, server: "BusServer", topic: str, frame: Frame) -> None:
        """What was published, in the server's order; of each publisher, what is newer than all before."""

    def listening(self, server: "BusServer", topic: str) -> None:
        """The topic is listened to from now on: the first time, or again, after what was published meanwhile was lost."""


@dataclass(slots=True)
class _Heard:
    """A topic that is to be listened to: whether the server knows, and the news of ours that have not come back."""

    is_confirmed: bool = False
    echoes: dict[int, asyncio.Future[None]] = field(default_factory=dict)


class BusServer:
    """Belongs to a bus, which runs `run` as a task."""

    def __init__(self, url: str, settings: RedisSettings, frames: Frames, bus: Bus, guard: Guard | None = None) -> None:
        self._settings = settings
        self._frames = frames
        self._bus = bus
        self._newest = Newest(_MOST_PUBLISHERS)
        self._heard: dict[str, _Heard] = {}
        self.publisher = Publisher(url, settings, guard)
        self.listener = Listener(url, settings, self)

    @property
    def is_live(self) -> bool:
        """Whether all topics were listened to when the server was last heard of."""
        return self.listener.live.is_set()

    async def run(self) -> None:
        """Keeps up with the server, until cancelled."""
        async with asyncio.TaskGroup() as parts:
            parts.create_task(self.listener.run())
            parts.create_task(self.publisher.run())

    async def close(self) -> None:
        """Lets go of the server; what waits for it ends as Unavailable. `run` has ended before."""
        self.lost()
        await self.publisher.close()

    def listen(self, topic: str) -> None:
        """Begins to listen, at once or when the server is back; the bus is told when it is so."""
        heard = self._heard[topic] = _Heard()
        asked = self.listener.subscribe(self._channel(topic))
        if asked is not None:
            asked.add_done_callback(lambda asked: self._note_answer(asked, topic, heard))

    def forget(self, topic: str) -> None:
        """Ceases to listen, some time soon."""
        heard = self._heard.pop(topic, None)
        if heard is None:
            return
        self.listener.unsubscribe(self._channel(topic))
        for echo in heard.echoes.values():
            if not echo.done():
                echo.set_result(None)

    def hears(self, topic: str) -> bool:
        """Whether what is published on the topic from now on comes here."""
        return self.is_live and topic in self._heard and self._heard[topic].is_confirmed

    async def publish(self, topic: str, payload: bytes) -> None:
        """Returns when it is given to who listens; if that is also this bus, when it has come back here. Raises Unavailable,
        and ResourceExhausted if too much waits to be sent.
        """
        frame = self._frames.frame(payload)
        heard = self._heard.get(topic)
        if heard is not None and not self.is_live:
            raise away()
        if heard is None or not heard.is_confirmed:
            await self.publisher.publish(self._channel(topic), frame.packed())
        else:
            await self._publish_and_hear(topic, frame, heard)

    async def _publish_and_hear(self, topic: str, frame: Frame, heard: _Heard) -> None:
        echo: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heard.echoes[frame.number] = echo
        try:
            await self.publisher.publish(self._channel(topic), frame.packed())
            await echo
        finally:
            del heard.echoes[frame.number]
            if echo.done() and not echo.cancelled():
                echo.exception()  # seen, also if publishing failed before

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
        self._bus.heard(self, topic, frame)
        heard = self._heard.get(topic)
        if heard is None or frame.publisher != self._frames.publisher:
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

    async def confirmed(self, channels: Sequence[str]) -> None:
        """See Audience."""
        for number, channel in enumerate(channels, 1):
            topic = channel.removeprefix(self._settings.prefix)
            if topic in self._heard:
                self._confirm(topic, self._heard[topic])
            if number % _TOPICS_AT_ONCE == 0:
                await asyncio.sleep(0)

    def _note_answer(self, asked: asyncio.Future[None], topic: str, heard: _Heard) -> None:
        if asked.cancelled() or asked.exception() is not None:
            return  # the connection broke, and all topics are asked for when it is back
        if self._heard.get(topic) is heard:
            self._confirm(topic, heard)

    def _confirm(self, topic: str, heard: _Heard) -> None:
        heard.is_confirmed = True
        self._bus.listening(self, topic)

    def _channel(self, topic: str) -> str:
        return self._settings.prefix + topic


def note_end(running: asyncio.Task[None]) -> None:
    """Neither part of a bus ends by itself: if one did, that is a bug."""
    if not running.cancelled() and running.exception() is not None:
        BUGS.inc()
        _log.error("bus_ended", exc_info=running.exception())
