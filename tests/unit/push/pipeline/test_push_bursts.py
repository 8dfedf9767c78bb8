"""A burst in many groups at once, whose members are all away: counted to the last push, with memory that has bounds."""

from collections import Counter

from services.ports.push_provider import Outcome, Verdict, WakeUp
from services.ports.push_store import Platform
from services.push import metrics
from services.push.pipeline_settings import PushPolicySettings
from tests.support.lone_mesh import LoneMesh
from tests.support.memory_push import ACCEPTED
from tests.unit.push.pipeline.harness import World, quick, until

GROUPS = 100
MEMBERS = 100
MESSAGES = 12
USERS = GROUPS * MEMBERS


def user(number: int) -> str:
    return f"user{number}"


async def burst(world: World) -> None:
    """MESSAGES of one sender in each group, all at once; every member is away."""
    by_partition: dict[int, list[tuple[str, bytes]]] = {}
    for seq in range(1, MESSAGES + 1):
        for number in range(USERS):
            name = user(number)
            record = world.record(name, f"g.{number // MEMBERS}", f"s{number // MEMBERS}", seq)
            by_partition.setdefault(world.mesh.partition_of(name), []).append((name, record))
    for records in by_partition.values():
        for start in range(0, len(records), 1000):
            chunk = records[start : start + 1000]
            await world.append(chunk[0][0], [record for _, record in chunk])


async def test_ten_thousand_users_who_are_away_get_one_push_each_for_a_burst_in_their_group(world: World) -> None:
    world.mesh = LoneMesh(partitions=16)
    for number in range(USERS):
        world.store.register(user(number), platform=list(Platform)[number % 3])
    gathered_before = metrics.GATHERED.labels("group")._value.get()
    await burst(world)
    async with world.process(quick(most_unrecorded=USERS)) as pipeline:
        await until(lambda: pipeline.gathered == USERS * MESSAGES)
        assert pipeline.held == USERS * MESSAGES

        world.pass_s(pipeline, 60)
        await world.committed()
        await until(lambda: len(world.delivery_log.rows) == USERS)
        assert (pipeline.gathered, pipeline.held) == (0, 0)

    sent = [push for provider in world.providers.values() for push in provider.sent]
    assert Counter(push.token for push in sent) == {f"token of {user(number)} phone": 1 for number in range(USERS)}
    assert {push.body for push in sent} == {f"{MESSAGES} new messages"}
    assert world.delivery_log.fates() == {"ACCEPTED": USERS}
    assert metrics.GATHERED.labels("group")._value.get() - gathered_before == USERS * (MESSAGES - 1)
    assert all(provider.most_at_once <= 100 for provider in world.providers.values())


async def test_a_provider_that_fails_in_every_way_costs_the_others_nothing_and_loses_nothing(world: World) -> None:
    """Of the users with an iPhone one in four is refused, gone, or first answered 500; the others' first answer is 429."""
    users, tried = 400, Counter[str]()
    for number in range(users):
        world.store.register(user(number), platform=Platform.IOS if number % 2 else Platform.WEB)

    def answer(wake_up: WakeUp) -> Verdict:
        number = int(wake_up.token.split()[2].removeprefix("user"))
        tried[wake_up.token] += 1
        if number % 8 == 1:
            return Verdict(Outcome.GONE, "Unregistered")
        if number % 8 == 3:
            return Verdict(Outcome.REFUSED, "BadDeviceToken")
        if tried[wake_up.token] == 1:
            slow_down = number % 8 == 5
            return Verdict(
                Outcome.RETRY, "TooManyRequests" if slow_down else "500", retry_after_s=30 if slow_down else None
            )
        return ACCEPTED

    world.ios.script = answer
    async with world.process() as pipeline:
        for number in range(users):
            await world.message(user(number))
        web = world.providers[Platform.WEB]
        await web.until(lambda: len(web.sent) == users // 2)

        def everybody_has_an_end() -> bool:
            world.pass_s(pipeline, 1)
            return len(world.delivery_log.rows) == users

        await until(everybody_has_an_end)
        await world.committed()

    assert world.delivery_log.fates() == {
        "ACCEPTED": users * 3 // 4,
        "REFUSED Unregistered": users // 8,
        "REFUSED BadDeviceToken": users // 8,
    }
    assert len(world.store.rows) == users - users // 8
    assert max(tried.values()) == 2


async def test_what_waits_for_a_provider_that_is_away_has_an_end_and_what_is_newest_gets_there(world: World) -> None:
    users = 500
    for number in range(users):
        world.store.register(user(number), platform=Platform.IOS)
    world.ios.script = lambda _: Verdict(Outcome.RETRY, "UNREACHABLE")
    async with world.process(quick(most_queued=100, most_in_flight=10), PushPolicySettings()) as pipeline:
        lane = pipeline.dispatcher.lanes[Platform.IOS]
        for number in range(users):
            await world.message(user(number))
        await until(lambda: len(world.delivery_log.rows) >= users - 100 - 10)
        assert lane.queued + lane.in_flight <= 110
        assert pipeline.held <= 110
        asked = len(world.ios.asked)
        assert asked < 50, "an absent provider is probed, not stormed"

        world.ios.script = lambda _: ACCEPTED
        world.pass_s(pipeline, 120)
        await world.committed()
        await until(lambda: len(world.delivery_log.rows) == users)

    fates = world.delivery_log.fates()
    assert fates["ACCEPTED"] + fates["GIVEN_UP NO_ROOM"] == users
    assert f"token of {user(users - 1)} phone" in {push.token for push in world.ios.sent}
