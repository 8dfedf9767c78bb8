"""Says in the registry that a Redis serves the bus, for as long as it answers.

A keeper runs beside each such Redis. It is the only one that judges whether the server is there: so all processes see one list,
and agree on where each topic is. When the keeper dies, the registry forgets the server with the keeper's lease.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Self
from urllib.parse import urlsplit

import structlog
from redis.asyncio import Redis

from discovery.errors import HitherError, Unavailable
from discovery.registry.port import Instance, Registry
from services.storage.redis.connections import RedisSettings, engine_errors, heed_cancellation, pool_of
from services.storage.redis.shards import SERVICE

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class KeeperSettings:
    """When a server counts as there. All times are more than 0."""

    every_s: float = 1.0
    """How often it is asked."""
    answer_s: float = 1.0
    """How long it may take to answer, and the registry too."""
    silent_s: float = 3.0
    """After so long without an answer it is withdrawn."""
    lease_s: float = 5.0
    """How long it stands in the registry when its keeper is gone."""


class BusServerKeeper:
    """Keeps one server announced. Made by `of`."""

    def __init__(
        self,
        registry: Registry,
        client: Redis,
        instance: Instance,
        on_change: Callable[[bool], None],
        settings: KeeperSettings,
    ) -> None:
        self._registry = registry
        self._client = client
        self._instance = instance
        self._on_change = on_change
        self._settings = settings
        self._lease = 0
        self._answered_s = 0.0

    @classmethod
    def of(
        cls,
        registry: Registry,
        url: str,
        *,
        weight: int = 100,
        advertise: str = "",
        on_change: Callable[[bool], None] = lambda _: None,
        settings: KeeperSettings | None = None,
    ) -> Self:
        """For a server at "redis://HOST:PORT", in the registry as HOST:PORT or as `advertise`, where other machines reach it;
        `weight` (1 to 1000) is its share of the topics. `on_change` is told whether it is announced. Raises ValueError.
        """
        chosen = settings or KeeperSettings()
        parts = urlsplit(url)
        if parts.scheme not in ("redis", "rediss") or not parts.hostname:
            raise ValueError(f"a server of the bus is redis://HOST:PORT, not {parts.scheme}://...")
        address = advertise or f"{parts.hostname}:{parts.port or 6379}"
        client = Redis.from_pool(pool_of(url, 1, RedisSettings(timeout_s=chosen.answer_s)))
        return cls(registry, client, Instance(SERVICE, address, address, weight=weight), on_change, chosen)

    async def run(self) -> None:
        """Works until cancelled; then withdraws the server."""
        self._answered_s = self._now_s()
        try:
            while True:
                await self._look()
                heed_cancellation()
                await asyncio.sleep(self._settings.every_s)
        finally:
            await self._withdraw()
            with engine_errors():
                await self._client.aclose()

    async def _look(self) -> None:
        if await self._answers():
            self._answered_s = self._now_s()
        elif self._now_s() - self._answered_s >= self._settings.silent_s or not self._lease:
            await self._withdraw()
            return
        try:
            async with _within(self._settings.answer_s):
                await self._announce()
        except HitherError as error:
            _log.warning("bus_server_not_announced", reason=error.reason)

    async def _answers(self) -> bool:
        try:
            with engine_errors():
                async with asyncio.timeout(self._settings.answer_s):
                    await self._client.ping()
        except Unavailable:
            return False
        return True

    async def _announce(self) -> None:
        """Renews the lease, or takes a new one and registers the server under it."""
        if self._lease and await self._registry.keep_alive(self._lease):
            return
        self._lease = 0
        lease = await self._registry.grant(self._settings.lease_s)
        if await self._registry.put(self._instance, lease):
            self._lease = lease
            _log.info("bus_server_announced", address=self._instance.address)
            self._on_change(True)

    async def _withdraw(self) -> None:
        """Ends the lease. A registry that is away lets it run out."""
        if not self._lease:
            return
        lease, self._lease = self._lease, 0
        _log.warning("bus_server_withdrawn", address=self._instance.address)
        self._on_change(False)
        try:
            async with _within(self._settings.answer_s):
                await self._registry.revoke(lease)
        except HitherError as error:
            _log.warning("bus_server_not_withdrawn", reason=error.reason)

    def _now_s(self) -> float:
        return asyncio.get_running_loop().time()


@asynccontextmanager
async def _within(seconds: float) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError:
        raise Unavailable("the registry did not answer in time") from None
