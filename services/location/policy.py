"""How often a device should tell where it is, and which fixes are worth keeping. Pure."""

from dataclasses import dataclass

from services.location.distance import distance_m
from services.location.precision import Fix

_MOVING_MPS = 3.0
"""Faster than anybody walks."""
_STILL_MPS = 0.3
"""Slower than this, a device wobbles where it lies."""
_LOW_BATTERY_PERCENT = 20
_SAVING = 2


@dataclass(frozen=True, slots=True)
class Hints:
    """What a device says of itself; None: it does not say."""

    speed_mps: float | None = None
    battery_percent: int | None = None
    is_metered: bool = False


@dataclass(frozen=True, slots=True)
class Intervals:
    """Seconds between updates, and the least move in metres that is worth one."""

    moving_s: int = 5
    walking_s: int = 30
    still_s: int = 60
    min_move_m: int = 50


@dataclass(frozen=True, slots=True)
class Wanted:
    """When the next update is wanted, and after which move."""

    next_update_s: int
    min_move_m: int


def wanted(fix: Fix, last: Fix | None, hints: Hints, intervals: Intervals) -> Wanted:
    """By the speed: what the device says, else what the last two fixes say, else as if walking. Half as often where the
    battery is low or sending costs.
    """
    speed_mps = _speed_mps(fix, last) if hints.speed_mps is None else hints.speed_mps
    if speed_mps is None or _STILL_MPS <= speed_mps < _MOVING_MPS:
        seconds = intervals.walking_s
    else:
        seconds = intervals.moving_s if speed_mps >= _MOVING_MPS else intervals.still_s
    is_low = hints.battery_percent is not None and hints.battery_percent < _LOW_BATTERY_PERCENT
    if is_low or hints.is_metered:
        seconds *= _SAVING
    return Wanted(seconds, intervals.min_move_m)


def is_worth_keeping(fix: Fix, kept: Fix | None, min_move_m: float, most_apart_ms: int) -> bool:
    """Whether the history needs the fix, where `kept` is the last that it has."""
    if kept is None or fix.time_ms - kept.time_ms >= most_apart_ms:
        return True
    return distance_m(fix.lat, fix.lng, kept.lat, kept.lng) > min_move_m


def _speed_mps(fix: Fix, last: Fix | None) -> float | None:
    if last is None or fix.time_ms <= last.time_ms:
        return None
    moved_m = distance_m(fix.lat, fix.lng, last.lat, last.lng) - fix.accuracy_m - last.accuracy_m
    return max(0.0, moved_m) / ((fix.time_ms - last.time_ms) / 1000)
