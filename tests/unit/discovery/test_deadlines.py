import asyncio
import time

import pytest

from discovery.rpc.deadlines import Deadlines


async def test_a_deadline_cancels_its_task_when_it_comes() -> None:
    deadline = Deadlines().start(time.monotonic() + 0.02)

    with pytest.raises(asyncio.CancelledError):
        await asyncio.Event().wait()

    assert deadline.stop()


async def test_a_stopped_deadline_does_nothing() -> None:
    deadlines = Deadlines()
    now_s = time.monotonic()
    stopped = deadlines.start(now_s + 0.02)
    assert not stopped.stop()
    later = deadlines.start(now_s + 0.05)

    with pytest.raises(asyncio.CancelledError):
        await asyncio.Event().wait()

    assert time.monotonic() - now_s >= 0.045
    assert later.stop()


async def test_stopping_twice_tells_the_truth_once() -> None:
    deadline = Deadlines().start(time.monotonic() + 0.01)
    with pytest.raises(asyncio.CancelledError):
        await asyncio.Event().wait()

    assert [deadline.stop(), deadline.stop()] == [True, False]


async def test_a_task_that_somebody_else_cancels_too_stays_cancelled() -> None:
    told = []

    async def work() -> None:
        deadline = Deadlines().start(time.monotonic() + 0.01)
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
            told.append(deadline.stop())

    with pytest.raises(asyncio.CancelledError):
        await asyncio.create_task(work())

    assert told == [False]


async def test_deadlines_of_one_moment_share_a_timer() -> None:
    loop = asyncio.get_running_loop()
    timers = []
    deadlines = Deadlines()
    moment = time.monotonic() + 5
    original = loop.call_later
    loop.call_later = lambda *given: timers.append(original(*given))  # type: ignore[method-assign, assignment]
    try:
        started = [deadlines.start(moment) for _ in range(100)]
    finally:
        loop.call_later = original  # type: ignore[method-assign]

    assert len(timers) == 1
    for deadline in started:
        deadline.stop()
    timers[0].cancel()
