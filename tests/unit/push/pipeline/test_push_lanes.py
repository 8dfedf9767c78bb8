"""The way to one provider: conflation, patience, and what an absent provider costs."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from services.ports.push_provider import Outcome, Urgency, Verdict, WakeUp
from services.ports.push_store import Fate, Platform, Preview, PushTokenRow
from services.push.arrivals import Arrival, Kind
from services.push.breaker import Breaker
from services.push.jobs import Backlog, Job, Parcel, Tenure
from services.push.lane import Lane
from services.push.pipeline_settings import PushPipelineSettings
from services.push.policy import Plan
from services.push.unread import Glances
from tests.support.clock import ManualClock
from tests.support.memory_push import ACCEPTED, Marks, ScriptedProvider
from tests.unit.push.pipeline.harness import until

SETTINGS = PushPipelineSettings(most_in_flight=2, most_queued=3, retry_min_s=1, retry_max_s=8, failures_to_probe=3)
RETRY = Verdict(Outcome.RETRY, "500")


class Desk:
    """A lane and what became of its jobs."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.provider = ScriptedProvider()
        self.ends: list[tuple[str, Fate, str]] = []
        self.settled: list[int] = []
        self.tenure = Tenure(0)
        self.lane = Lane(
            Platform.IOS,
            self.provider,
            self.compose,
            self.end,
            self.gone,
            self.clock,
            SETTINGS,
            random.Random(1),
        )
        self._glances = Glances(Marks(), self.clock, SETTINGS)

    async def compose(self, job: Job) -> WakeUp | str:
        said = str(job.plan.messages)
        token, last_ms = job.token.token, job.gives_up_ms
        return WakeUp(Platform.IOS, token, job.push_id, job.collapse_id, Urgency.HIGH, last_ms, body=said)

    def end(self, job: Job, fate: Fate, reason: str) -> None:
        self.ends.append((job.token.user_id, fate, reason))
        job.done()

    async def gone(self, job: Job) -> None:
        """Nothing to forget."""

    def job(self, user: str = "ben", offset: int = 0, kind: Kind = Kind.DIRECT, within_s: float = 3600) -> Job:
        arrival = Arrival(0, offset, user, 1, "d.1", offset + 1, 1, "ann", self.clock.now_ms(), kind)
        plan = Plan(0, (offset,), user, "d.1", kind, offset + 1, arrival, 1)
        token = PushTokenRow(user, "phone", Platform.IOS, f"token of {user}", 0)
        parcel = Parcel(self.tenure, 1, lambda: self.settled.append(offset))
        last_ms = self.clock.now_ms() + round(within_s * 1000)
        return Job(token, plan, Preview.NOTHING, self._glances.of(user, "d.1"), [parcel], last_ms)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.lane.run())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait([task])

    def pass_s(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.lane.wake()


async def test_a_newer_push_takes_the_place_of_one_that_waits_and_both_settle_with_it() -> None:
    desk = Desk()
    first = desk.job(offset=0)
    await desk.lane.put(first)
    await desk.lane.put(desk.job(offset=1))
    await desk.lane.put(desk.job("eve", offset=2))
    async with desk.running():
        await desk.provider.until(lambda: len(desk.provider.sent) == 2)
        await until(lambda: len(desk.settled) == 3)

    assert [(push.token, push.body) for push in desk.provider.sent] == [("token of ben", "2"), ("token of eve", "1")]
    assert desk.provider.sent[0].push_id == first.push_id
    assert len(desk.ends) == 2


async def test_a_push_that_failed_is_tried_again_as_the_same_until_it_is_taken() -> None:
    desk = Desk()
    verdicts = iter([RETRY, RETRY, ACCEPTED])
    desk.provider.script = lambda _: next(verdicts)
    await desk.lane.put(desk.job())
    async with desk.running():
        for attempts in (1, 2, 3):
            await desk.provider.until(lambda n=attempts: len(desk.provider.asked) == n)  # type: ignore[misc]
            await until(lambda: desk.lane.in_flight == 0)
            desk.pass_s(8)
        await until(lambda: bool(desk.ends))

    assert len({push.push_id for push in desk.provider.asked}) == 1
    assert desk.ends == [("ben", Fate.ACCEPTED, "")]


async def test_what_failed_goes_into_what_came_meanwhile() -> None:
    desk = Desk()
    desk.provider.script = lambda _: None
    await desk.lane.put(desk.job(offset=0))
    async with desk.running():
        await desk.provider.until(lambda: len(desk.provider.asked) == 1)
        desk.provider.script = lambda push: ACCEPTED if push.body == "2" else RETRY
        await desk.lane.put(desk.job(offset=0, user="eve"))
        await desk.provider.until(lambda: len(desk.provider.asked) == 2)
        await until(lambda: desk.lane.in_flight == 1)
        await desk.lane.put(desk.job(offset=5, user="eve"))
        await until(lambda: len(desk.settled) == 2)
        desk.provider.release.set()

    assert desk.provider.sent[0].body == "2"


async def test_patience_ends_when_the_push_expires_also_while_nothing_is_tried() -> None:
    desk = Desk()
    desk.provider.script = lambda _: Verdict(Outcome.RETRY, "429", retry_after_s=1000)
    await desk.lane.put(desk.job("ben", 0, Kind.CALL, within_s=30))
    async with desk.running():
        await desk.provider.until(lambda: len(desk.provider.asked) == 1)
        await until(lambda: desk.lane.in_flight == 0)
        desk.pass_s(31)
        await until(lambda: bool(desk.ends))

    assert desk.ends == [("ben", Fate.GIVEN_UP, "EXPIRED")]
    assert len(desk.provider.asked) == 1


async def test_retry_after_holds_for_all_of_the_provider() -> None:
    desk = Desk()
    desk.provider.script = lambda _: Verdict(Outcome.RETRY, "429", retry_after_s=60)
    await desk.lane.put(desk.job("ben"))
    async with desk.running():
        await desk.provider.until(lambda: len(desk.provider.asked) == 1)
        await until(lambda: desk.lane.in_flight == 0)
        desk.provider.script = lambda _: ACCEPTED
        await desk.lane.put(desk.job("eve"))
        desk.pass_s(59)
        await until(lambda: desk.lane.queued == 2)
        assert len(desk.provider.asked) == 1
        desk.pass_s(1)
        await desk.provider.until(lambda: len(desk.provider.sent) == 2)


async def test_at_the_limit_of_a_provider_that_is_not_away_whoever_queues_waits() -> None:
    desk = Desk()
    for user in ("ann", "ben", "cat"):
        await desk.lane.put(desk.job(user))
    waiting = asyncio.create_task(desk.lane.put(desk.job("dan")))
    await asyncio.sleep(0)
    assert not waiting.done()
    async with desk.running():
        await desk.provider.until(lambda: len(desk.provider.sent) == 4)
        await waiting

    assert desk.provider.most_at_once == 2


async def test_at_the_limit_of_a_provider_that_is_too_slow_the_oldest_are_given_up() -> None:
    desk = Desk()
    for user in ("ann", "ben", "cat"):
        await desk.lane.put(desk.job(user))
    desk.clock.advance(60)

    async with asyncio.timeout(30):
        await desk.lane.put(desk.job("dan"))

    assert desk.ends == [("ann", Fate.GIVEN_UP, "NO_ROOM")]
    assert desk.lane.queued == 3


async def test_a_full_queue_takes_what_takes_the_place_of_something_in_it() -> None:
    desk = Desk()
    for user in ("ann", "ben", "cat"):
        await desk.lane.put(desk.job(user))

    async with asyncio.timeout(30):
        await desk.lane.put(desk.job("cat", offset=9))

    assert desk.lane.queued == 3


async def test_urgent_pushes_go_before_others() -> None:
    desk = Desk()
    await desk.lane.put(desk.job("ann", kind=Kind.GROUP))
    await desk.lane.put(desk.job("ben", kind=Kind.SYNC))
    await desk.lane.put(desk.job("cat", kind=Kind.CALL))
    async with desk.running():
        await desk.provider.until(lambda: len(desk.provider.sent) == 3)

    assert [push.token for push in desk.provider.asked] == ["token of cat", "token of ann", "token of ben"]


async def test_what_has_failed_before_an_offset_can_be_given_up_and_what_only_waits_for_its_turn_cannot() -> None:
    desk = Desk()
    await desk.lane.put(desk.job("ann", offset=3))
    tried = desk.job("ben", offset=4)
    tried.attempts = 1
    await desk.lane.put(tried)

    assert desk.lane.give_up_before(0, 4) == 0
    assert desk.lane.give_up_before(0, 5) == 1
    assert desk.ends == [("ben", Fate.GIVEN_UP, "NO_ROOM")]


async def test_what_waits_for_a_partition_that_has_moved_goes_without_a_fate() -> None:
    desk = Desk()
    await desk.lane.put(desk.job())
    desk.tenure.over = True

    desk.lane.forget_left()

    assert (desk.lane.queued, desk.ends, desk.settled) == (0, [], [])


def test_a_provider_that_fails_again_and_again_is_probed_with_one_push_after_longer_and_longer_pauses() -> None:
    breaker = Breaker(SETTINGS, random.Random(1))
    for _ in range(2):
        breaker.failed(0, None)
    assert not breaker.away
    assert breaker.may_try(0, 1)

    breaker.failed(0, None)

    assert breaker.away
    assert not breaker.may_try(0, 0)
    pauses = []
    now_s = breaker.not_before_s
    for _ in range(6):
        assert breaker.may_try(now_s, 0)
        assert not breaker.may_try(now_s, 1)
        breaker.failed(now_s, None)
        breaker.failed(now_s, None)  # attempts that were under way still count for nothing
        pauses.append(breaker.not_before_s - now_s)
        now_s = breaker.not_before_s
    assert pauses[0] < 2 < 4 <= pauses[-1] <= 8

    breaker.answered()

    assert not breaker.away
    assert breaker.may_try(now_s, 1)


def test_a_backlog_forgets_what_it_does_not_hold_any_more() -> None:
    desk, backlog = Desk(), Backlog()
    for number in range(1000):
        job = desk.job("ben", number)
        backlog.put_back(job, float(number))
        taken = backlog.take(float(number))
        assert taken is job
        backlog.put_back(job, 1e9)
        backlog.remove(job)

    assert (len(backlog), backlog.next_s(), backlog.take(2e9)) == (0, None, None)
    assert len(backlog._later) <= 128
