"""What cache and bus have in common: their limits, connections that never retry by themselves, and one error for all that a
driver may raise.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import structlog
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from discovery.errors import Unavailable

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class RedisSettings:
    """Limits of a cache or a bus. All counts are at least 1, all times more than 0."""

    prefix: str = "hither:"
    """Stands before every key and channel, for a Redis that others use too."""
    connections: int = 16
    """Connections of a cache at most; a bus has two."""
    calls_most: int = 10_000
    """Calls of a cache that run or wait for a connection; further ones are refused."""
    timeout_s: float = 2.0
    """How long a call may take, the wait for a connection included."""
    waiting_bytes_most: int = 16 * 1024 * 1024
    """Payloads of a bus that wait to be sent; further ones are refused."""
    topics_most: int = 500_000
    """Topics that a bus listens to; further ones are refused."""
    heartbeat_s: float = 5.0
    """After so long without news a bus asks whether its server is there, and gives it as long to answer."""
    reconnect_most_s: float = 2.0
    """The longest pause between two attempts to come back."""


def pool_of(url: str, connections: int, settings: RedisSettings) -> BlockingConnectionPool:
    """A pool for "redis://...", "rediss://..." or "unix://...". Raises ValueError for other URLs. Connects to nothing yet.

    Nothing is tried twice: a command whose answer was lost may have been carried out.
    """
    pool: BlockingConnectionPool = BlockingConnectionPool.from_url(
        url,
        max_connections=connections,
        timeout=settings.timeout_s,
        socket_timeout=settings.timeout_s,
        socket_connect_timeout=settings.timeout_s,
        retry=Retry(NoBackoff(), 0),
        protocol=2,
        driver_info=None,
    )
    return pool


def client_of(url: str, connections: int, settings: RedisSettings) -> Redis:
    """A client over a pool of its own; see `pool_of`."""
    return Redis.from_pool(pool_of(url, connections, settings))


@contextmanager
def engine_errors() -> Iterator[None]:
    """Turns what the driver raises in the block, and a time-out, into Unavailable (ENGINE_DOWN)."""
    try:
        yield
    except (RedisError, OSError) as error:
        _log.debug("redis_call_failed", error=type(error).__name__)
        raise away() from error


def away() -> Unavailable:
    """What a caller gets while the engine is away."""
    return Unavailable("Redis is away.", reason="ENGINE_DOWN", retry_after_s=1.0)
