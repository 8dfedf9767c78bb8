"""Wrong passwords: counted in a sliding window, in bounded memory."""

import pytest

from services.directory.attempts import WrongPasswords
from services.directory.errors import RateLimited
from tests.support.clock import ManualClock


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def wrong(clock: ManualClock) -> WrongPasswords:
    return WrongPasswords(most=3, window_s=900, users_most=5, clock=clock)


def test_the_attempt_after_the_last_allowed_one_is_refused_until_the_oldest_is_out_of_the_window(
    wrong: WrongPasswords, clock: ManualClock
) -> None:
    for _ in range(3):
        wrong.begin("alice")
        clock.advance(100)

    with pytest.raises(RateLimited) as refused:
        wrong.begin("alice")

    assert refused.value.retry_after_s == 600


def test_an_attempt_is_looked_at_again_after_the_time_that_was_named(wrong: WrongPasswords, clock: ManualClock) -> None:
    for _ in range(3):
        wrong.begin("alice")
    clock.advance(900)

    wrong.begin("alice")


def test_a_forgiven_attempt_does_not_count(wrong: WrongPasswords) -> None:
    for _ in range(10):
        wrong.begin("alice")
        wrong.forgive("alice")

    assert len(wrong) == 0


def test_users_are_counted_apart(wrong: WrongPasswords) -> None:
    for _ in range(3):
        wrong.begin("alice")

    wrong.begin("bob")


def test_no_more_users_are_remembered_than_allowed(wrong: WrongPasswords) -> None:
    for number in range(50):
        wrong.begin(f"user{number}")

    assert len(wrong) == 5


def test_users_are_forgotten_when_their_window_is_over(wrong: WrongPasswords, clock: ManualClock) -> None:
    wrong.begin("alice")
    wrong.begin("bob")
    clock.advance(900)

    wrong.begin("carol")

    assert len(wrong) == 1
