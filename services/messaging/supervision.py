"""Keeps a projection running, and knows how it fares."""

import asyncio
import random
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import NoReturn

import structlog

from services.messaging import metrics
from services.messaging.settings import MessagingSettings
from services.own_task import describe, in_its_own_task

_log = structlog.get_logger("hither.messaging")


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a projection does not come on: for operators, never for clients."""

    projection: str
    partition: int
    text: str

    def __str__(self) -> str:
        return f"{self.projection} {self.partition}: {self.text}"


class Status:
    """How one projection of one partition fares."""

    def __init__(self, projection: str, partition: int) -> None:
        self.projection = projection
        self.partition = partition
        self.problem: Problem | None = None
        self.commits = 0
        self._lag = metrics.LAG.labels(projection, str(partition))
        self._unhealthy = metrics.UNHEALTHY.labels(projection, str(partition))
        self._batches = metrics.BATCHES.labels(projection)
        self._records = metrics.RECORDS.labels(projection)
        self._rows = metrics.ROWS.labels(projection)
        self._committed = metrics.COMMITS.labels(projection)

    def applied(self, records: int, rows: int, lag_s: float) -> None:
        """A batch's rows are durable."""
        self._batches.inc()
        self._records.inc(records)
        self._rows.inc(rows)
        self._lag.set(max(0.0, lag_s))

    def caught_up(self) -> None:
        """There is nothing to apply."""
        self._lag.set(0)

    def committed(self) -> None:
        """The projection came through: rows and everything after them are durable up to a committed offset."""
        self.commits += 1
        self._committed.inc()
        self.well()

    def well(self) -> None:
        """There is no problem any more."""
        if self.problem is not None:
            _log.info("projection.recovered", projection=self.projection, partition=self.partition)
            self.problem = None
            self._unhealthy.set(0)

    def failed(self, error: BaseException) -> None:
        """The projection has stopped."""
        text = describe(error)
        _log.error(
            "projection.failed", projection=self.projection, partition=self.partition, error=text, exc_info=error
        )
        self.problem = Problem(self.projection, self.partition, text)
        self._unhealthy.set(1)
        metrics.FAILURES.labels(self.projection).inc()

    def forget(self) -> None:
        """The partition is not this process's any more: its gauges go."""
        metrics.LAG.remove(self.projection, str(self.partition))
        metrics.UNHEALTHY.remove(self.projection, str(self.partition))


async def keep_running(
    run: Callable[[], Coroutine[None, None, None]],
    status: Status,
    settings: MessagingSettings,
    on_failure: Callable[[], None] = lambda: None,
) -> NoReturn:
    """Runs a projection again and again until cancelled, with a longer pause after each failure that follows a failure."""
    failures = 0
    while True:
        commits = status.commits
        try:
            await in_its_own_task(run())
            raise RuntimeError("the projection ended by itself")  # noqa: TRY301 - handled like any other bug in it
        except Exception as error:  # noqa: BLE001 - whatever it was, the projection must come back and tell why
            status.failed(error)
        on_failure()
        failures = 1 if status.commits > commits else failures + 1
        await asyncio.sleep(pause_s(failures, settings))


def pause_s(failures: int, settings: MessagingSettings) -> float:
    """How long to wait after the n-th failure in a row (from 1): doubling, with the upper half left to chance."""
    longest = min(settings.retry_max_s, settings.retry_min_s * 2.0 ** min(failures - 1, 30))
    return longest * random.uniform(0.5, 1.0)  # noqa: S311 - spreads load, guards nothing
