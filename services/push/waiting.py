"""Waiting for news, or for a while."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

import structlog

from discovery.errors import HitherError
from services.push import metrics
from services.push.breaker import pause_s
from services.push.pipeline_settings import PushPipelineSettings

T = TypeVar("T")
_log = structlog.get_logger("hither.push")


async def wait_until(news: asyncio.Event, pause_s: float | None) -> None:
    """Returns when there is news, or after the pause; None: only then."""
    if pause_s is None:
        await news.wait()
        return
    try:
        async with asyncio.timeout(pause_s):
            await news.wait()
    except TimeoutError:
        pass


async def until_answered(
    asked: str, ask: Callable[[], Awaitable[T]], settings: PushPipelineSettings, rng: random.Random
) -> T:
    """Asks an engine again and again, with longer pauses, until it answers."""
    failures = 0
    while True:
        try:
            async with asyncio.timeout(settings.engine_timeout_s):
                return await ask()
        except (HitherError, TimeoutError) as error:
            failures += 1
            metrics.ENGINE_FAILURES.labels(asked).inc()
            _log.warning("engine.failed", asked=asked, failures=failures, error=str(error))
        await asyncio.sleep(min(settings.engine_retry_max_s, pause_s(failures, settings, rng)))
