"""The rate of sends."""

from services.messaging.admission import Admission


def test_a_quiet_sender_may_send_a_burst_and_then_waits_for_the_next_token() -> None:
    admission = Admission(rate_per_s=2, burst=3, most_senders=10)

    assert [admission.admit("ann", 0) for _ in range(3)] == [0, 0, 0]
    assert admission.admit("ann", 0) == 0.5


def test_a_refused_send_takes_no_token() -> None:
    admission = Admission(rate_per_s=1, burst=1, most_senders=10)
    admission.admit("ann", 0)
    admission.admit("ann", 0.5)

    assert admission.admit("ann", 1) == 0


def test_a_sender_never_saves_more_than_the_burst() -> None:
    admission = Admission(rate_per_s=10, burst=2, most_senders=10)
    admission.admit("ann", 0)

    assert [admission.admit("ann", 100) > 0 for _ in range(3)] == [False, False, True]


def test_senders_do_not_share_a_rate() -> None:
    admission = Admission(rate_per_s=1, burst=1, most_senders=10)
    admission.admit("ann", 0)

    assert admission.admit("ben", 0) == 0


def test_the_sender_who_was_quiet_for_longest_is_forgotten_first() -> None:
    admission = Admission(rate_per_s=1, burst=1, most_senders=2)
    for sender_id in ("ann", "ben", "ann", "cat"):
        admission.admit(sender_id, 0)

    assert admission.admit("ann", 0) > 0
    assert admission.admit("ben", 0) == 0
