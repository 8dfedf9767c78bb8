from collections.abc import Callable

import pytest

from services.storage.sqlite.handoff import Handoff


class FakeTimer:
    def __init__(self, callback: Callable[[], None]) -> None:
        self.callback = callback
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class Loop:
    """Keeps the timers for the test to fire."""

    def __init__(self) -> None:
        self.timers: list[FakeTimer] = []

    def call_later(self, delay: float, callback: Callable[[], None]) -> FakeTimer:
        self.timers.append(FakeTimer(callback))
        return self.timers[-1]

    def armed(self) -> list[FakeTimer]:
        return [timer for timer in self.timers if not timer.cancelled]


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    pauses: list[float] = []
    monkeypatch.setattr("services.storage.sqlite.handoff.time.sleep", pauses.append)
    return pauses


def test_a_thread_that_answers_in_time_costs_no_pause(pauses: list[float]) -> None:
    loop = Loop()
    turns = Handoff(loop)

    turns.expect()
    turns.answered(1)

    assert loop.armed() == []
    assert pauses == []


def test_an_overdue_thread_gets_a_pause_again_and_again_until_it_answers(pauses: list[float]) -> None:
    loop = Loop()
    turns = Handoff(loop)
    turns.expect()

    loop.timers[0].callback()
    loop.timers[1].callback()
    turns.answered(1)

    assert len(pauses) == 2
    assert loop.timers[2].cancelled


def test_an_answer_starts_the_clock_anew_for_what_is_left() -> None:
    loop = Loop()
    turns = Handoff(loop)
    turns.expect()
    turns.expect()

    turns.answered(1)

    assert [timer.cancelled for timer in loop.timers] == [True, False]
