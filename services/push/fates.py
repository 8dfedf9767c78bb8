"""What became of pushes, for the metrics and for the delivery log.

Never holds up a push: what the delivery log does not take in time is lost.
"""

import asyncio
from collections import deque
from typing import NoReturn

import structlog

from discovery.clock import Clock
from discovery.errors import HitherError
from services.ports.push_store import DeliveryLog, DeliveryRow, Fate, PushTokenRow
from services.push import metrics
from services.push.identity import collapse_id, push_id
from services.push.jobs import Job
from services.push.pipeline_settings import PushPipelineSettings
from services.push.policy import Plan

_MOST_ROWS = 1000
_log = structlog.get_logger("hither.push")


class Fates:
    """Takes fates, and writes them while run() runs."""

    def __init__(self, delivery_log: DeliveryLog, clock: Clock, settings: PushPipelineSettings) -> None:
        self._delivery_log = delivery_log
        self._clock = clock
        self._settings = settings
        self._rows: deque[DeliveryRow] = deque()
        self._news = asyncio.Event()

    def __len__(self) -> int:
        return len(self._rows)

    def of_job(self, job: Job, fate: Fate, reason: str = "") -> DeliveryRow:
        """A job has come to its end."""
        now_ms = self._clock.now_ms()
        latency_ms = max(0, now_ms - job.plan.newest.create_ms) if job.attempts else 0
        row = _row(job.token, job.plan, job.push_id, now_ms, fate, reason, job.attempts, latency_ms)
        if fate is Fate.ACCEPTED:
            metrics.LATENCY.labels(job.token.platform.name.lower(), job.plan.kind).observe(latency_ms / 1000)
        self.take(job.token, row)
        return row

    def of_target(self, token: PushTokenRow, plan: Plan, reason: str) -> None:
        """A device is not sent the push at all."""
        name = push_id(token.user_id, token.device_id, plan.conversation_id, plan.kind, plan.first_seq)
        self.take(token, _row(token, plan, name, self._clock.now_ms(), Fate.DROPPED, reason, 0, 0))

    def take(self, token: PushTokenRow, row: DeliveryRow) -> None:
        """Counts a fate, and has it written."""
        count(token, row)
        if len(self._rows) >= self._settings.most_unrecorded:
            self._rows.popleft()
            metrics.UNRECORDED.inc()
        self._rows.append(row)
        self._news.set()

    async def run(self) -> NoReturn:
        """Writes what there is, until cancelled; while the delivery log is away it tries again and again."""
        while True:
            await self._news.wait()
            if not await self.write():
                await asyncio.sleep(self._settings.engine_retry_max_s)

    async def write(self) -> bool:
        """Writes what there is; False if the delivery log does not take it."""
        self._news.clear()
        while self._rows:
            rows = [self._rows.popleft() for _ in range(min(len(self._rows), _MOST_ROWS))]
            try:
                async with asyncio.timeout(self._settings.engine_timeout_s):
                    await self._delivery_log.record(rows)
            except (HitherError, TimeoutError) as error:
                _log.warning("deliveries.unrecorded", error=str(error))
                metrics.ENGINE_FAILURES.labels("delivery log").inc()
                room = max(0, self._settings.most_unrecorded - len(self._rows))
                kept = rows[len(rows) - room :] if room < len(rows) else rows
                metrics.UNRECORDED.inc(len(rows) - len(kept))
                self._rows.extendleft(reversed(kept))
                self._news.set()
                return False
        return True


def count(token: PushTokenRow, row: DeliveryRow) -> None:
    """Counts a fate."""
    platform, reason = token.platform.name.lower(), metrics.reason_label(row.reason)
    metrics.WAKE_UPS.labels(platform, row.kind, row.fate.name.lower(), reason).inc()


def _row(
    token: PushTokenRow,
    plan: Plan,
    name: str,
    now_ms: int,
    fate: Fate,
    reason: str,
    attempts: int,
    latency_ms: int,
) -> DeliveryRow:
    return DeliveryRow(
        token.user_id,
        token.device_id,
        name,
        now_ms,
        fate,
        reason,
        str(plan.kind),
        plan.conversation_id,
        plan.messages,
        collapse_id(plan.user_id, plan.conversation_id, plan.kind),
        attempts,
        latency_ms,
    )
