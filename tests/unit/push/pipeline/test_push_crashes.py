"""A process that dies at any step: nothing is lost, and no push is sent more than once more, under the same ids."""

import asyncio
import random
from collections import Counter

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.ports.push_provider import Outcome, Verdict, WakeUp
from services.ports.push_store import Platform
from tests.support.memory_ports import Died, Disk, Life, MemoryLog
from tests.support.memory_push import ACCEPTED
from tests.unit.push.pipeline.harness import World, ids, quick, until

USERS = ("ben", "eve", "joe", "kim")


class Mortal:
    """A world whose processes die at a step: of the log, or when a push is sent, before or after the provider has it."""

    def __init__(self, seed: int) -> None:
        self.disk = Disk()
        self.world = World(MemoryLog(self.disk, Life()))
        self.rng = random.Random(seed)
        for user in USERS:
            self.world.store.register(user, "phone", Platform.IOS)
            self.world.store.register(user, "pad", Platform.ANDROID)

    async def messages(self) -> None:
        """Some messages for everybody."""
        for _ in range(self.rng.randint(1, 12)):
            sender, user = self.rng.choice(("ann", "cat")), self.rng.choice(USERS)
            conversation = self.rng.choice(("", "", f"g.{user}"))
            await self.world.message(user, sender, conversation, self.rng.choice(("hello", "@all hello")))

    async def live_and_die(self, steps: int) -> None:
        """A process that dies after so many steps, if it comes to so many."""
        life = Life(dies_at=steps)
        world = self.world
        world.log = MemoryLog(self.disk, life)

        def dying(wake_up: WakeUp) -> Verdict:
            life.steps += 1
            if life.steps >= life.dies_at:
                life.dead.set()
            if life.dead.is_set():
                return ACCEPTED if life.steps == life.dies_at else Verdict(Outcome.RETRY, "DEAD")
            return ACCEPTED

        for provider in world.providers.values():
            provider.script = dying
        pipeline = world.pipeline()
        running = asyncio.create_task(pipeline.run())
        dead = asyncio.create_task(life.dead.wait())
        ages = asyncio.create_task(self.age(pipeline))
        await asyncio.wait([running, dead, ages], return_when=asyncio.FIRST_COMPLETED)
        for task in (running, dead, ages):
            task.cancel()
        await asyncio.gather(running, dead, ages, return_exceptions=True)
        world.log = MemoryLog(self.disk, Life())
        for provider in world.providers.values():
            provider.script = lambda _: ACCEPTED

    async def age(self, pipeline: object) -> None:
        """Time passes while it runs."""
        for _ in range(5):
            for _ in range(40):
                await asyncio.sleep(0)
            self.world.pass_s(pipeline, self.rng.choice((1, 30, 61)))  # type: ignore[arg-type]

    async def recover(self) -> None:
        """A process that lives until everything is settled."""
        async with self.world.process() as pipeline:
            async with asyncio.timeout(30):
                while not self.disk.settled("push", "push"):
                    await asyncio.sleep(0)
                    self.world.pass_s(pipeline, 5)


@given(st.integers(0, 2**32), st.lists(st.integers(1, 60), max_size=3))
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
async def test_whenever_a_process_dies_nothing_is_lost_and_nothing_sent_more_than_once_more(
    seed: int, deaths: list[int]
) -> None:
    mortal = Mortal(seed)
    await mortal.messages()
    for steps in deaths:
        await mortal.live_and_die(steps)
        await mortal.messages()
    await mortal.recover()

    for platform, device in ((Platform.IOS, "phone"), (Platform.ANDROID, "pad")):
        pushes = mortal.world.providers[platform].sent
        for user in USERS:
            mine = [push for push in pushes if push.token == f"token of {user} {device}"]
            covered = {(push.data["conversation_id"], int(push.data["seq"])) for push in mine}
            for conversation, last in mortal.world.seqs.items():
                if user in conversation:
                    assert max((seq for its, seq in covered if its == conversation), default=0) == last
            assert all(count <= 1 + len(deaths) for count in Counter(ids(push) for push in mine).values())
            direct = [push.data for push in mine if push.data["kind"] == "direct"]
            times = Counter(
                (data["conversation_id"], int(data["seq"]) - n) for data in direct for n in range(int(data["messages"]))
            )
            assert all(count <= 1 + len(deaths) for count in times.values()), "a message is in too many pushes"


@pytest.mark.parametrize("steps", range(1, 40))
async def test_one_death_repeats_each_push_at_most_once_and_never_under_another_name(steps: int) -> None:
    mortal = Mortal(7)
    world = mortal.world
    await world.message("ben", "ann")
    await world.message("ben", "cat")
    await world.message("eve", "ann", "g.eve")
    await world.message("eve", "cat", "g.eve")
    await mortal.live_and_die(steps)
    await mortal.recover()

    pushes = world.providers[Platform.IOS].sent
    repeats = Counter(ids(push) for push in pushes)
    assert len(repeats) == 3
    assert max(repeats.values()) <= 2


async def test_a_death_of_the_log_ends_the_process_with_an_error() -> None:
    life = Life(dies_at=0)
    world = World(MemoryLog(Disk(), life))
    running = asyncio.create_task(world.pipeline(quick()).run())

    await until(running.done)

    error = running.exception()
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, Died)
