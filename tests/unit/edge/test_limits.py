from edge.limits import Admission, FrameLimit, TokenBucket
from edge.settings import EdgeSettings


def test_a_burst_passes_and_then_a_steady_rate() -> None:
    bucket = TokenBucket(per_s=10, burst=3, now_s=0.0)
    assert [bucket.take(0.0) for _ in range(4)] == [True, True, True, False]
    assert bucket.take(0.1)
    assert not bucket.take(0.1)


def test_the_wait_is_the_time_to_the_next_token() -> None:
    bucket = TokenBucket(per_s=10, burst=1, now_s=0.0)
    bucket.take(0.0)
    bucket.take(0.0)
    assert bucket.wait_s() == 0.1


def test_a_long_rest_gives_no_more_than_the_burst() -> None:
    bucket = TokenBucket(per_s=10, burst=2, now_s=0.0)
    assert [bucket.take(3600.0) for _ in range(3)] == [True, True, False]


SMALL = EdgeSettings(frames_per_s=1, frames_burst=1, refusals_per_s=2, refused_frames=5, refused_window_s=10)


def test_refusals_are_told_at_a_bounded_rate_and_then_only_counted() -> None:
    limit = FrameLimit(SMALL, 0.0)
    assert [limit.admit(0.0) for _ in range(4)] == [
        Admission.PASS,
        Admission.REFUSE,
        Admission.REFUSE,
        Admission.IGNORE,
    ]


def test_too_many_refusals_within_the_window_cut_the_connection_off() -> None:
    limit = FrameLimit(SMALL, 0.0)
    verdicts = [limit.admit(0.0) for _ in range(7)]
    assert verdicts[5] is Admission.IGNORE
    assert verdicts[6] is Admission.CUT_OFF


def test_a_new_window_forgives_old_refusals() -> None:
    limit = FrameLimit(SMALL, 0.0)
    for _ in range(6):
        limit.admit(0.0)
    assert limit.admit(10.0) is Admission.PASS
    assert limit.admit(10.0) is Admission.REFUSE
