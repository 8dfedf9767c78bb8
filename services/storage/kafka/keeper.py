"""Owns the tasks of a log: none is lost, and none dies unseen."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import NoReturn

import structlog

_log = structlog.get_logger("hither.storage.kafka")


class Keeper:
    """Runs tasks that never return. When one dies of something that it did not expect, `on_death` is told, once for each."""

    def __init__(self, on_death: Callable[[BaseException], None]) -> None:
        self._on_death = on_death
        self._tasks: set[asyncio.Task[NoReturn]] = set()

    def start(self, work: Coroutine[None, None, NoReturn], name: str) -> None:
        """Begins it."""
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def stop(self) -> None:
        """Cancels all."""
        for task in self._tasks:
            task.cancel()

    async def close(self) -> None:
        """Cancels all, and returns when they have ended."""
        self.stop()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _ended(self, task: "asyncio.Task[NoReturn]") -> None:
        self._tasks.discard(task)
        if task.cancelled():
            return
        error = task.exception()
        assert error is not None
        _log.error("kafka.task_died", task=task.get_name(), exc_info=error)
        self._on_death(error)
