"""Brings pushes to the providers: one push for each device of a user, on the lane of the device's provider."""

import asyncio
import random
from collections.abc import Callable, Mapping, Sequence
from uuid import uuid4

import structlog

from discovery.clock import Clock
from discovery.errors import HitherError
from services.ports.push_provider import Outcome, PushProvider, Urgency, Verdict, WakeUp
from services.ports.push_store import DeliveryLog, DeliveryRow, Fate, Platform, Preview, PushStore, PushTokenRow
from services.push import metrics
from services.push.arrivals import Kind
from services.push.composing import Composer, expires_ms
from services.push.fates import Fates, count
from services.push.jobs import Job, Parcel, Tenure
from services.push.lane import Lane
from services.push.limits import Budgets
from services.push.names import NameReader, Names
from services.push.pipeline_settings import PushPipelineSettings, PushPolicySettings
from services.push.policy import Plan
from services.push.unread import Glances, UnreadReader

NO_PROVIDER = "NO_PROVIDER"
BUDGET = "BUDGET"
READ = "READ"
_TEST_LIFETIME_MS = 60_000
_FATES = {
    Outcome.ACCEPTED: Fate.ACCEPTED,
    Outcome.GONE: Fate.REFUSED,
    Outcome.REFUSED: Fate.REFUSED,
    Outcome.RETRY: Fate.GIVEN_UP,
}
_log = structlog.get_logger("hither.push")


class Dispatcher:
    """The lanes to all providers. Sends while run() runs."""

    def __init__(
        self,
        store: PushStore,
        delivery_log: DeliveryLog,
        providers: Mapping[Platform, PushProvider],
        unread: UnreadReader,
        names: NameReader,
        clock: Clock,
        policy: PushPolicySettings,
        settings: PushPipelineSettings,
        rng: random.Random,
    ) -> None:
        self._store = store
        self._providers = providers
        self._clock = clock
        self._policy = policy
        self._settings = settings
        self._budgets = Budgets(policy)
        self._glances = Glances(unread, clock, settings)
        self.fates = Fates(delivery_log, clock, settings)
        self._composer = Composer(Names(names, clock, settings), policy)
        self.lanes = {
            platform: Lane(platform, provider, self._compose, self._end, self._forget_token, clock, settings, rng)
            for platform, provider in providers.items()
        }

    async def run(self) -> None:
        """Sends until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self.fates.run(), name="push fates")
            for lane in self.lanes.values():
                group.create_task(lane.run(), name="push lane")

    async def put(
        self,
        tenure: Tenure,
        plan: Plan,
        tokens: Sequence[PushTokenRow],
        preview: Preview,
        settle: Callable[[], None],
    ) -> None:
        """Has the push sent to these devices, at least one; `settle` is called when it is done with on each of them. Waits while
        there is no room in the lane of a provider that is not away.
        """
        now_ms = self._clock.now_ms()
        parcel = Parcel(tenure, len(tokens), settle)
        glance = self._glances.of(plan.user_id, plan.conversation_id)
        last_ms = min(expires_ms(plan, self._policy), now_ms + round(self._settings.give_up_after_s * 1000))
        for token in tokens:
            lane = self.lanes.get(token.platform)
            if lane is None:
                self.fates.of_target(token, plan, NO_PROVIDER)
                parcel.one_done()
            else:
                await lane.put(Job(token, plan, preview, glance, [parcel], last_ms))

    def give_up_before(self, partition: int, before_offset: int) -> int:
        """See Lane, for all lanes."""
        return sum(lane.give_up_before(partition, before_offset) for lane in self.lanes.values())

    async def leave(self, tenure: Tenure) -> None:
        """The tenure is over: lets go of what waits, and returns when no attempt for it is under way any more."""
        for lane in self.lanes.values():
            lane.forget_left()
        for lane in self.lanes.values():
            await lane.none_in_flight(tenure)

    def wake(self) -> None:
        """Looks at the clock again: for who has moved it."""
        for lane in self.lanes.values():
            lane.wake()

    async def send_test(self, token: PushTokenRow) -> DeliveryRow:
        """Sends the device a push that shows that pushes arrive, once and at once, whatever the limits; returns what became of it,
        which is the caller's to record. A token that is gone is forgotten.
        """
        now_ms = self._clock.now_ms()
        name = str(uuid4())
        wake_up = WakeUp(
            token.platform,
            token.token,
            name,
            collapse_id="test",
            urgency=Urgency.HIGH,
            expires_ms=now_ms + _TEST_LIFETIME_MS,
            body="Notifications work on this device",
            data={"kind": "test"},
        )
        provider = self._providers.get(token.platform)
        verdict = await self._try(provider, wake_up) if provider is not None else None
        if verdict is not None and verdict.outcome is Outcome.GONE:
            await self._remove(token)
        fate = _FATES[verdict.outcome] if verdict is not None else Fate.DROPPED
        reason = verdict.reason if verdict is not None else NO_PROVIDER
        attempts = 1 if verdict is not None else 0
        took_ms = max(0, self._clock.now_ms() - now_ms) if verdict is not None else 0
        row = DeliveryRow(
            token.user_id,
            token.device_id,
            name,
            now_ms,
            fate,
            reason,
            kind="test",
            conversation_id="",
            messages=0,
            collapse_id="test",
            attempts=attempts,
            latency_ms=took_ms,
        )
        count(token, row)
        return row

    async def _try(self, provider: PushProvider, wake_up: WakeUp) -> Verdict:
        try:
            async with asyncio.timeout(self._settings.attempt_timeout_s):
                return await provider.send(wake_up)
        except TimeoutError:
            return Verdict(Outcome.RETRY, "TIMEOUT")

    async def _compose(self, job: Job) -> WakeUp | str:
        """What to send, or why nothing after all. A push costs the device's budget once, however often it is tried."""
        wake_up = await self._composer.compose(job)
        if wake_up is None:
            return READ
        token, plan = job.token, job.plan
        if job.attempts == 0 and plan.kind is not Kind.CALL:
            now_ms = self._clock.now_ms()
            if not self._budgets.take(token.user_id, token.device_id, now_ms, silent=plan.silent):
                return BUDGET
        return wake_up

    def _end(self, job: Job, fate: Fate, reason: str) -> None:
        self.fates.of_job(job, fate, reason)
        job.done()

    async def _forget_token(self, job: Job) -> None:
        await self._remove(job.token)

    async def _remove(self, token: PushTokenRow) -> None:
        """Forgets a token that is no device's any more. While the store is away it stays, and is found gone again."""
        try:
            async with asyncio.timeout(self._settings.engine_timeout_s):
                await self._store.remove_token(token.user_id, token.device_id, token.token)
        except (HitherError, TimeoutError) as error:
            metrics.ENGINE_FAILURES.labels("store").inc()
            _log.warning("token.kept", user_id=token.user_id, device_id=token.device_id, error=str(error))
