import pytest

from hither_client.backoff import Backoff
from hither_client.errors import RequestFailed, request_failed
from hither_client.outbox import Outbox, Request


def request(name: str, lane: str = "to bob") -> Request:
    return Request(name, "send_message", {"client_id": name}, lane, backoff=Backoff(uniform=min))


def ids(requests: list[Request]) -> list[str]:
    return [one.id for one in requests]


def connected(*requests: Request) -> Outbox:
    outbox = Outbox(answer_deadline_s=5.0)
    for one in requests:
        outbox.add(one)
    outbox.connected()
    return outbox


UNAVAILABLE: RequestFailed = request_failed("UNAVAILABLE", "ENGINE_DOWN", retry_after_s=2.0)
REFUSED: RequestFailed = request_failed("PERMISSION_DENIED", "NOT_A_MEMBER")


def test_nothing_is_due_without_a_connection() -> None:
    outbox = Outbox()
    outbox.add(request("a"))
    assert outbox.due(0.0) == []
    assert outbox.next_due_s() is None


def test_requests_of_one_lane_go_one_at_a_time() -> None:
    outbox = connected(request("a"), request("b"))
    assert ids(outbox.due(0.0)) == ["a"]
    assert ids(outbox.due(0.0)) == []
    outbox.answered("a")
    assert ids(outbox.due(0.0)) == ["b"]


def test_lanes_do_not_wait_for_each_other() -> None:
    outbox = connected(request("a", "to bob"), request("b", "to carol"), request("c", ""), request("d", ""))
    assert ids(outbox.due(0.0)) == ["a", "b", "c", "d"]


def test_a_request_without_an_answer_is_due_again_after_five_seconds() -> None:
    outbox = connected(request("a"))
    outbox.due(0.0)
    assert ids(outbox.due(4.9)) == []
    assert outbox.next_due_s() == 5.0
    assert ids(outbox.due(5.0)) == ["a"]


def test_after_a_reconnect_what_is_unanswered_is_due_at_once_and_in_order() -> None:
    outbox = connected(request("a", "to bob"), request("b", "to carol"), request("c", "to bob"))
    outbox.due(0.0)
    outbox.disconnected()
    assert outbox.due(1.0) == []
    outbox.connected()
    assert ids(outbox.due(1.0)) == ["a", "b"]


def test_a_request_that_may_be_repeated_waits_as_long_as_the_server_said() -> None:
    outbox = connected(request("a"))
    outbox.due(0.0)
    assert outbox.failed("a", UNAVAILABLE, 1.0)
    assert ids(outbox.due(2.9)) == []
    assert ids(outbox.due(3.0)) == ["a"]


def test_a_later_send_does_not_overtake_one_that_is_being_repeated() -> None:
    outbox = connected(request("a"), request("b"))
    outbox.due(0.0)
    outbox.failed("a", UNAVAILABLE, 0.0)
    assert ids(outbox.due(1.0)) == []
    assert ids(outbox.due(2.0)) == ["a"]


def test_a_reconnect_does_not_cut_short_the_delay_that_the_server_asked_for() -> None:
    outbox = connected(request("a"))
    outbox.due(0.0)
    outbox.failed("a", UNAVAILABLE, 0.0)
    outbox.disconnected()
    outbox.connected()
    assert ids(outbox.due(1.0)) == []


def test_a_final_refusal_lets_the_next_of_the_lane_go() -> None:
    outbox = connected(request("a"), request("b"))
    outbox.due(0.0)
    assert not outbox.failed("a", REFUSED, 0.0)
    assert ids(outbox.due(0.0)) == ["b"]


def test_a_withdrawn_request_is_forgotten_wherever_it_stands() -> None:
    outbox = connected(request("a"), request("b"), request("c"))
    assert outbox.answered("b")
    assert not outbox.answered("b")
    outbox.answered("a")
    assert ids(outbox.due(0.0)) == ["c"]


def test_an_exhausted_quota_is_final_and_a_rate_limit_is_not() -> None:
    assert not request_failed("RESOURCE_EXHAUSTED", "QUOTA_EXCEEDED").may_retry
    assert request_failed("RESOURCE_EXHAUSTED", "RATE_LIMITED", retry_after_s=0.1).may_retry


@pytest.mark.parametrize(("failures", "bound_s"), [(0, 1.0), (1, 2.0), (4, 16.0), (5, 30.0), (60, 30.0)])
def test_the_bound_of_the_backoff_doubles_up_to_thirty_seconds(failures: int, bound_s: float) -> None:
    backoff = Backoff(uniform=lambda _low, high: high)
    for _ in range(failures):
        backoff.next_s()
    assert backoff.next_s() == bound_s


def test_the_backoff_jitters_from_zero_and_begins_anew_after_a_success() -> None:
    draws: list[tuple[float, float]] = []
    backoff = Backoff(uniform=lambda low, high: draws.append((low, high)) or low)  # type: ignore[func-returns-value]
    backoff.next_s()
    backoff.next_s()
    backoff.reset()
    assert backoff.next_s(at_least_s=7.0) == 7.0
    assert draws == [(0.0, 1.0), (0.0, 2.0), (0.0, 1.0)]
