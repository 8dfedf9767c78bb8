"""From the log to the providers, over a log on disk."""

import asyncio
from collections import Counter
from dataclasses import replace

import pytest

from services.ports.push_provider import Outcome, Urgency, Verdict
from services.ports.push_store import FOREVER_MS, Fate, Platform, Preview, PushSettingsRow
from services.push.arrivals import CALL_MEDIA_TYPE
from services.push.pipeline_settings import PushPolicySettings
from tests.support.memory_push import ACCEPTED
from tests.unit.push.pipeline.harness import World, ids, quick, until


async def test_a_direct_message_wakes_up_every_device_of_its_receiver(world: World) -> None:
    world.store.register("ben", "phone", Platform.IOS)
    world.store.register("ben", "tablet", Platform.ANDROID)
    async with world.process():
        await world.message()
        await world.committed()

    (phone,), (tablet,) = world.ios.sent, world.providers[Platform.ANDROID].sent
    assert (phone.token, phone.urgency, phone.badge, phone.silent) == ("token of ben phone", Urgency.HIGH, 7, False)
    assert (phone.title, phone.body) == ("", "New message")
    assert phone.data["conversation_id"] == "d.ann.ben"
    assert phone.data["seq"] == "1"
    assert phone.push_id != tablet.push_id
    assert phone.collapse_id == tablet.collapse_id


async def test_a_push_carries_no_text_and_no_name_unless_the_user_wants_it(world: World) -> None:
    world.store.register("ben")
    world.names.users["ann"] = "Ann A."
    async with world.process():
        await world.message(text="a secret")
        await world.committed()

    assert "secret" not in repr([world.ios.sent[0].title, world.ios.sent[0].body, *world.ios.sent[0].data.values()])
    assert world.names.asked == 0


async def test_who_wants_to_see_text_sees_it_under_the_senders_name(world: World) -> None:
    world.store.register("ben")
    world.store.settings["ben"] = PushSettingsRow("ben", Preview.TEXT)
    world.names.users["ann"] = "Ann A."
    async with world.process():
        await world.message(text="a secret")
        await world.committed()

    assert (world.ios.sent[0].title, world.ios.sent[0].body) == ("Ann A.", "a secret")


async def test_without_messaging_and_the_directory_a_push_goes_without_badge_and_name(world: World) -> None:
    world.store.register("ben")
    world.store.settings["ben"] = PushSettingsRow("ben", Preview.SENDER)
    world.marks.away = world.names.away = True
    async with world.process():
        await world.message()
        await world.committed()

    (push,) = world.ios.sent
    assert (push.badge, push.title, push.body) == (None, "", "New message")


async def test_a_burst_in_a_group_is_one_push_after_a_minute(world: World) -> None:
    world.store.register("ben")
    world.store.settings["ben"] = PushSettingsRow("ben", Preview.SENDER)
    world.names.groups["g.1"] = "Group G"
    async with world.process() as pipeline:
        for _ in range(15):
            await world.message(conversation="g.1")
        await until(lambda: pipeline.gathered == 15)
        assert world.ios.asked == []
        world.pass_s(pipeline, 60)
        await world.committed()

    (push,) = world.ios.sent
    assert (push.body, push.urgency) == ("15 new messages in Group G", Urgency.LOW)
    assert [row.messages for row in world.delivery_log.rows.values()] == [15]


async def test_what_was_read_elsewhere_before_it_was_sent_is_not_sent(world: World) -> None:
    world.store.register("ben")
    async with world.process() as pipeline:
        await world.message(conversation="g.1")
        await until(lambda: pipeline.gathered == 1)
        world.marks.seen["ben", "g.1"] = 1
        world.pass_s(pipeline, 300)
        await world.committed()
        await until(lambda: bool(world.delivery_log.rows))

    assert world.ios.asked == []
    assert world.delivery_log.fates() == {"DROPPED READ": 1}


async def test_of_what_was_read_in_part_only_the_rest_is_counted(world: World) -> None:
    world.store.register("ben")
    async with world.process() as pipeline:
        for _ in range(3):
            await world.message(conversation="g.1")
        await until(lambda: pipeline.gathered == 3)
        world.marks.seen["ben", "g.1"] = 2
        world.pass_s(pipeline, 300)
        await world.committed()

    assert world.ios.sent[0].body == "New message"


async def test_a_muted_conversation_wakes_up_the_app_only_and_a_call_rings_nevertheless(world: World) -> None:
    world.store.register("ben")
    world.store.mutes["ben"]["d.ann.ben"] = FOREVER_MS
    async with world.process() as pipeline:
        await world.message()
        await world.message(media=CALL_MEDIA_TYPE)
        await world.ios.until(lambda: len(world.ios.sent) == 1)
        assert world.ios.sent[0].body == "Incoming call"
        world.pass_s(pipeline, 300)
        await world.committed()

    assert world.ios.sent[1].silent


async def test_who_mutes_a_conversation_while_its_messages_are_gathered_is_not_alerted(world: World) -> None:
    world.store.register("ben")
    async with world.process() as pipeline:
        await world.message(conversation="g.1")
        await until(lambda: pipeline.gathered == 1)
        world.store.mutes["ben"]["g.1"] = FOREVER_MS
        world.pass_s(pipeline, 300)
        await world.committed()

    assert [push.silent for push in world.ios.sent] == [True]


async def test_silent_pushes_beyond_a_devices_budget_are_dropped(world: World) -> None:
    world.store.register("ben")
    for number in range(5):
        world.store.mutes["ben"][f"g.{number}"] = FOREVER_MS
    async with world.process() as pipeline:
        for number in range(5):
            await world.message(conversation=f"g.{number}")
        await until(lambda: pipeline.gathered == 5)
        world.pass_s(pipeline, 300)
        await world.committed()
        await until(lambda: len(world.delivery_log.rows) == 5)

    assert world.delivery_log.fates() == {"ACCEPTED": 3, "DROPPED BUDGET": 2}


async def test_who_has_no_token_and_what_nobody_can_send_is_dropped(world: World) -> None:
    del world.providers[Platform.WEB]
    world.store.register("eve", "browser", Platform.WEB)
    async with world.process():
        await world.message("ben")
        await world.message("eve")
        await world.committed()
        await until(lambda: bool(world.delivery_log.rows))

    assert world.delivery_log.fates() == {"DROPPED NO_PROVIDER": 1}


async def test_a_token_that_is_gone_is_forgotten(world: World) -> None:
    world.store.register("ben")
    world.ios.script = lambda _: Verdict(Outcome.GONE, "Unregistered")
    async with world.process():
        await world.message()
        await world.committed()
        await until(lambda: bool(world.delivery_log.rows))

    assert world.store.rows == {}
    assert world.delivery_log.fates() == {"REFUSED Unregistered": 1}


async def test_a_provider_that_hangs_holds_up_nobody_else(world: World) -> None:
    world.ios.script = lambda _: None
    for number in range(40):
        world.store.register(f"user{number}", platform=Platform.IOS if number % 2 else Platform.ANDROID)
    async with world.process(quick(most_in_flight=5)) as pipeline:
        for number in range(40):
            await world.message(f"user{number}")
        android = world.providers[Platform.ANDROID]
        await android.until(lambda: len(android.sent) == 20)
        await until(lambda: pipeline.held == 20)
        assert world.ios.most_at_once == 5

        world.ios.release.set()
        await world.committed()

    assert sorted(push.token for push in world.ios.sent) == sorted(
        f"token of user{number} phone" for number in range(1, 40, 2)
    )


async def test_nothing_is_lost_while_the_store_is_away(world: World) -> None:
    world.store.register("ben")
    world.store.away = True
    async with world.process():
        await world.message()
        await until(lambda: world.store.asked >= 2)
        world.store.away = False
        await world.committed()

    assert len(world.ios.sent) == 1


async def test_a_delivery_log_that_is_away_holds_up_nothing(world: World) -> None:
    world.store.register("ben")
    world.delivery_log.away = True
    async with world.process(quick(most_unrecorded=2)) as pipeline:
        for sender in ("ann", "cat", "dan"):
            await world.message(sender=sender)
        await world.committed()
        assert len(pipeline.dispatcher.fates) <= 2
        world.delivery_log.away = False
        await until(lambda: len(world.delivery_log.rows) == 2)


async def test_a_record_that_cannot_be_read_is_passed_over(world: World) -> None:
    world.store.register("ben")
    await world.append("ben", [b"\xff\xff no record"])
    async with world.process():
        await world.message()
        await world.committed()

    assert len(world.ios.sent) == 1


async def test_after_a_crash_what_was_settled_is_not_sent_again_and_what_was_gathered_is(world: World) -> None:
    world.store.register("ben")
    async with world.process() as pipeline:
        await world.message(conversation="g.1")
        await world.message(sender="cat")
        await world.ios.until(lambda: len(world.ios.sent) == 1)
        await until(lambda: pipeline.held == 1)
        await until_state(world)
    async with world.process() as pipeline:
        await until(lambda: pipeline.gathered == 1)
        world.pass_s(pipeline, 300)
        await world.committed()

    assert [push.data["conversation_id"] for push in world.ios.sent] == ["d.ben.cat", "g.1"]


async def until_state(world: World) -> None:
    async with asyncio.timeout(30):
        while not (await world.log.committed("push", "push", world.mesh.partition_of("ben"))).state:  # noqa: ASYNC110
            await asyncio.sleep(0.001)


async def test_the_limit_on_alerts_of_a_pair_holds_across_a_crash(world: World) -> None:
    world.store.register("ben")
    async with world.process():
        await world.message()
        await world.committed()
    async with world.process() as pipeline:
        world.clock.advance(10)
        await world.message()
        await until(lambda: pipeline.gathered == 1)
        assert len(world.ios.asked) == 1
        world.pass_s(pipeline, 50)
        await world.committed()

    assert len(world.ios.sent) == 2


async def test_a_partition_that_moves_is_finished_and_committed_by_who_leaves_it(world: World) -> None:
    world.store.register("ben")
    world.ios.script = lambda _: None
    async with world.process() as pipeline:
        await world.message()
        await world.message(conversation="g.1")
        await world.ios.until(lambda: len(world.ios.asked) == 1)
        await until(lambda: pipeline.gathered == 1)

        world.mesh.own()
        handing_over = asyncio.create_task(pipeline.handed_over())
        await until(lambda: pipeline.gathered == 0)
        assert not handing_over.done()
        world.ios.release.set()
        async with asyncio.timeout(30):
            await handing_over
        assert pipeline.held == 0

    world.mesh.own(0, 1)
    async with world.process() as successor:
        await until(lambda: successor.gathered == 1)
        world.pass_s(successor, 300)
        await world.committed()

    assert [push.data["conversation_id"] for push in world.ios.sent] == ["d.ann.ben", "g.1"]


async def test_a_partition_that_comes_back_goes_on(world: World) -> None:
    world.store.register("ben")
    async with world.process() as pipeline:
        await world.message()
        await world.committed()
        world.mesh.own()
        await pipeline.handed_over()
        await world.message(sender="cat")
        world.mesh.own(0, 1)
        await world.committed()

    assert len(world.ios.sent) == 2


async def test_what_a_full_window_holds_up_is_sent_before_its_time(world: World) -> None:
    world.store.register("ben")
    policy = PushPolicySettings(alert_burst=1000)
    async with world.process(quick(window_offsets=64, batch_records=16), policy) as pipeline:
        for number in range(200):
            await world.message(conversation=f"g.{number}", sender=f"s{number}")
        await until(lambda: len(world.ios.sent) >= 136)
        assert pipeline.held <= 64


async def test_what_waits_for_a_provider_that_is_away_is_given_up_when_the_window_is_full(world: World) -> None:
    world.ios.script = lambda _: Verdict(Outcome.RETRY, "UNREACHABLE")
    for number in range(300):
        world.store.register(f"user{number}", platform=Platform.IOS)
        world.store.register(f"other{number}", platform=Platform.ANDROID)
    android = world.providers[Platform.ANDROID]
    async with world.process(quick(window_offsets=64, batch_records=16)) as pipeline:
        for number in range(300):
            await world.message(f"user{number}")
            await world.message(f"other{number}")
        await android.until(lambda: len(android.sent) == 300)
        assert pipeline.held <= 2 * 64
        assert pipeline.dispatcher.lanes[Platform.IOS].away
        world.ios.script = lambda _: ACCEPTED
        world.pass_s(pipeline, 60)
        await world.committed()

    fates = world.delivery_log.fates()
    assert fates["GIVEN_UP NO_ROOM"] + len(world.ios.sent) == 300


async def test_memory_is_bounded_by_sending_the_oldest_gatherings_before_their_time(world: World) -> None:
    world.store.register("ben")
    policy = PushPolicySettings(most_gathered=50, alert_burst=1000)
    async with world.process(quick(batch_records=10), policy) as pipeline:
        for number in range(300):
            await world.message(conversation=f"g.{number}", sender=f"s{number}")
        await until(lambda: len(world.ios.sent) >= 240)
        assert pipeline.gathered <= 60


@pytest.mark.parametrize(
    ("verdict", "fate"),
    [
        (ACCEPTED, Fate.ACCEPTED),
        (Verdict(Outcome.GONE, "Unregistered"), Fate.REFUSED),
        (Verdict(Outcome.REFUSED, "BadTopic"), Fate.REFUSED),
        (Verdict(Outcome.RETRY, "TIMEOUT"), Fate.GIVEN_UP),
    ],
)
async def test_a_test_push_says_what_became_of_it(world: World, verdict: Verdict, fate: Fate) -> None:
    token = world.store.register("ben")
    world.ios.script = lambda _: verdict
    row = await world.pipeline().send_test(token)

    assert (row.fate, row.reason, row.kind, row.attempts) == (fate, verdict.reason, "test", 1)
    assert bool(world.store.rows) is (verdict.outcome is not Outcome.GONE)


async def test_a_test_push_without_a_provider_says_so(world: World) -> None:
    token = replace(world.store.register("ben"), platform=Platform.WEB)
    del world.providers[Platform.WEB]

    row = await world.pipeline().send_test(token)

    assert (row.fate, row.reason, row.attempts) == (Fate.DROPPED, "NO_PROVIDER", 0)


async def test_what_is_sent_again_after_a_crash_before_the_commit_is_the_same_push(world: World) -> None:
    world.store.register("ben")
    async with world.process(quick(commit_interval_s=3600)) as pipeline:
        await world.message(sender="cat")  # the first commit comes at once; after it there is none for an hour
        await world.committed()
        await world.message(conversation="g.1")
        await world.message(conversation="g.1")
        await until(lambda: pipeline.gathered == 2)
        world.pass_s(pipeline, 300)
        await world.ios.until(lambda: len(world.ios.sent) == 2)
        await world.message(conversation="g.1")
    async with world.process() as pipeline:
        await until(lambda: pipeline.gathered == 3)
        world.pass_s(pipeline, 300)
        await world.committed()

    assert len(world.ios.sent) == 3
    assert ids(world.ios.sent[1]) == ids(world.ios.sent[2])


async def test_what_was_in_the_log_before_a_process_began_goes_together(world: World) -> None:
    world.store.register("ben")
    for _ in range(6):
        await world.message()
    world.clock.advance(1)
    async with world.process(quick(batch_records=2)):
        await world.committed()

    assert [push.body for push in world.ios.sent] == ["6 new messages"]


async def test_a_push_that_is_tried_again_costs_its_device_once(world: World) -> None:
    world.store.register("ben")
    verdicts = iter([Verdict(Outcome.RETRY, "500"), Verdict(Outcome.RETRY, "500"), ACCEPTED, ACCEPTED])
    world.ios.script = lambda _: next(verdicts)
    async with world.process(policy=PushPolicySettings(alert_burst=2)) as pipeline:
        await world.message()

        def is_sent() -> bool:
            world.pass_s(pipeline, 1)
            return len(world.ios.sent) == 1

        await until(is_sent)
        await world.message(sender="cat")
        await world.committed()

    assert len(world.ios.sent) == 2


async def test_two_owners_for_a_while_send_a_push_twice_at_most_and_as_the_same(world: World) -> None:
    world.store.register("ben")
    async with world.process() as one, world.process() as other:
        await world.message()
        await world.message(conversation="g.1", sender="cat")
        await until(lambda: one.gathered == other.gathered == 1)
        world.pass_s(one, 300)
        other.wake()
        await world.committed()
        await until(lambda: one.held == other.held == 0)

    sent = Counter(ids(push) for push in world.ios.sent)
    assert len(sent) == 2
    assert max(sent.values()) <= 2


async def test_a_window_smaller_than_a_batch_still_comes_on(world: World) -> None:
    world.store.register("ben")
    async with world.process(quick(window_offsets=4, batch_records=16)):
        for sender in ("ann", "cat", "dan"):
            await world.message(sender=sender)
        await world.committed()

    assert len(world.ios.sent) == 3
