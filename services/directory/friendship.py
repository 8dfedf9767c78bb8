"""The friendship of two users, as a table: what each action makes of each state.

Pure. A pair is always one of seven: strangers, asked (by one or the other), friends, blocked (by one, the other or
both).
"""

from collections.abc import Mapping
from enum import Enum

from discovery.errors import HitherError
from services.directory.errors import Blocked, NotFriends
from services.directory.model import Pair, Side


class Action(Enum):
    """What a user may do about another."""

    ASK = "ask"
    END = "end"
    BLOCK = "block"
    UNBLOCK = "unblock"


STRANGERS = Pair(Side.NONE, Side.NONE)
ASKED = Pair(Side.REQUESTED, Side.PENDING)
ASKED_BY_OTHER = Pair(Side.PENDING, Side.REQUESTED)
FRIENDS = Pair(Side.ACCEPTED, Side.ACCEPTED)
BLOCKING = Pair(Side.BLOCKED, Side.NONE)
BLOCKED_BY_OTHER = Pair(Side.NONE, Side.BLOCKED)
BLOCKED_BY_BOTH = Pair(Side.BLOCKED, Side.BLOCKED)

TABLE: Mapping[Action, Mapping[Pair, Pair | type[HitherError]]] = {
    Action.ASK: {
        STRANGERS: ASKED,
        ASKED: ASKED,
        ASKED_BY_OTHER: FRIENDS,
        FRIENDS: FRIENDS,
        BLOCKING: Blocked,
        BLOCKED_BY_OTHER: Blocked,
        BLOCKED_BY_BOTH: Blocked,
    },
    Action.END: {
        STRANGERS: NotFriends,
        ASKED: STRANGERS,
        ASKED_BY_OTHER: STRANGERS,
        FRIENDS: STRANGERS,
        BLOCKING: NotFriends,
        BLOCKED_BY_OTHER: NotFriends,
        BLOCKED_BY_BOTH: NotFriends,
    },
    Action.BLOCK: {
        STRANGERS: BLOCKING,
        ASKED: BLOCKING,
        ASKED_BY_OTHER: BLOCKING,
        FRIENDS: BLOCKING,
        BLOCKING: BLOCKING,
        BLOCKED_BY_OTHER: BLOCKED_BY_BOTH,
        BLOCKED_BY_BOTH: BLOCKED_BY_BOTH,
    },
    Action.UNBLOCK: {
        STRANGERS: STRANGERS,
        ASKED: ASKED,
        ASKED_BY_OTHER: ASKED_BY_OTHER,
        FRIENDS: FRIENDS,
        BLOCKING: STRANGERS,
        BLOCKED_BY_OTHER: BLOCKED_BY_OTHER,
        BLOCKED_BY_BOTH: BLOCKED_BY_OTHER,
    },
}
"""What each action makes of each pair, seen from who acts; an error where the action is refused."""


def after(action: Action, pair: Pair) -> Pair:
    """The pair as the action leaves it (unchanged where it does nothing). Raises Blocked or NotFriends."""
    outcome = TABLE[action][pair]
    if isinstance(outcome, Pair):
        return outcome
    raise outcome()


def is_blocked(pair: Pair) -> bool:
    """Whether either of the two has blocked the other."""
    return Side.BLOCKED in (pair.mine, pair.theirs)
