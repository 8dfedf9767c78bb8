"""The way to one provider: a bounded queue, a bounded number of attempts at once, and patience that ends.

Providers have a lane each, so that one that is away holds up nobody else.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable

import structlog

from discovery.clock import Clock
from services.ports.push_provider import Outcome, PushProvider, Verdict, WakeUp
from services.ports.push_store import Fate, Platform
from services.push import metrics
from services.push.breaker import Breaker, pause_s
from services.push.jobs import Backlog, Job, Tenure
from services.push.pipeline_settings import PushPipelineSettings
from services.push.waiting import wait_until

EXPIRED = "EXPIRED"
NO_ROOM = "NO_ROOM"
_SWEEP_S = 1.0
_WARN_S = 60.0
_log = structlog.get_logger("hither.push")


class Lane:
    """Takes jobs; sends them while run() runs. `compose` says what to send, or why nothing after all; `end` is called with each job
    that is done with, its fate, and why.
    """

    def __init__(
        self,
        platform: Platform,
        provider: PushProvider,
        compose: Callable[[Job], Awaitable[WakeUp | str]],
        end: Callable[[Job, Fate, str], None],
        gone: Callable[[Job], Awaitable[None]],
        clock: Clock,
        settings: PushPipelineSettings,
        rng: random.Random,
    ) -> None:
        self._platform = platform.name.lower()
        self._provider = provider
        self._compose = compose
        self._end = end
        self._gone = gone
        self._clock = clock
        self._settings = settings
        self._rng = rng
        self._breaker = Breaker(settings, rng)
        self._backlog = Backlog()
        self._in_flight: set[Job] = set()
        self._news = asyncio.Event()
        self._changed = asyncio.Event()
        self._swept_s = self._warns_s = clock.monotonic_s()
        self._tell_state()

    @property
    def away(self) -> bool:
        """Whether the provider fails again and again."""
        return self._breaker.away

    @property
    def queued(self) -> int:
        """Jobs that wait."""
        return len(self._backlog)

    @property
    def in_flight(self) -> int:
        """Jobs that are being sent."""
        return len(self._in_flight)

    async def put(self, job: Job) -> None:
        """Queues a job. At the limit the oldest is given up if the provider is away or too slow; else this waits for room."""
        job.queued_s = self._clock.monotonic_s()
        while not job.tenure.over and not self._has_room_for(job):
            oldest = self._backlog.oldest()
            assert oldest is not None, "a full queue has an oldest job"
            waited_s = self._clock.monotonic_s() - oldest.queued_s
            if self._breaker.away or waited_s >= self._settings.longest_queue_s:
                self._give_up(oldest, NO_ROOM)
            else:
                await self._changed.wait()
        if job.tenure.over:
            return
        if self._backlog.put(job):
            metrics.CONFLATED.labels(self._platform).inc()
        self._news.set()
        self._tell_state()

    def give_up_before(self, partition: int, before_offset: int) -> int:
        """Gives up the jobs that wait for what may not come for long, if they stand for records of the partition before the
        offset: those that have failed before, and all of a provider that is away. Returns how many.
        """
        stuck = [
            job
            for job in self._backlog
            if job.plan.partition == partition
            and job.plan.offsets[0] < before_offset
            and (job.attempts > 0 or self._breaker.away)
        ]
        for job in stuck:
            self._give_up(job, NO_ROOM)
        return len(stuck)

    def forget_left(self) -> None:
        """Lets go, without a fate, of what waits for partitions that have moved. Attempts for them are not tried again."""
        for job in self._backlog:
            if job.tenure.over:
                self._backlog.remove(job)
        self._notify()

    async def none_in_flight(self, tenure: Tenure) -> None:
        """Returns when no attempt of the tenure is under way."""
        while any(job.tenure is tenure for job in self._in_flight):
            await self._changed.wait()

    def wake(self) -> None:
        """Looks at the clock again: for who has moved it."""
        self._news.set()

    async def run(self) -> None:
        """Sends until cancelled."""
        async with asyncio.TaskGroup() as group:
            while True:
                self._news.clear()
                self._sweep()
                while self._breaker.may_try(self._clock.monotonic_s(), len(self._in_flight)):
                    job = self._backlog.take(self._clock.monotonic_s())
                    if job is None:
                        break
                    self._in_flight.add(job)
                    group.create_task(self._try(job), name=f"push to {self._platform}")
                self._tell_state()
                await wait_until(self._news, self._pause_s())

    async def _try(self, job: Job) -> None:
        try:
            await self._try_once(job)
        finally:
            self._in_flight.discard(job)
            self._notify()

    async def _try_once(self, job: Job) -> None:
        if job.gives_up_ms <= self._clock.now_ms():
            self._end(job, Fate.GIVEN_UP, EXPIRED)
            return
        wake_up = await self._compose(job)
        if isinstance(wake_up, str):
            self._end(job, Fate.DROPPED, wake_up)
            return
        verdict = await self._send(wake_up)
        job.attempts += 1
        metrics.ATTEMPTS.labels(self._platform, verdict.outcome.name.lower()).inc()
        if verdict.outcome is Outcome.RETRY:
            self._failed(job, verdict)
            return
        self._breaker.answered()
        if verdict.outcome is Outcome.ACCEPTED:
            self._end(job, Fate.ACCEPTED, "")
            return
        if verdict.outcome is Outcome.GONE:
            await self._gone(job)
        self._end(job, Fate.REFUSED, verdict.reason)

    async def _send(self, wake_up: WakeUp) -> Verdict:
        try:
            async with asyncio.timeout(self._settings.attempt_timeout_s):
                return await self._provider.send(wake_up)
        except TimeoutError:
            return Verdict(Outcome.RETRY, "TIMEOUT")
        except Exception:  # noqa: BLE001 - a provider raises nothing; if one does, its lane must go on
            _log.exception("provider.failed", platform=self._platform)
            return Verdict(Outcome.RETRY, "BUG")

    def _failed(self, job: Job, verdict: Verdict) -> None:
        now_s = self._clock.monotonic_s()
        self._breaker.failed(now_s, verdict.retry_after_s)
        if self._breaker.away and now_s >= self._warns_s:
            self._warns_s = now_s + _WARN_S
            _log.warning("provider.away", platform=self._platform, reason=metrics.reason_label(verdict.reason))
        if job.tenure.over:
            return
        if job.gives_up_ms <= self._clock.now_ms():
            self._end(job, Fate.GIVEN_UP, verdict.reason)
            return
        if self._backlog.put_back(job, now_s + pause_s(job.attempts, self._settings, self._rng)):
            metrics.CONFLATED.labels(self._platform).inc()

    def _has_room_for(self, job: Job) -> bool:
        return len(self._backlog) < self._settings.most_queued or job.key in self._backlog

    def _give_up(self, job: Job, reason: str) -> None:
        self._backlog.remove(job)
        self._end(job, Fate.GIVEN_UP, reason)
        self._notify()

    def _sweep(self) -> None:
        """Gives up, once in a while, what has waited too long: also while nothing can be tried."""
        now_s, now_ms = self._clock.monotonic_s(), self._clock.now_ms()
        if now_s - self._swept_s < _SWEEP_S:
            return
        self._swept_s = now_s
        for job in self._backlog:
            if job.gives_up_ms <= now_ms:
                self._give_up(job, EXPIRED)

    def _pause_s(self) -> float | None:
        """How long to wait for news before looking again; None: until there are some."""
        if not self._backlog:
            return None
        now_s, next_s = self._clock.monotonic_s(), self._backlog.next_s()
        if len(self._in_flight) >= (1 if self._breaker.away else self._settings.most_in_flight):
            return _SWEEP_S
        wait_s = max(next_s or 0.0, self._breaker.not_before_s) - now_s
        return min(max(wait_s, 0.0), _SWEEP_S)

    def _notify(self) -> None:
        """Something has left the lane."""
        self._news.set()
        self._changed.set()
        self._changed = asyncio.Event()
        self._tell_state()

    def _tell_state(self) -> None:
        metrics.QUEUED.labels(self._platform).set(len(self._backlog))
        metrics.IN_FLIGHT.labels(self._platform).set(len(self._in_flight))
        metrics.PROVIDER_UP.labels(self._platform).set(0 if self._breaker.away else 1)
