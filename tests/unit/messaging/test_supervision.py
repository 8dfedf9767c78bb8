"""A projection is kept running, until it is told to end."""

import asyncio

import pytest

from services.messaging.settings import MessagingSettings
from services.messaging.supervision import Status, keep_running


async def test_a_projection_that_fails_while_it_is_cancelled_is_not_started_again() -> None:
    runs = 0

    async def fails_at_the_end() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise ConnectionError("the engine has gone, too") from None

    async def run() -> None:
        nonlocal runs
        runs += 1
        async with asyncio.TaskGroup() as group:
            group.create_task(fails_at_the_end())

    settings = MessagingSettings(retry_min_s=0.001, retry_max_s=0.001)
    keeping = asyncio.create_task(keep_running(run, Status("conversations", 0), settings))
    await asyncio.sleep(0)
    await asyncio.sleep(0)

    keeping.cancel()

    async with asyncio.timeout(30):
        with pytest.raises(asyncio.CancelledError):
            await keeping
    assert runs == 1
