"""The judge of consent finds what it is there for."""

import pytest

from tests.chaos.consent import ON_ITS_WAY_S, Rule, Shown, check_consent

PAIR = ("ann", "bob")
UNTIL_100 = [Rule(0, 0, "EXACT"), Rule(100, 101, "HIDDEN")]


def shown(sent_s: float | None, came_s: float, precision: str = "EXACT") -> Shown:
    return Shown(*PAIR, sent_s, came_s, precision)


@pytest.mark.parametrize(
    "one",
    [
        shown(50, 50.1),
        shown(100.5, 100.6),  # the change was under way
        shown(100.9, 103),  # and its event on its way
        shown(None, 101 + ON_ITS_WAY_S - 0.1, "KILOMETRE"),
    ],
)
def test_what_the_rules_allowed_at_some_moment_is_no_problem(one: Shown) -> None:
    assert check_consent([one], {PAIR: UNTIL_100}) == []


@pytest.mark.parametrize(
    "one",
    [
        shown(101.1, 101.2),  # sent after the change was answered
        shown(90, 101 + ON_ITS_WAY_S + 0.1),  # held back for too long
        shown(None, 101 + ON_ITS_WAY_S + 0.1),
    ],
)
def test_what_was_shown_after_it_was_forbidden_is_found(one: Shown) -> None:
    assert len(check_consent([one], {PAIR: UNTIL_100})) == 1


def test_more_than_was_granted_is_found() -> None:
    rules = {PAIR: [Rule(0, 0, "KILOMETRE"), Rule(50, 51, "EXACT")]}

    assert check_consent([shown(10, 10.1, "KILOMETRE")], rules) == []
    assert len(check_consent([shown(10, 10.1, "EXACT")], rules)) == 1
    assert check_consent([shown(50.5, 50.6, "EXACT")], rules) == []
