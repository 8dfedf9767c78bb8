"""Folding by itself: the order of reports, gatherings and tellings."""

import pytest

from services.presence.folding import ABSENT, Folding, Link, Moment, Presence, Status, Told

ONE = Link("edge-1", 1)
TWO = Link("edge-2", 2)


def at(now_s: float) -> Moment:
    return Moment(now_s, round(now_s * 1000) + 1_000_000)


def told(folding: Folding, now_s: float) -> list[Presence]:
    """Tells what has gathered, as an owner does for users of whom nothing was told before."""
    users = folding.gathered(at(now_s))
    for user_id in users:
        folding.recall(user_id, ABSENT)
    changes = [change for user_id in users if (change := folding.change(user_id, at(now_s)))]
    for change in changes:
        folding.tell(change, at(now_s))
    for user_id in users:
        folding.rest(user_id)
    return changes


@pytest.fixture
def folding() -> Folding:
    return Folding(lifetime_s=30, gather_s=1, offline_after_s=1, most_devices=100)


def test_only_a_new_connection_is_new(folding: Folding) -> None:
    assert folding.connect("ann", "phone", ONE, at(0))
    assert not folding.connect("ann", "phone", ONE, at(10))
    assert folding.connect("ann", "phone", TWO, at(10))


def test_devices_run_out_in_the_order_of_their_last_reports(folding: Folding) -> None:
    folding.connect("ann", "phone", ONE, at(0))
    folding.connect("bob", "phone", ONE, at(1))
    told(folding, 5)
    folding.connect("ann", "phone", ONE, at(20))

    folding.expire(at(31))

    assert told(folding, 32) == [Presence("bob", Status.OFFLINE, at(1).now_ms)]
    assert (folding.is_here("ann"), folding.is_here("bob")) == (True, False)


def test_a_change_while_another_is_told_is_told_next(folding: Folding) -> None:
    folding.connect("ann", "phone", ONE, at(0))
    [user_id] = folding.gathered(at(1))
    folding.recall(user_id, ABSENT)
    online = folding.change(user_id, at(1))
    assert online == Presence("ann", Status.ONLINE)

    folding.disconnect("ann", "phone", ONE, at(1))
    folding.tell(online, at(1))

    assert [presence.status for presence in told(folding, 2)] == [Status.OFFLINE]


def test_nothing_is_shown_of_a_user_while_a_change_is_told(folding: Folding) -> None:
    folding.connect("ann", "phone", ONE, at(0))
    told(folding, 1)
    assert folding.shown("ann") == Presence("ann", Status.ONLINE)
    folding.set_status("ann", "phone", Status.AWAY, None, at(2))
    assert folding.shown("ann") == Presence("ann", Status.ONLINE)
    folding.gathered(at(3))

    away = folding.change("ann", at(3))
    assert away is not None
    assert folding.shown("ann") is None

    folding.tell(away, at(3))
    assert folding.shown("ann") == Presence("ann", Status.AWAY)


def test_a_change_whose_telling_failed_is_told_even_if_it_was_undone_since(folding: Folding) -> None:
    folding.connect("ann", "phone", ONE, at(0))
    told(folding, 1)
    folding.set_status("ann", "phone", Status.AWAY, None, at(2))
    folding.gathered(at(3))
    folding.change("ann", at(3))
    folding.set_status("ann", "phone", Status.ONLINE, None, at(3))

    folding.again("ann", at(3))

    assert told(folding, 4) == [Presence("ann", Status.ONLINE)]


def test_a_user_who_is_not_there_is_not_kept_when_telling_fails_with_nothing_to_tell(folding: Folding) -> None:
    folding.connect("ann", "phone", ONE, at(0))
    folding.disconnect("ann", "phone", ONE, at(0))
    [user_id] = folding.gathered(at(1))
    folding.again(user_id, at(1))
    assert folding.is_here("ann")

    assert told(folding, 2) == []

    assert not folding.is_here("ann")
    assert len(folding) == 0


def test_a_user_who_is_owned_elsewhere_leaves_nothing_behind(folding: Folding) -> None:
    folding.connect("ann", "phone", ONE, at(0))
    folding.connect("ann", "laptop", TWO, at(0))
    folding.connect("bob", "phone", ONE, at(0))

    assert folding.keep(lambda user_id: user_id == "bob") == ["ann"]

    folding.expire(at(31))
    assert len(folding) == 0
    assert [presence.user_id for presence in told(folding, 32)] == []
    assert folding.gathered(at(100)) == []


def test_reports_of_what_is_not_known_change_nothing(folding: Folding) -> None:
    folding.disconnect("ann", "phone", ONE, at(0))

    assert not folding.set_status("ann", "phone", Status.AWAY, None, at(0))
    assert folding.change("ann", at(0)) is None
    assert folding.shown("ann") is None
    assert not folding.is_here("ann")


def settle(folding: Folding, now_s: float) -> None:
    """Has ann come and told of."""
    folding.connect("ann", "phone", ONE, at(now_s))
    told(folding, now_s + 1)


@pytest.fixture
def patient() -> Folding:
    return Folding(lifetime_s=30, gather_s=1, offline_after_s=5, most_devices=100)


def test_who_has_gone_is_told_of_only_after_a_while_and_as_of_the_time_of_going(patient: Folding) -> None:
    settle(patient, 0)
    patient.disconnect("ann", "phone", ONE, at(10))

    assert told(patient, 14.9) == []
    assert told(patient, 15) == [Presence("ann", Status.OFFLINE, at(10).now_ms)]
    assert not patient.is_here("ann")


def test_who_comes_back_in_time_has_never_gone(patient: Folding) -> None:
    settle(patient, 0)
    patient.disconnect("ann", "phone", ONE, at(10))
    patient.connect("ann", "phone", TWO, at(14))

    assert [told(patient, now_s) for now_s in (15, 16, 20, 30)] == [[]] * 4


def test_who_comes_back_otherwise_is_told_of_without_the_wait(patient: Folding) -> None:
    settle(patient, 0)
    patient.disconnect("ann", "phone", ONE, at(10))
    patient.connect("ann", "phone", TWO, at(11))
    patient.set_status("ann", "phone", Status.AWAY, None, at(11))

    assert told(patient, 12) == [Presence("ann", Status.AWAY)]
    assert told(patient, 20) == []


def test_a_change_just_before_going_does_not_shorten_the_wait(patient: Folding) -> None:
    settle(patient, 0)
    patient.set_status("ann", "phone", Status.AWAY, None, at(10))
    patient.disconnect("ann", "phone", ONE, at(10.5))

    assert told(patient, 11) == []
    assert patient.is_here("ann")
    assert told(patient, 15.5) == [Presence("ann", Status.OFFLINE, at(10.5).now_ms)]


def test_a_device_that_was_not_reported_for_so_long_is_gone_without_another_wait(patient: Folding) -> None:
    settle(patient, 0)

    patient.expire(at(30))

    assert told(patient, 31) == [Presence("ann", Status.OFFLINE, at(0).now_ms)]


def test_a_minute_of_flapping_tells_nothing_and_leaves_nothing_behind(patient: Folding) -> None:
    settle(patient, 0)
    changes: list[Presence] = []
    for tick in range(300):
        now_s = 2 + tick * 0.2
        patient.disconnect("ann", "phone", Link("edge-1", tick + 1), at(now_s))
        patient.connect("ann", "phone", Link("edge-1", tick + 2), at(now_s + 0.1))
        changes += told(patient, now_s + 0.15)

    assert changes == []
    assert len(patient._gatherings) <= 2


def test_a_minute_of_changes_is_told_once_a_second(patient: Folding) -> None:
    settle(patient, 0)
    changes: list[Presence] = []
    for tick in range(300):
        now_s = 2 + tick * 0.2
        patient.set_status("ann", "phone", Status.ONLINE, str(tick), at(now_s))
        changes += told(patient, now_s)

    assert 30 <= len(changes) <= 60


def test_a_text_is_told_with_the_status_and_ends_with_the_last_device(patient: Folding) -> None:
    settle(patient, 0)
    patient.set_status("ann", "phone", Status.AWAY, "at lunch", at(2))
    assert told(patient, 3) == [Presence("ann", Status.AWAY, text="at lunch")]
    patient.set_status("ann", "phone", Status.ONLINE, None, at(4))
    assert told(patient, 5) == [Presence("ann", Status.ONLINE, text="at lunch")]
    assert patient.shown("ann") == Presence("ann", Status.ONLINE, text="at lunch")

    patient.disconnect("ann", "phone", ONE, at(6))
    assert told(patient, 11) == [Presence("ann", Status.OFFLINE, at(6).now_ms)]
    patient.connect("ann", "phone", TWO, at(20))
    assert told(patient, 21) == [Presence("ann", Status.ONLINE)]


def test_a_text_ends_although_the_user_comes_back_while_that_is_told(patient: Folding) -> None:
    settle(patient, 0)
    patient.set_status("ann", "phone", Status.ONLINE, "busy", at(2))
    told(patient, 3)
    patient.disconnect("ann", "phone", ONE, at(4))
    patient.gathered(at(9))
    gone = patient.change("ann", at(9))
    assert gone is not None
    patient.connect("ann", "phone", TWO, at(9))

    patient.tell(gone, at(9))

    assert told(patient, 10) == [Presence("ann", Status.ONLINE)]


def test_an_empty_text_takes_the_text_back(patient: Folding) -> None:
    settle(patient, 0)
    patient.set_status("ann", "phone", Status.ONLINE, "busy", at(2))
    told(patient, 3)

    patient.set_status("ann", "phone", Status.ONLINE, "", at(4))

    assert told(patient, 5) == [Presence("ann", Status.ONLINE)]


def test_the_next_owner_keeps_the_text_unless_another_was_said_there(patient: Folding) -> None:
    for user_id in ("ann", "bob"):
        patient.connect(user_id, "phone", ONE, at(0))
    patient.set_status("bob", "phone", Status.ONLINE, "", at(0))
    patient.gathered(at(1))

    for user_id in ("ann", "bob"):
        patient.recall(user_id, Told(Status.ONLINE, "busy"))

    assert patient.change("ann", at(1)) is None
    assert patient.change("bob", at(1)) == Presence("bob", Status.ONLINE)


def test_what_a_device_is_interested_in_ends_with_its_connection(patient: Folding) -> None:
    settle(patient, 0)
    patient.connect("ann", "laptop", ONE, at(0))
    patient.choose("ann", "phone", frozenset({"bob"}))
    assert patient.interests("ann") == {"phone": frozenset({"bob"}), "laptop": None}
    patient.connect("ann", "phone", ONE, at(10))
    assert patient.interests("ann") != {}

    patient.connect("ann", "phone", TWO, at(11))

    assert patient.interests("ann") == {}
