"""Judges a recorded run of people who show each other where they are: was anybody shown what the rules forbade? Pure; times are
monotonic seconds of one clock, and everything is said in words.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

ON_ITS_WAY_S = 5.0
"""How long an event may have been on its way to a device that was slow, or between two connections."""


@dataclass(frozen=True, slots=True)
class Rule:
    """From when on a viewer may know an owner's place, and how exactly: HIDDEN, KILOMETRE or EXACT. Between `asked_s` and
    `answered_s` the rule before counts as well.
    """

    asked_s: float
    answered_s: float
    precision: str


@dataclass(frozen=True, slots=True)
class Shown:
    """A place that a viewer was shown: whose, when it was sent (if it can be told), when it came, and how exactly."""

    owner: str
    viewer: str
    sent_s: float | None
    came_s: float
    precision: str


Rules = Mapping[tuple[str, str], Sequence[Rule]]
"""Of an owner and a viewer, in order; the first one from the beginning on."""


def check_consent(shown: Iterable[Shown], rules: Rules) -> list[str]:
    """What was shown against the rules; empty if nothing was."""
    return [
        f"{one.viewer} was shown {one.owner} {one.precision} at {one.came_s:.2f}, sent at {one.sent_s}, by "
        f"{[rule for rule in rules[one.owner, one.viewer] if one.came_s - 30 < rule.answered_s < one.came_s + 10]}"
        for one in shown
        if not _was_allowed(one, rules[one.owner, one.viewer])
    ]


def _was_allowed(one: Shown, rules: Sequence[Rule]) -> bool:
    """Whether there was a moment, after it was sent and while it may have been on its way, at which the rules allowed it."""
    begin_s = one.came_s - ON_ITS_WAY_S
    if one.sent_s is not None:
        begin_s = max(begin_s, one.sent_s)
    ends = [after.answered_s for _, after in pairwise(rules)] + [float("inf")]
    return any(
        rule.asked_s <= one.came_s and begin_s <= end_s and _allows(rule.precision, one.precision)
        for rule, end_s in zip(rules, ends, strict=True)
    )


def _allows(rule: str, precision: str) -> bool:
    return rule == "EXACT" or (rule == "KILOMETRE" and precision == "KILOMETRE")
