"""From the log "push" to the providers: the partitions that this process owns, the policy, and the dispatcher.

A record is settled when its push was accepted, refused or given up on every device, or dropped; what is settled is
committed soon after. A crash in between sends again what was not committed yet: with the same ids, so that on the device it
replaces itself. While the store is away nothing is read or sent, and nothing lost; while a provider is away only what is
for its devices waits, in a queue that has an end.
"""

import asyncio
import random
from collections.abc import Mapping, Sequence
from functools import partial
from typing import NoReturn

import structlog

from discovery.clock import Clock
from discovery.errors import HitherError
from discovery.mesh import Mesh
from services.ports.log import Log
from services.ports.push_provider import PushProvider
from services.ports.push_store import (
    DeliveryLog,
    DeliveryRow,
    Platform,
    PushPreferences,
    PushStore,
    PushTokenRow,
)
from services.push import metrics
from services.push.dispatching import Dispatcher
from services.push.names import DirectoryNames, NameReader
from services.push.partition import NO_TOKEN, Partition, StoredPeople
from services.push.pipeline_settings import PushPipelineSettings, PushPolicySettings
from services.push.policy import Plan, Policy
from services.push.quiet import is_silenced
from services.push.unread import UnreadReader
from services.push.waiting import wait_until

SERVICE = "hither.push.v1.PushService"
_PLANS_AT_ONCE = 256
_log = structlog.get_logger("hither.push")


class PushPipeline:
    """Push in one process. Works while run() runs. `names`: the directory, unless told otherwise."""

    def __init__(
        self,
        mesh: Mesh,
        log: Log,
        store: PushStore,
        delivery_log: DeliveryLog,
        providers: Mapping[Platform, PushProvider],
        unread: UnreadReader,
        clock: Clock,
        policy: PushPolicySettings = PushPolicySettings(),  # noqa: B008 - frozen
        settings: PushPipelineSettings = PushPipelineSettings(),  # noqa: B008 - frozen
        names: NameReader | None = None,
        rng: random.Random | None = None,
    ) -> None:
        rng = rng or random.Random()  # noqa: S311 - spreads load, guards nothing
        self._mesh = mesh
        self._log = log
        self._clock = clock
        self._settings = settings
        self._rng = rng
        self._policy = Policy(policy)
        self._people = StoredPeople(store, settings, rng)
        names = names or DirectoryNames(mesh, settings.unread_timeout_s)
        self.dispatcher = Dispatcher(store, delivery_log, providers, unread, names, clock, policy, settings, rng)
        self._partitions: dict[int, Partition] = {}
        self._leaving: dict[int, asyncio.Task[None]] = {}
        self._left = asyncio.Event()
        self._news = asyncio.Event()

    @property
    def held(self) -> int:
        """Records that are read and not settled: what a crash would have read again."""
        return sum(partition.held for partition in self._partitions.values())

    @property
    def gathered(self) -> int:
        """Messages that wait for their push to be due."""
        return self._policy.gathered

    async def send_test(self, token: PushTokenRow) -> DeliveryRow:
        """See Dispatcher."""
        return await self.dispatcher.send_test(token)

    async def run(self) -> None:
        """Works until cancelled; raises when a part of it dies."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self.dispatcher.run(), name="push dispatcher")
            group.create_task(self._release(), name="push release")
            group.create_task(self._run_partitions(group), name="push partitions")

    async def handed_over(self) -> None:
        """Returns when this process runs no partition that it does not own: attempts for it are over, and what they came to is
        committed.
        """
        while self._leaving or self._partitions.keys() - self._mesh.owned(SERVICE):
            self._left.clear()
            await self._left.wait()

    def wake(self) -> None:
        """Looks at the clock again: for who has moved it."""
        self._news.set()
        self.dispatcher.wake()

    async def _release(self) -> NoReturn:
        """Hands to the dispatcher what is due."""
        while True:
            self._news.clear()
            plans = self._policy.due(self._clock.now_ms(), _PLANS_AT_ONCE)
            metrics.HELD.set(self._policy.gathered)
            if plans:
                for running in self._partitions.values():
                    running.room()
                await self._hand_over(plans)
                continue
            due_ms = self._policy.next_due_ms()
            pause_s = None if due_ms is None else max(0.0, (due_ms - self._clock.now_ms()) / 1000)
            await wait_until(self._news, pause_s)

    async def _hand_over(self, plans: Sequence[Plan]) -> None:
        running = {plan.partition: self._partitions.get(plan.partition) for plan in plans}
        tokens, wishes = await self._people.find(sorted({plan.user_id for plan in plans}))
        for plan in plans:
            partition = running[plan.partition]
            if partition is None or partition.tenure.over:
                continue
            await self._send(partition, plan, tokens.get(plan.user_id, ()), wishes.get(plan.user_id))

    async def _send(
        self, partition: Partition, plan: Plan, tokens: Sequence[PushTokenRow], wishes: PushPreferences | None
    ) -> None:
        if not tokens or wishes is None:
            metrics.MESSAGES_DROPPED.labels(NO_TOKEN).inc(len(plan.offsets))
            partition.settle(plan.offsets)
            return
        if not plan.rings and is_silenced(wishes, plan.conversation_id, self._clock.now_ms()):
            plan = plan.silenced()
        metrics.GATHERED.labels(plan.kind).inc(len(plan.offsets) - 1)
        settle = partial(partition.settle, plan.offsets)
        await self.dispatcher.put(partition.tenure, plan, tokens, wishes.settings.preview, settle)

    async def _run_partitions(self, group: asyncio.TaskGroup) -> None:
        tasks: dict[int, asyncio.Task[None]] = {}
        async for owned in self._mesh.watch_owned(SERVICE):
            for number in tasks.keys() - owned:
                leaving = self._leave(self._partitions.pop(number), tasks.pop(number))
                self._leaving[number] = group.create_task(leaving, name=f"push {number} leaves")
                self._leaving[number].add_done_callback(partial(self._has_left, number))
            for number in sorted(owned - tasks.keys()):
                if number in self._leaving:  # it comes back before it has left
                    await asyncio.wait([self._leaving[number]])
                self._partitions[number] = partition = self._make_partition(number)
                tasks[number] = group.create_task(partition.run(), name=f"push {number}")

    async def _leave(self, partition: Partition, running: asyncio.Task[None]) -> None:
        """Ends a partition that is another's now: takes in no more, lets attempts end, and commits what they came to."""
        partition.tenure.over = True
        running.cancel()
        await asyncio.wait([running])
        self._policy.forget(partition.tenure.partition)
        await self._commit_last(partition)
        try:
            async with asyncio.timeout(self._settings.leave_timeout_s):
                await self.dispatcher.leave(partition.tenure)
        except TimeoutError:
            pass  # those pushes are sent again by the new owner, with the same ids
        await self._commit_last(partition)
        self._policy.alerts.forget(partition.tenure.partition)

    async def _commit_last(self, partition: Partition) -> None:
        try:
            await partition.commit_last()
        except (HitherError, TimeoutError) as error:
            _log.warning("partition.left uncommitted", error=str(error))

    def _has_left(self, number: int, _task: asyncio.Task[None]) -> None:
        self._leaving.pop(number, None)
        self._left.set()

    def _make_partition(self, number: int) -> Partition:
        return Partition(
            number,
            self._log,
            self._people,
            self._policy,
            self._news.set,
            self.dispatcher.give_up_before,
            self._clock,
            self._settings,
            self._rng,
        )
