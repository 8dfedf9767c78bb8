"""Folding by itself: the order of reports, gatherings and tellings."""

import pytest

from services.presence.folding import Folding, Link, Moment, Presence, Status

ONE = Link("edge-1", 1)
TWO = Link("edge-2", 2)


def at(now_s: float) -> Moment:
    return Moment(now_s, round(now_s * 1000) + 1_000_000)


def told(folding: Folding, now_s: float) -> list[Presence]:
    """Tells what has gathered, as an owner does for users of whom nothing was told before."""
    users = folding.gathered(at(now_s))
    for user_id in users:
        folding.recall(user_id, Status.OFFLINE)
    changes = [change for user_id in users if (change := folding.change(user_id))]
    for change in changes:
        folding.tell(change, at(now_s))
    for user_id in users:
        folding.rest(user_id)
    return changes


@pytest.fixture
def folding() -> Folding:
    return Folding(lifetime_s=30, gather_s=1, most_devices=100)


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
    folding.recall(user_id, Status.OFFLINE)
    online = folding.change(user_id)
    assert online == Presence("ann", Status.ONLINE)

    folding.disconnect("ann", "phone", ONE, at(1))
    folding.tell(online, at(1))

    assert [presence.status for presence in told(folding, 2)] == [Status.OFFLINE]


def test_nothing_is_shown_of_a_user_while_a_change_is_told(folding: Folding) -> None:
    folding.connect("ann", "phone", ONE, at(0))
    told(folding, 1)
    assert folding.shown("ann") == Presence("ann", Status.ONLINE)
    folding.set_status("ann", "phone", Status.AWAY, at(2))
    assert folding.shown("ann") == Presence("ann", Status.ONLINE)
    folding.gathered(at(3))

    away = folding.change("ann")
    assert away is not None
    assert folding.shown("ann") is None

    folding.tell(away, at(3))
    assert folding.shown("ann") == Presence("ann", Status.AWAY)


def test_a_change_whose_telling_failed_is_told_even_if_it_was_undone_since(folding: Folding) -> None:
    folding.connect("ann", "phone", ONE, at(0))
    told(folding, 1)
    folding.set_status("ann", "phone", Status.AWAY, at(2))
    folding.gathered(at(3))
    folding.change("ann")
    folding.set_status("ann", "phone", Status.ONLINE, at(3))

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

    assert not folding.set_status("ann", "phone", Status.AWAY, at(0))
    assert folding.change("ann") is None
    assert folding.shown("ann") is None
    assert not folding.is_here("ann")
