"""Which fixes can be true: not too old, not of the future, not farther from the last than anybody travels. Pure."""

from discovery.errors import FailedPrecondition, InvalidArgument, Violation
from services.location.distance import distance_m
from services.location.precision import Fix

LIFETIME_MS = 600_000
"""How old the newest fix of a user may be to be shown to anybody; older ones are not taken."""
_MOST_AHEAD_MS = 60_000
_MOST_SPEED_MPS = 1_000_000 / 3600
_LEAST_STEP_S = 1.0


class ImplausibleMove(FailedPrecondition):
    """The fix is farther from the newest one than anybody travels in the time between."""

    reason = "IMPLAUSIBLE_MOVE"


class FixOutOfTime(InvalidArgument):
    """The fix is too old, or of the future."""

    reason = "FIX_OUT_OF_TIME"


def check(fix: Fix, last: Fix | None, now_ms: int) -> None:
    """Raises FixOutOfTime or ImplausibleMove. `last` is the newest fix before this one, if it is known; what both may be off
    counts in favour of the new one.
    """
    if not now_ms - LIFETIME_MS <= fix.time_ms <= now_ms + _MOST_AHEAD_MS:
        violation = Violation("timestamp", "must be at most 600 s in the past and 60 s in the future")
        raise FixOutOfTime("The fix is of another time.", violations=(violation,))
    if last is None:
        return
    elapsed_s = max(abs(fix.time_ms - last.time_ms) / 1000, _LEAST_STEP_S)
    gap_m = distance_m(fix.lat, fix.lng, last.lat, last.lng) - fix.accuracy_m - last.accuracy_m
    if gap_m > _MOST_SPEED_MPS * elapsed_s:
        raise ImplausibleMove("Nobody travels that fast.")


def is_live(fix: Fix, now_ms: int) -> bool:
    """Whether the fix is young enough to be shown."""
    return now_ms < fix.time_ms + LIFETIME_MS
