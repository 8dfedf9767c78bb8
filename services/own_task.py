"""Work in a task of its own, whose cancellation nothing in the work can hide."""

import asyncio
from collections.abc import Coroutine
from typing import TypeVar

import structlog

T = TypeVar("T")
_log = structlog.get_logger(__name__)


async def in_its_own_task(work: Coroutine[None, None, T]) -> T:
    """The outcome of the work. Cancelled, it cancels the work, waits for its end, and is cancelled for sure.

    For loops that go on after whatever the work raised, if that holds task groups: on Python before 3.13 a group whose children
    fail while it is being cancelled raises only what they raised (https://github.com/python/cpython/issues/116720). A
    loop in the same task would take that for all there is, and never end.
    """
    task = asyncio.ensure_future(work)
    try:
        await asyncio.wait([task])
    finally:
        if not task.done():
            task.cancel()
            await asyncio.wait([task])
            if not task.cancelled() and (error := task.exception()) is not None:
                _log.warning("failed while it was cancelled", error=describe(error))
        elif not task.cancelled():
            task.exception()  # seen, also if the wait for it was cancelled at that very moment
    if task.cancelled():  # by itself: a task that ends so would end everybody who waits for it, without a word
        raise RuntimeError("the work was cancelled from inside")
    return task.result()


def describe(error: BaseException) -> str:
    """The error in a line, or the first of a group: for the log and for operators."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return f"{type(error).__name__}: {error}"
