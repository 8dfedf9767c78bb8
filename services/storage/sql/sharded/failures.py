"""What an error of the driver, raw or as SQLAlchemy wraps it, says about a transaction."""

from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from services.storage.sql.failures import DRIVER_FAILURES

# serialization_failure, deadlock_detected, lock_not_available
_LOST_STATES = ("40001", "40P01", "55P03")
_BROKEN_CONSTRAINT = "23"
_FULL = "53"
# Connection exceptions; the server shuts down, has crashed or starts; the transaction idled for too long.
_BROKEN_STATES = ("08", "57P01", "57P02", "57P03", "25P03")


class LostRace(Exception):
    """Another transaction was in the way: run again, this one may succeed."""


class NeedsLocks(Exception):
    """A snapshot of one shard will not do for this read."""


def is_lost_race(error: BaseException) -> bool:
    """Whether a concurrent transaction won, so that running this one again may succeed."""
    return isinstance(error, LostRace) or _state(error).startswith((*_LOST_STATES, _BROKEN_CONSTRAINT))


def is_full(error: BaseException) -> bool:
    """Whether the server has no more of something: connections, prepared transactions, locks, memory, disk."""
    return isinstance(error, PoolTimeoutError) or _state(error).startswith(_FULL)


def is_broken(error: BaseException) -> bool:
    """Whether the connection broke or could not be had, so that nobody knows what became of a statement under way."""
    if isinstance(error, DBAPIError):
        return error.connection_invalidated or _state(error).startswith(_BROKEN_STATES)
    if isinstance(error, PoolTimeoutError):
        return False
    return isinstance(error, (OSError, *DRIVER_FAILURES)) or _state(error).startswith(_BROKEN_STATES)


def _state(error: BaseException) -> str:
    cause = error.orig if isinstance(error, DBAPIError) else error
    return getattr(cause, "sqlstate", None) or ""
