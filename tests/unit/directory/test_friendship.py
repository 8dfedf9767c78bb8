"""The friendship table: complete, and closed over its seven states."""

import pytest

from services.directory.errors import Blocked, NotFriends
from services.directory.friendship import (
    ASKED,
    ASKED_BY_OTHER,
    BLOCKED_BY_BOTH,
    BLOCKED_BY_OTHER,
    BLOCKING,
    FRIENDS,
    STRANGERS,
    TABLE,
    Action,
    after,
    is_blocked,
)
from services.directory.model import Pair

STATES = (STRANGERS, ASKED, ASKED_BY_OTHER, FRIENDS, BLOCKING, BLOCKED_BY_OTHER, BLOCKED_BY_BOTH)


def mirrored(pair: Pair) -> Pair:
    return Pair(pair.theirs, pair.mine)


@pytest.mark.parametrize("action", Action)
def test_every_action_is_decided_for_every_state(action: Action) -> None:
    assert set(TABLE[action]) == set(STATES)


@pytest.mark.parametrize("action", Action)
def test_no_action_leads_out_of_the_seven_states(action: Action) -> None:
    outcomes = {outcome for outcome in TABLE[action].values() if isinstance(outcome, Pair)}

    assert outcomes <= set(STATES)


def test_each_state_is_one_for_the_other_user_too() -> None:
    assert {mirrored(state) for state in STATES} == set(STATES)


@pytest.mark.parametrize("action", [Action.ASK, Action.BLOCK, Action.UNBLOCK])
@pytest.mark.parametrize("state", [state for state in STATES if not is_blocked(state)])
def test_repeating_an_action_changes_nothing(action: Action, state: Pair) -> None:
    once = after(action, state)

    assert after(action, once) == once


def test_asking_back_accepts() -> None:
    asked = after(Action.ASK, STRANGERS)

    assert after(Action.ASK, mirrored(asked)) == FRIENDS


@pytest.mark.parametrize("state", [BLOCKING, BLOCKED_BY_OTHER, BLOCKED_BY_BOTH])
def test_who_blocks_or_is_blocked_cannot_ask(state: Pair) -> None:
    with pytest.raises(Blocked):
        after(Action.ASK, state)


@pytest.mark.parametrize("state", [STRANGERS, BLOCKING, BLOCKED_BY_OTHER, BLOCKED_BY_BOTH])
def test_what_is_not_there_cannot_be_ended(state: Pair) -> None:
    with pytest.raises(NotFriends):
        after(Action.END, state)


@pytest.mark.parametrize("state", [ASKED, ASKED_BY_OTHER, FRIENDS])
def test_requests_and_friendships_can_be_ended_by_either(state: Pair) -> None:
    assert after(Action.END, state) == STRANGERS


@pytest.mark.parametrize("state", STATES)
def test_a_block_leaves_nothing_of_a_friendship(state: Pair) -> None:
    assert after(Action.BLOCK, state) in (BLOCKING, BLOCKED_BY_BOTH)


def test_two_blocks_are_taken_back_one_by_one() -> None:
    left = after(Action.UNBLOCK, BLOCKED_BY_BOTH)

    assert (left, after(Action.UNBLOCK, mirrored(left))) == (BLOCKED_BY_OTHER, STRANGERS)


@pytest.mark.parametrize(
    ("state", "blocked"),
    [(STRANGERS, False), (FRIENDS, False), (BLOCKING, True), (BLOCKED_BY_OTHER, True), (BLOCKED_BY_BOTH, True)],
)
def test_a_block_by_either_counts(state: Pair, blocked: bool) -> None:
    assert is_blocked(state) is blocked
