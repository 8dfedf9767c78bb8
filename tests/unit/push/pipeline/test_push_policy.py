"""When pushes are due, and for what: the rules one by one."""

import pytest

from services.push.arrivals import Arrival, Kind
from services.push.pipeline_settings import PushPolicySettings
from services.push.policy import EXPIRED, Plan, Policy

T0 = 1_790_000_000_000
SETTINGS = PushPolicySettings()


class Desk:
    """A policy with arrivals that number themselves."""

    def __init__(self, settings: PushPolicySettings = SETTINGS) -> None:
        self.policy = Policy(settings)
        self.offset = 0
        self.seqs: dict[str, int] = {}

    def take(
        self,
        at_s: float,
        kind: Kind = Kind.DIRECT,
        sender: str = "ann",
        conversation: str = "",
        age_s: float = 0.0,
        silenced: bool = False,
        user: str = "ben",
    ) -> str:
        conversation = conversation or (f"d.{sender}" if kind in (Kind.DIRECT, Kind.CALL) else "g.1")
        seq = self.seqs[conversation] = self.seqs.get(conversation, 0) + 1
        now_ms = T0 + round(at_s * 1000)
        create_ms = now_ms - round(age_s * 1000)
        arrival = Arrival(0, self.offset, user, seq, conversation, seq, 1000 + seq, sender, create_ms, kind)
        self.offset += 1
        return self.policy.take(arrival, now_ms, silenced=silenced)

    def due(self, at_s: float) -> list[Plan]:
        return self.policy.due(T0 + round(at_s * 1000), 100)

    @property
    def next_s(self) -> float | None:
        due_ms = self.policy.next_due_ms()
        return None if due_ms is None else (due_ms - T0) / 1000


def test_the_first_direct_message_goes_at_once_and_what_follows_within_the_minute_goes_together_at_its_end() -> None:
    desk = Desk()
    desk.take(0)
    (first,) = desk.due(0)
    for at_s in (5, 20, 59):
        desk.take(at_s)

    assert desk.due(59.9) == []
    assert desk.next_s == 60
    (second,) = desk.due(60)
    assert (first.kind, first.messages, first.urgent) == (Kind.DIRECT, 1, True)
    assert (second.messages, second.first_seq, second.newest.seq, second.offsets) == (3, 2, 4, (1, 2, 3))


def test_senders_do_not_hold_up_each_other() -> None:
    desk = Desk()
    desk.take(0, sender="ann")
    desk.take(0, sender="cat")

    assert [plan.newest.sender_id for plan in desk.due(0)] == ["ann", "cat"]


def test_messages_that_come_together_go_together() -> None:
    desk = Desk()
    for _ in range(10):
        desk.take(0)

    (plan,) = desk.due(0)

    assert plan.messages == 10


def test_a_groups_messages_go_five_minutes_after_the_first() -> None:
    desk = Desk()
    for at_s in (0, 100, 200, 299):
        desk.take(at_s, Kind.GROUP)

    assert desk.due(299.9) == []
    (plan,) = desk.due(300)
    assert (plan.kind, plan.messages, plan.urgent) == (Kind.GROUP, 4, False)


def test_ten_messages_of_a_group_do_not_wait_five_minutes() -> None:
    desk = Desk()
    for at_s in range(0, 100, 10):
        assert desk.due(at_s) == []
        desk.take(at_s, Kind.GROUP)

    (plan,) = desk.due(90)

    assert plan.messages == 10


def test_a_burst_of_fifteen_in_a_group_is_one_push() -> None:
    desk = Desk()
    for number in range(15):
        desk.take(number, Kind.GROUP, sender=f"s{number}")

    assert desk.due(59.9) == []
    (plan,) = desk.due(60)
    assert (plan.messages, len(plan.sender_ids)) == (15, 15)


def test_a_mention_goes_at_once_and_leaves_the_gathering_of_its_group_alone() -> None:
    desk = Desk()
    desk.take(0, Kind.GROUP)
    desk.take(10, Kind.MENTION, sender="cat")

    (mention,) = desk.due(10)
    (digest,) = desk.due(300)

    assert (mention.kind, mention.urgent, mention.newest.sender_id) == (Kind.MENTION, True, "cat")
    assert (digest.kind, digest.messages) == (Kind.GROUP, 1)


def test_a_groups_push_counts_for_everyone_whose_messages_it_stands_for() -> None:
    desk = Desk()
    desk.take(0, Kind.GROUP, sender="ann")
    assert len(desk.due(300)) == 1

    desk.take(310, Kind.DIRECT, sender="ann")

    assert desk.due(310) == []
    assert desk.next_s == 360
    assert len(desk.due(360)) == 1


def test_a_call_waits_for_nothing() -> None:
    desk = Desk()
    desk.take(0)
    desk.due(0)

    desk.take(1, Kind.CALL, silenced=True)

    (plan,) = desk.due(1)
    assert (plan.kind, plan.silent) == (Kind.CALL, False)


def test_a_call_that_is_over_is_a_message_like_any_other() -> None:
    desk = Desk()

    desk.take(0, Kind.CALL, age_s=30)

    (plan,) = desk.due(0)
    assert plan.kind is Kind.DIRECT


@pytest.mark.parametrize("kind", [Kind.DIRECT, Kind.GROUP, Kind.MENTION])
def test_what_is_not_to_be_shown_is_gathered_and_goes_silently(kind: Kind) -> None:
    desk = Desk()
    desk.take(0, kind, silenced=True)
    desk.take(200, kind, silenced=True)

    assert desk.due(299) == []
    (plan,) = desk.due(300)
    assert (plan.kind, plan.silent, plan.messages, plan.urgent) == (Kind.SYNC, True, 2, False)


def test_a_silent_push_does_not_use_up_its_senders_minute() -> None:
    desk = Desk()
    desk.take(0, silenced=True)
    desk.due(300)

    desk.take(301)

    assert len(desk.due(301)) == 1


def test_what_is_too_old_is_not_pushed() -> None:
    desk = Desk()

    assert desk.take(0, age_s=86_401) == EXPIRED
    assert desk.take(0, age_s=86_399) == ""


def test_what_alerts_between_hold_back_for_ten_minutes_goes_silently() -> None:
    desk = Desk()
    desk.take(0, Kind.GROUP, sender="ann")
    for number, at_s in enumerate(
        range(250, 600, 50)
    ):  # before ann's minute is over her next alert comes, as a call does not
        desk.policy.alerts.alerted(0, "ben", [f"x{number}", "ann"], T0 + at_s * 1000)
        assert desk.due(at_s) == []

    (plan,) = desk.due(600)

    assert plan.kind is Kind.SYNC


def test_a_message_that_the_log_has_twice_counts_once_and_settles_both() -> None:
    desk = Desk()
    desk.take(0)
    desk.seqs["d.ann"] = 0
    desk.take(0)

    (plan,) = desk.due(0)

    assert (plan.messages, plan.offsets) == (1, (0, 1))


def test_the_oldest_gatherings_go_before_their_time_when_there_is_no_room() -> None:
    desk = Desk(PushPolicySettings(most_gathered=3))
    desk.take(0, Kind.GROUP, conversation="g.1")
    desk.take(1, Kind.GROUP, conversation="g.1")
    assert not desk.policy.full
    desk.take(2, Kind.GROUP, conversation="g.2", sender="cat")
    assert desk.policy.full

    assert desk.policy.expedite(T0 + 2000, 1) == 1

    (plan,) = desk.due(2)
    assert (plan.conversation_id, plan.messages) == ("g.1", 2)
    assert desk.policy.gathered == 1


def test_the_number_of_gatherings_is_bounded_too() -> None:
    desk = Desk(PushPolicySettings(most_gatherings=2))
    desk.take(0, Kind.GROUP, conversation="g.1")
    desk.take(0, Kind.GROUP, conversation="g.1")
    assert not desk.policy.full

    desk.take(0, Kind.GROUP, conversation="g.2")

    assert desk.policy.full


def test_what_waits_before_an_offset_can_be_sent_before_its_time() -> None:
    desk = Desk()
    desk.take(0, Kind.GROUP, conversation="g.1")
    desk.take(0, Kind.GROUP, conversation="g.2", sender="cat")

    desk.policy.expedite_before(0, 1, T0 + 1000)

    assert [plan.conversation_id for plan in desk.due(1)] == ["g.1"]


def test_nothing_is_due_of_a_partition_that_is_held() -> None:
    desk = Desk()
    desk.policy.hold(0)
    desk.take(0)
    assert desk.due(0) == []
    assert desk.next_s is None
    desk.take(1)

    desk.policy.let_go(0)

    (plan,) = desk.due(1)
    assert plan.messages == 2


def test_a_partition_that_has_moved_leaves_nothing_behind() -> None:
    desk = Desk()
    desk.take(0, Kind.GROUP)

    desk.policy.forget(0)

    assert desk.policy.gathered == 0
    assert desk.due(1000) == []
    assert desk.next_s is None
