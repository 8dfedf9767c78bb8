"""What holds of the policy whatever arrives: nothing is lost or doubled, limits are kept, waits end, memory is bounded."""

from collections import defaultdict
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from services.push.arrivals import Arrival, Kind
from services.push.pipeline_settings import PushPolicySettings
from services.push.policy import Plan, Policy

T0 = 1_790_000_000_000
SETTINGS = PushPolicySettings(most_gathered=40)
KINDS = (Kind.DIRECT, Kind.GROUP, Kind.MENTION, Kind.CALL)

arrivals = st.lists(
    st.tuples(
        st.integers(0, 90_000),  # milliseconds since the one before
        st.sampled_from(KINDS),
        st.sampled_from(["ann", "cat", "dan"]),
        st.sampled_from(["ben", "eve"]),
        st.sampled_from(["g.1", "g.2"]),
        st.booleans(),
    ),
    max_size=120,
)


def play(steps: list[tuple[int, Kind, str, str, str, bool]]) -> tuple[list[Arrival], list[tuple[int, Plan]], set[int]]:
    """The arrivals, the plans with their times, and the offsets of what was dropped."""
    policy = Policy(SETTINGS)
    taken: list[Arrival] = []
    plans: list[tuple[int, Plan]] = []
    dropped: set[int] = set()
    now_ms = T0

    def release(until_ms: int) -> None:
        nonlocal now_ms
        while (due_ms := policy.next_due_ms()) is not None and due_ms <= until_ms:
            now_ms = max(now_ms, due_ms)
            plans.extend((now_ms, plan) for plan in policy.due(now_ms, 5))
        now_ms = max(now_ms, until_ms)

    for offset, (pause_ms, kind, sender, user, group, silenced) in enumerate(steps):
        release(now_ms + pause_ms)
        conversation = f"d.{user}.{sender}" if kind in (Kind.DIRECT, Kind.CALL) else group
        arrival = Arrival(0, offset, user, offset, conversation, offset + 1, offset, sender, now_ms, kind)
        taken.append(arrival)
        if policy.full:
            policy.expedite(now_ms, 1)
            plans.extend((now_ms, plan) for plan in policy.due(now_ms, 1000))
        if policy.take(arrival, now_ms, silenced=silenced):
            dropped.add(offset)
        assert policy.gathered <= SETTINGS.most_gathered
    release(now_ms + 3_600_000)
    assert policy.gathered == 0
    return taken, plans, dropped


@given(arrivals)
@settings(max_examples=150, deadline=None)
def test_every_arrival_ends_in_exactly_one_push_or_is_dropped(
    steps: list[tuple[int, Kind, str, str, str, bool]],
) -> None:
    taken, plans, dropped = play(steps)

    settled = sorted([*dropped, *(offset for _, plan in plans for offset in plan.offsets)])

    assert settled == [arrival.offset for arrival in taken]
    for _, plan in plans:
        assert plan.messages == len(plan.offsets)
        assert {taken[offset].conversation_id for offset in plan.offsets} == {plan.conversation_id}
        assert {taken[offset].user_id for offset in plan.offsets} == {plan.user_id}
        assert plan.first_seq == taken[plan.offsets[0]].seq
        assert plan.newest == taken[plan.offsets[-1]]


@given(arrivals)
@settings(max_examples=150, deadline=None)
def test_no_sender_has_two_alerts_for_one_receiver_within_a_minute(
    steps: list[tuple[int, Kind, str, str, str, bool]],
) -> None:
    _, plans, _ = play(steps)
    alerts = defaultdict(list)
    for at_ms, plan in plans:
        if plan.kind not in (Kind.CALL, Kind.SYNC):
            for sender_id in plan.sender_ids:
                alerts[plan.user_id, sender_id].append(at_ms)

    for times in alerts.values():
        assert all(later - earlier >= 60_000 for earlier, later in pairwise(times))


@given(arrivals)
@settings(max_examples=150, deadline=None)
def test_nothing_waits_longer_than_stated(steps: list[tuple[int, Kind, str, str, str, bool]]) -> None:
    taken, plans, _ = play(steps)

    for at_ms, plan in plans:
        waited_ms = at_ms - taken[plan.offsets[0]].create_ms
        assert waited_ms <= 600_000
        if plan.kind is Kind.CALL:
            assert waited_ms == 0
        if plan.kind is Kind.SYNC and waited_ms > 300_000:  # it was an alert that was held back
            assert waited_ms == 600_000


@given(arrivals)
@settings(max_examples=100, deadline=None)
def test_what_is_not_to_be_shown_is_not_shown(steps: list[tuple[int, Kind, str, str, str, bool]]) -> None:
    _, plans, _ = play(steps)

    for _, plan in plans:
        for offset in plan.offsets:
            silenced, kind = steps[offset][5], steps[offset][1]
            assert plan.silent or kind is Kind.CALL or not silenced
