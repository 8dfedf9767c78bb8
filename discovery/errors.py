"""The errors that a caller may see: one small tree.

    HitherError
    ├── InvalidArgument      the request is wrong in itself
    ├── Unauthenticated      who calls is not known
    ├── PermissionDenied     who calls may not
    ├── NotFound
    ├── AlreadyExists
    ├── FailedPrecondition   the request does not fit the state
    │   └── NotOwner         another instance owns the key
    ├── Aborted              a concurrent change won
    ├── ResourceExhausted    a limit was reached; retry_after_s says when to come back
    ├── Unavailable          nothing was done, or the outcome is unknown; retrying with the same id is safe
    ├── DeadlineExceeded
    ├── Cancelled
    ├── Unimplemented
    └── Internal             a bug

A domain raises these (or its own subclasses with a fixed `reason`); the table in discovery/rpc turns them into
statuses and back. The reason names a value of hither.mesh.v1.Reason.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Violation:
    """A field of a request that breaks a rule: its path and the rule in words."""

    field: str
    description: str


class HitherError(Exception):
    """A call failed in a way that its contract names. `message` is for developers and safe to show to any caller."""

    reason = "BUG"
    retry_s: float | None = None
    """When to come back, where an error of the class does not say it itself."""

    def __init__(
        self,
        message: str = "",
        *,
        reason: str | None = None,
        retry_after_s: float | None = None,
        violations: Sequence[Violation] = (),
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason or type(self).reason
        self.retry_after_s = type(self).retry_s if retry_after_s is None else retry_after_s
        self.violations = tuple(violations)
        self.metadata = dict(metadata or {})


class InvalidArgument(HitherError):
    """The request is wrong in itself; repeating it cannot help."""

    reason = "INVALID_REQUEST"


class Unauthenticated(HitherError):
    """Who calls is not known."""

    reason = "NO_CREDENTIALS"


class PermissionDenied(HitherError):
    """Who calls is known and may not do this."""

    reason = "ACCESS_DENIED"


class NotFound(HitherError):
    """What the request names does not exist, or the caller may not know that it does. Subclasses give the reason."""

    reason = "NO_SUCH_ROUTE"


class AlreadyExists(HitherError):
    """What the request makes exists already."""

    reason = "USER_EXISTS"


class FailedPrecondition(HitherError):
    """The request does not fit the present state. Subclasses give the reason."""

    reason = "CONVERSATION_FULL"


class NotOwner(FailedPrecondition):
    """Another instance owns the request's key, as of the registry revision in the metadata."""

    reason = "NOT_OWNER"

    def __init__(self, message: str = "", *, revision: int = 0) -> None:
        super().__init__(message, metadata={"revision": str(revision)})


class Aborted(HitherError):
    """A concurrent change won."""

    reason = "CONFLICT"


class ResourceExhausted(HitherError):
    """A limit was reached."""

    reason = "OVERLOADED"


class Unavailable(HitherError):
    """The operation cannot be done now, or its outcome is not known."""

    reason = "ENGINE_DOWN"
    retry_s = 1.0


class DeadlineExceeded(HitherError):
    """No answer came in time; the outcome is not known."""

    reason = "DEADLINE"


class Cancelled(HitherError):
    """The caller went away."""

    reason = "CANCELLED"


class Unimplemented(HitherError):
    """The operation does not exist, or is not built yet."""

    reason = "NOT_BUILT"


class Internal(HitherError):
    """A bug. The message names the trace id under which the log tells more."""

    reason = "BUG"
