"""Friends walk about in a city, and change all the time who may know where they are, while processes die: nobody is shown a place
that the rules forbid at that moment, and nobody keeps a friend on the screen who has stopped sharing.
"""

import asyncio
import itertools
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import pytest

from hither_client import (
    ClientSettings,
    FriendLocationGone,
    FriendLocationUpdate,
    HitherClient,
    HitherClientError,
    NoAnswer,
    Place,
    RequestFailed,
    RestClient,
)
from tests.chaos.consent import Rule, Shown, check_consent
from tests.chaos.judging import report
from tests.support.apart import RunningCluster, Servers, running_cluster

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

PEOPLE: Final = 10
_PASSWORD: Final = "correct horse"
_CENTRE: Final = (48.2, 16.37)
_STEP_S: Final = 0.4
"""Between two places of a person, and between two changes of a person's mind."""
_MARK: Final = 1e-7
"""Degrees, about a centimetre: tells the places of a person apart."""
_LATE_S: Final = 6.0
"""More than the deadline of a call, which travels with it."""
_SETTLE_S: Final = 60.0
"""A dead owner's lease of 10 s has to run out, and who watches has to be told."""
_QUICK: Final = ClientSettings(first_retry_s=0.05, retry_limit_s=0.5, answer_deadline_s=2.0)
_CHOICES: Final = ("EXACT", "KILOMETRE", "HIDDEN")


class Walker:
    """A person with a device, who is on the way."""

    def __init__(self, name: str, client: HitherClient, rest: RestClient) -> None:
        self.name = name
        self.client = client
        self.rest = rest
        self.sent: dict[float, float] = {}
        """When each place was sent, by its latitude."""
        self.screen: dict[str, float] = {}
        """The friends who are shown, and since when nothing new came of each."""
        self.minds = asyncio.Lock()


class City:
    """`async with City(urls)` signs everybody up and lets them walk."""

    def __init__(self, urls: list[str], seed: int) -> None:
        self._urls = urls
        self._random = random.Random(seed)
        self.walkers: dict[str, Walker] = {}
        self.shown: list[Shown] = []
        self.rules: dict[tuple[str, str], list[Rule]] = {}
        self.fickle = asyncio.Event()
        """Set while people change their minds."""
        self._stack = AsyncExitStack()
        self._tasks = asyncio.TaskGroup()
        self._running: list[asyncio.Task[None]] = []
        self._news = asyncio.Condition()

    async def __aenter__(self) -> Self:
        names = [f"walker{number}" for number in range(PEOPLE)]
        async with RestClient(self._urls[0]) as rest:
            for name in names:
                await rest.sign_up(name, name, _PASSWORD)
            tokens = [(await rest.sign_in(name, _PASSWORD, "phone")).access_token for name in names]
        for number, (name, token) in enumerate(zip(names, tokens, strict=True)):
            rest = await self._stack.enter_async_context(RestClient(self._urls[0], token, timeout_s=5.0))
            urls = self._urls[number % 2 :] + self._urls[: number % 2]
            client = await self._stack.enter_async_context(HitherClient(urls, token, settings=_QUICK, proxy=None))
            self.walkers[name] = Walker(name, client, rest)
        for one, other in itertools.combinations(self.walkers.values(), 2):
            await one.rest.add_friend(other.name)
            await other.rest.add_friend(one.name)
        for owner, viewer in itertools.permutations(names, 2):
            self.rules[owner, viewer] = [Rule(0.0, time.monotonic(), "EXACT")]
        for walker in self.walkers.values():
            await walker.rest.set_location_sharing(True)
        await self._tasks.__aenter__()
        for walker in self.walkers.values():
            for work in (self._walk, self._watch, self._waver):
                self._running.append(self._tasks.create_task(work(walker)))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in self._running:
            task.cancel()
        await self._tasks.__aexit__(None, None, None)
        await self._stack.aclose()

    async def until(self, holds: Callable[[], bool], within_s: float = _SETTLE_S) -> None:
        """Returns when it holds; looked at after each event."""
        async with asyncio.timeout(within_s), self._news:
            await self._news.wait_for(holds)

    async def everybody_sees_news_of_somebody(self) -> None:
        """Returns when each of them was shown a place that was sent from now on."""
        since_s = time.monotonic()

        def do() -> bool:
            return {one.viewer for one in self.shown if (one.sent_s or 0) > since_s} == self.walkers.keys()

        await self.until(do)

    async def decide(self, owner: Walker, viewer: str, precision: str) -> None:
        """The owner lets the viewer know that much from now on; asked again until it is answered."""
        async with owner.minds:
            asked_s = time.monotonic()
            await _insist(lambda: owner.rest.grant_location(viewer, precision))
            self.rules[owner.name, viewer].append(Rule(asked_s, time.monotonic(), precision))

    async def stop_sharing(self, owner: Walker) -> None:
        """Nobody is to see the owner any more."""
        async with owner.minds:
            asked_s = time.monotonic()
            await _insist(lambda: owner.rest.set_location_sharing(False))
            for viewer in self.walkers.keys() - {owner.name}:
                self.rules[owner.name, viewer].append(Rule(asked_s, time.monotonic(), "HIDDEN"))

    async def _walk(self, walker: Walker) -> None:
        for number in itertools.count():
            await asyncio.sleep(_STEP_S)
            lat = round(_CENTRE[0] + self._random.uniform(-2e-4, 2e-4), 4) + number * _MARK
            walker.sent[lat] = time.monotonic()
            try:
                await walker.client.update_location(Place(lat, _CENTRE[1]), timeout_s=5.0)
            except (NoAnswer, RequestFailed):
                continue  # places may be lost; the next one is on its way

    async def _watch(self, walker: Walker) -> None:
        async for event in walker.client.events():
            async with self._news:
                now_s = time.monotonic()
                if isinstance(event, FriendLocationGone):
                    walker.screen.pop(event.friend_id, None)
                elif isinstance(event, FriendLocationUpdate):
                    walker.screen[event.friend_id] = now_s
                    sent_s = self.walkers[event.friend_id].sent.get(event.lat)
                    precision = "EXACT" if sent_s is not None else "KILOMETRE"
                    self.shown.append(Shown(event.friend_id, walker.name, sent_s, now_s, precision))
                self._news.notify_all()

    async def _waver(self, walker: Walker) -> None:
        others = [name for name in self.walkers if name != walker.name]
        while True:
            await self.fickle.wait()
            await self.decide(walker, self._random.choice(others), self._random.choice(_CHOICES))
            await asyncio.sleep(_STEP_S)


async def _insist(call: Callable[[], Awaitable[object]]) -> None:
    """Until it is answered, and until no attempt that was not answered can still be on its way: it would undo what is decided
    next.
    """
    late_s = 0.0
    while True:
        try:
            await call()
        except HitherClientError:
            late_s = _LATE_S
            await asyncio.sleep(0.2)  # as a client pauses between two attempts: nothing tells when one will do
        else:
            await asyncio.sleep(late_s)
            return


@pytest.fixture
async def cluster(servers: Servers, tmp_path: Path) -> AsyncIterator[RunningCluster]:
    settings = {"HITHER_EDGE_FRAMES_PER_S": "1000", "HITHER_HTTP_PUBLIC_RATE_PER_S": "10000"}
    async with running_cluster(tmp_path / "data", servers, settings) as cluster:
        yield cluster


async def test_nobody_is_shown_what_is_forbidden_and_no_ghost_stays_while_processes_die(
    cluster: RunningCluster,
) -> None:
    async with City(cluster.urls, seed=7) as city:
        city.fickle.set()
        await city.everybody_sees_news_of_somebody()
        for victim in ("services-1", "edge-2", "services-2", "edge-1"):
            await cluster.processes[victim].kill()
            began_s = time.monotonic()
            await asyncio.sleep(2)  # people go on to change their minds while it is away
            await cluster.start_one(victim)
            await city.everybody_sees_news_of_somebody()
            report(
                f"friends in a city, kill -9 of {victim}: all saw somebody again after {time.monotonic() - began_s:.1f} s"
            )
        city.fickle.clear()
        began_s = time.monotonic()
        for walker in city.walkers.values():
            await city.stop_sharing(walker)
        await city.until(lambda: not any(walker.screen for walker in city.walkers.values()))
        report(f"friends in a city, all stop sharing: the last one is gone after {time.monotonic() - began_s:.1f} s")

    assert len(city.shown) > 1_000
    assert sum(len(rules) for rules in city.rules.values()) > 300
    assert check_consent(city.shown, city.rules) == []
