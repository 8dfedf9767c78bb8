"""Sends news to Redis in the order in which they were given: one batch at a time, of what gathered while the last travelled."""

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from discovery.errors import HitherError, ResourceExhausted
from services.storage.redis.connections import RedisSettings, away, heed_cancellation, pool_of
from services.storage.redis.metrics import BUGS

_log = structlog.get_logger(__name__)
_BATCH_MOST = 256
_BATCH_BYTES = 1024 * 1024
_ITEM_BYTES = 200
"""What an item weighs beside its data, about."""


@dataclass(slots=True)
class _Item:
    channel: str
    data: bytes
    sent: asyncio.Future[None]

    @property
    def weight(self) -> int:
        return len(self.data) + _ITEM_BYTES


@dataclass(frozen=True, slots=True)
class Guard:
    """What is asked after each batch: whether the value at `key` lets the batch count. If not, who published it is told that it
    failed, although it may have been heard.
    """

    key: str
    allows: Callable[[bytes | None], bool]


class Publisher:
    """Belongs to a bus, which runs `run` as a task."""

    def __init__(self, url: str, settings: RedisSettings, guard: Guard | None = None) -> None:
        # One connection, so that the server gets the batches in their order.
        self._client = Redis.from_pool(pool_of(url, 1, settings))
        self._settings = settings
        self._guard = guard
        self._waiting: deque[_Item] = deque()
        self._waiting_bytes = 0
        self._some_wait = asyncio.Event()

    async def publish(self, channel: str, data: bytes) -> None:
        """Returns when the server has given it to its subscribers. Who publishes first is sent first.

        Raises Unavailable, and ResourceExhausted if too much waits.
        """
        item = _Item(channel, data, asyncio.get_running_loop().create_future())
        if self._waiting_bytes + item.weight > self._settings.waiting_bytes_most:
            raise ResourceExhausted("Too many news wait to be published.", retry_after_s=1.0)
        self._waiting.append(item)
        self._waiting_bytes += item.weight
        self._some_wait.set()
        await item.sent

    async def evaluate(self, script: str, key: str, *arguments: str | bytes | int) -> object:
        """What a script answers about a key, in its turn between two batches. Raises what the driver does."""
        return await self._client.eval(script, 1, key, *arguments)

    async def run(self) -> None:
        """Sends, until cancelled."""
        while True:
            heed_cancellation()
            await self._some_wait.wait()
            batch = self._take()
            try:
                await self._send(batch)
            except (RedisError, OSError) as error:
                _log.debug("bus_publish_failed", error=type(error).__name__, news=len(batch))
            except Exception:  # noqa: BLE001 - who published is told, and the next batch may fare better
                BUGS.inc()
                _log.exception("bus_publisher_failed")
            finally:
                for item in batch:
                    _settle(item, away())

    async def close(self) -> None:
        """Lets the connection go and refuses what waits. `run` has ended before."""
        for item in self._waiting:
            _settle(item, away())
        self._waiting.clear()
        await self._client.aclose()

    def _take(self) -> list[_Item]:
        batch: list[_Item] = []
        size = 0
        while self._waiting and len(batch) < _BATCH_MOST and size < _BATCH_BYTES:
            item = self._waiting.popleft()
            self._waiting_bytes -= item.weight
            if item.sent.done():
                continue  # its publisher gave up
            size += item.weight
            batch.append(item)
        if not self._waiting:
            self._some_wait.clear()
        return batch

    async def _send(self, batch: list[_Item]) -> None:
        if not batch:
            return
        pipeline = self._client.pipeline(transaction=False)
        for item in batch:
            pipeline.publish(item.channel, item.data)
        if self._guard is not None:
            pipeline.get(self._guard.key)
        answers = await pipeline.execute(raise_on_error=False)
        if self._guard is not None:
            kept = answers.pop()
            if isinstance(kept, Exception) or not self._guard.allows(kept):
                return  # `run` refuses what is not settled
        for item, answer in zip(batch, answers, strict=True):
            _settle(item, away() if isinstance(answer, Exception) else None)


def _settle(item: _Item, error: HitherError | None) -> None:
    """Tells the publisher what became of it, unless it has been told or has gone."""
    if item.sent.done():
        return
    if error is None:
        item.sent.set_result(None)
    else:
        item.sent.set_exception(error)
