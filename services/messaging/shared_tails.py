"""Tails in the cache that all instances share: what an owner finds of a conversation that it has not read itself yet.

The cache may be away, slow, empty or wrong: then a read goes on without it, after a moment at most, and the next ones do not ask
it for some seconds. What is found is never believed without the store's head: see tails.py.
"""

import asyncio
from typing import NoReturn

import structlog

from discovery.clock import Clock
from discovery.errors import HitherError
from services.messaging import metrics
from services.messaging.settings import MessagingSettings
from services.messaging.tails import Tail, decode_tail, encode_tail
from services.own_task import describe
from services.ports.cache import Cache

_MOST_BYTES = 256 * 1024
"""Bytes of a tail that is worth sharing: one of large messages would hold up the cache, and whoever reads from it, for longer
than it spares.
"""
_MOST_WAITING = 1_000
_MOST_AT_ONCE = 64
_STORE_TIMEOUT_S = 2.0
_log = structlog.get_logger("hither.messaging")


class SharedTails:
    """Tails by conversation over a Cache. What is offered is stored by run()."""

    def __init__(self, cache: Cache, clock: Clock, settings: MessagingSettings) -> None:
        self._cache = cache
        self._clock = clock
        self._ttl_s = settings.shared_tail_ttl_s
        self._timeout_s = settings.shared_tail_timeout_s
        self._pause_s = settings.shared_tail_pause_s
        self._away_until_s = float("-inf")
        self._waiting: dict[str, Tail] = {}
        self._news = asyncio.Event()

    async def find(self, conversation_id: str) -> Tail | None:
        """What the cache has; None also while it is left alone. Never raises what the cache raises."""
        if self._is_left_alone():
            return None
        try:
            async with asyncio.timeout(self._timeout_s):
                (value,) = await self._cache.get([_key(conversation_id)])
        except (HitherError, TimeoutError) as error:
            self._leave_alone(error)
            return None
        return decode_tail(value) if value else None

    def offer(self, conversation_id: str, tail: Tail) -> None:
        """Has the tail stored soon, of each conversation the last one.

        It is dropped if it is large, if too many wait, or while the cache is left alone.
        """
        full = len(self._waiting) >= _MOST_WAITING and conversation_id not in self._waiting
        if full or tail.size_bytes > _MOST_BYTES:
            metrics.SHARED_TAILS.labels("dropped").inc()
            return
        self._waiting[conversation_id] = tail
        self._news.set()

    async def run(self) -> NoReturn:
        """Stores what is offered, until cancelled."""
        while True:
            await self._news.wait()
            taken = {name: self._waiting.pop(name) for name in list(self._waiting)[:_MOST_AT_ONCE]}
            if not self._waiting:
                self._news.clear()
            if self._is_left_alone():
                metrics.SHARED_TAILS.labels("dropped").inc(len(taken))
                continue
            try:
                async with asyncio.timeout(_STORE_TIMEOUT_S):
                    await self._cache.set({_key(name): encode_tail(tail) for name, tail in taken.items()}, self._ttl_s)
            except (HitherError, TimeoutError) as error:
                self._leave_alone(error)
                metrics.SHARED_TAILS.labels("dropped").inc(len(taken))
            else:
                metrics.SHARED_TAILS.labels("stored").inc(len(taken))

    def _is_left_alone(self) -> bool:
        if self._clock.monotonic_s() >= self._away_until_s:
            return False
        metrics.SHARED_TAILS.labels("skipped").inc()
        return True

    def _leave_alone(self, error: BaseException) -> None:
        metrics.SHARED_TAILS.labels("failed").inc()
        if self._clock.monotonic_s() >= self._away_until_s:
            _log.warning("shared tails left alone", for_s=self._pause_s, error=describe(error))
        self._away_until_s = self._clock.monotonic_s() + self._pause_s


def _key(conversation_id: str) -> str:
    return f"messaging:tail:{conversation_id}"
