"""The keeper of live-location sessions while it runs."""

import asyncio

from services.sessions.live_keeper import LiveKeeper
from services.sessions.settings import SessionsSettings
from tests.support.clock import ManualClock
from tests.support.live import MemoryLiveSessions

_TURNS = 20
"""Of the loop, until the keeper has done what is due and waits."""


async def test_what_a_jump_of_the_clock_makes_due_is_done_soon() -> None:
    clock, tended = ManualClock(), asyncio.Event()

    async def tend(_session_id: str) -> int | None:
        tended.set()
        return None

    keeper = LiveKeeper(MemoryLiveSessions(), tend, lambda _: 0, clock, SessionsSettings())
    keeper.schedule("g.1~a", clock.now_ms() + 3600 * 1000)
    async with asyncio.TaskGroup() as group:
        running = group.create_task(keeper.run())
        for _ in range(_TURNS):
            await asyncio.sleep(0)
        clock.advance(3600)
        async with asyncio.timeout(30):
            await tended.wait()
        running.cancel()
