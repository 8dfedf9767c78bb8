"""The connection over which news come from Redis: kept, watched, and made anew with all its subscriptions when it breaks."""

import asyncio
import random
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import structlog
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

from services.own_task import in_its_own_task
from services.storage.redis.connections import RedisSettings, away, heed_cancellation, pool_of
from services.storage.redis.metrics import BUGS, LINKS, LOSSES

_log = structlog.get_logger(__name__)
_CHANNELS_AT_ONCE = 500
_NEWS_AT_ONCE = 64
"""News after which others on the event loop have their turn."""
_FIRST_PAUSE_S = 0.05


class Audience(Protocol):
    """What a listener serves. Nothing here blocks or raises."""

    def channels(self) -> Iterable[str]:
        """Those to listen to after coming back."""

    def heard(self, channel: str, data: bytes) -> None:
        """Called with what was published, in the server's order."""

    def lost(self) -> None:
        """The connection broke: what is published from now on is not heard until `confirmed` again."""

    async def confirmed(self, channels: Sequence[str]) -> None:
        """The server has said that these are listened to, after coming back. Returns soon."""


class _Link:
    """One connection, from its making to its end. Commands go out in order, and the server confirms them in order."""

    def __init__(self, connection: AbstractConnection) -> None:
        self.connection = connection
        self.waiting: deque[tuple[str, str, asyncio.Future[None]]] = deque()
        self.some_wait = asyncio.Event()
        self.unconfirmed: deque[asyncio.Future[None]] = deque()
        self.is_quiet = False

    def ask(self, command: str, channel: str) -> asyncio.Future[None]:
        """Has the command sent; the future is done when the server confirms it, or with Unavailable if it never will."""
        confirmed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.waiting.append((command, channel, confirmed))
        self.some_wait.set()
        return confirmed

    def end(self) -> None:
        """Ends what was not confirmed as Unavailable."""
        for confirmed in (*self.unconfirmed, *(confirmed for _, _, confirmed in self.waiting)):
            if not confirmed.done():
                confirmed.set_exception(away())
                confirmed.exception()  # seen, also if nobody waits


class Listener:
    """Belongs to a bus, which runs `run` as a task."""

    def __init__(self, url: str, settings: RedisSettings, audience: Audience) -> None:
        self._pool = pool_of(url, 1, settings)
        self._settings = settings
        self._audience = audience
        self._link: _Link | None = None
        self._failures = 0
        self.live = asyncio.Event()
        """Set while all channels are listened to."""

    def subscribe(self, channel: str) -> asyncio.Future[None] | None:
        """Begins to listen; the future is done when the server has confirmed it, or with Unavailable if the connection breaks.
        None while there is no connection: the audience is told of the channel when there is.
        """
        return None if self._link is None else self._link.ask("SUBSCRIBE", channel)

    def unsubscribe(self, channel: str) -> None:
        """Ceases to listen, some time soon."""
        if self._link is not None:
            self._link.ask("UNSUBSCRIBE", channel)

    async def run(self) -> None:
        """Keeps the connection, until cancelled."""
        try:
            await self._keep()
        finally:
            await self._pool.aclose()

    async def _keep(self) -> None:
        while True:
            try:
                await in_its_own_task(self._keep_one())
            except* (RedisError, OSError) as errors:
                self._note_loss(errors)
            except* Exception:  # noqa: BLE001 - a bug must not leave the process deaf; the news that met it is gone
                BUGS.inc()
                _log.exception("bus_listener_failed")
            self._failures += 1
            longest_s = min(_FIRST_PAUSE_S * 2 ** min(self._failures, 10), self._settings.reconnect_most_s)
            await asyncio.sleep(random.uniform(0, longest_s))  # noqa: S311 - who lost one server must not come back at once

    def _note_loss(self, errors: BaseExceptionGroup[Exception]) -> None:
        if self._failures:
            return
        LOSSES.inc()
        _log.warning("bus_lost", errors=[type(error).__name__ for error in errors.exceptions])

    async def _keep_one(self) -> None:
        """One connection's life. Returns never; raises what ended it."""
        connection: AbstractConnection = self._pool.make_connection()  # type: ignore[no-untyped-call]
        link = _Link(connection)
        try:
            await connection.connect()  # type: ignore[no-untyped-call]
            heed_cancellation()
            self._link = link
            async with asyncio.TaskGroup() as parts:
                parts.create_task(self._read(link))
                parts.create_task(self._write(link))
                parts.create_task(self._resubscribe(link))
        finally:
            self._end(link)
            await connection.disconnect(nowait=True)

    def _end(self, link: _Link) -> None:
        self._link = None
        if self.live.is_set():
            self.live.clear()
            LINKS.dec()
        link.end()
        self._audience.lost()

    async def _resubscribe(self, link: _Link) -> None:
        """Says that the link is live when the server has confirmed every channel. It may take long over many; that the server
        goes on answering is the reader's care.
        """
        channels = list(self._audience.channels())
        confirmed = [link.ask("SUBSCRIBE", channel) for channel in channels]
        for one in confirmed:
            await one
        self.live.set()
        LINKS.inc()
        if self._failures:
            _log.info("bus_back", channels=len(channels))
        self._failures = 0
        await self._audience.confirmed(channels)

    async def _write(self, link: _Link) -> None:
        while True:
            heed_cancellation()
            await link.some_wait.wait()
            link.some_wait.clear()
            if link.is_quiet:
                await link.connection.send_command("PING", check_health=False)
            while link.waiting:
                await link.connection.send_command(*_take(link), check_health=False)

    async def _read(self, link: _Link) -> None:
        in_a_row = 0
        while True:
            heed_cancellation()
            answer = await link.connection.read_response(timeout=self._settings.heartbeat_s, disconnect_on_error=False)
            if answer is None:
                self._ask_whether_it_is_there(link)
                continue
            link.is_quiet = False
            self._take_answer(link, answer)
            in_a_row += 1
            if in_a_row % _NEWS_AT_ONCE == 0:
                await asyncio.sleep(0)

    def _ask_whether_it_is_there(self, link: _Link) -> None:
        if link.is_quiet:
            raise RedisConnectionError("the server has been quiet for two heartbeats")
        link.is_quiet = True
        link.some_wait.set()

    def _take_answer(self, link: _Link, answer: Any) -> None:
        match answer:
            case [b"message", bytes(channel), bytes(data)]:
                self._audience.heard(channel.decode(errors="replace"), data)
            case [b"subscribe" | b"unsubscribe", _, _]:
                confirmed = link.unconfirmed.popleft()
                if not confirmed.done():
                    confirmed.set_result(None)
            case [b"pong", *_] | b"PONG":
                pass
            case _:
                raise RedisConnectionError("an answer that nobody asked for")


def _take(link: _Link) -> list[str]:
    """The commands that wait first and are of one kind, as one; from now on their confirmations are awaited."""
    command = link.waiting[0][0]
    parts = [command]
    while link.waiting and link.waiting[0][0] == command and len(parts) <= _CHANNELS_AT_ONCE:
        _, channel, confirmed = link.waiting.popleft()
        parts.append(channel)
        link.unconfirmed.append(confirmed)
    return parts
