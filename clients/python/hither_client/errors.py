"""What can go wrong, as the client's user sees it.

    HitherClientError
    ├── RequestFailed             the server refused a request: code, reason, message
    │   ├── InvalidRequest
    │   ├── NotSignedIn           bad or expired token, wrong password
    │   ├── NotAllowed
    │   │   ├── NotAMember
    │   │   └── Blocked
    │   ├── NotFound
    │   │   ├── NoSuchUser
    │   │   └── NotFriends
    │   ├── AlreadyExists
    │   ├── WrongState
    │   ├── LimitReached          retry_after_s says when to come back
    │   ├── TemporarilyUnavailable
    │   ├── NotBuilt
    │   └── ServerFault
    ├── NoAnswer                  no answer within the caller's deadline; what became of the request is not known
    ├── ConnectionEnded           the server closed the connection for good: 4100 to 4199
    │   ├── BadToken              4100
    │   ├── Replaced              4101: the device has connected elsewhere
    │   ├── ProtocolFailure       4102
    │   └── FrameTooLarge         4103
    └── ClientClosed              the client was closed by its user

`request_failed` and `connection_ended` are the two tables from what stands on the wire to a class.
"""

from collections.abc import Mapping, Sequence


class HitherClientError(Exception):
    """Anything this package raises on purpose."""


class RequestFailed(HitherClientError):
    """The server refused a request. `code` names a google.rpc.Code, `reason` a hither.mesh.v1.Reason without its prefix."""

    def __init__(
        self,
        code: str,
        reason: str,
        message: str = "",
        *,
        retry_after_s: float | None = None,
        violations: Sequence[Mapping[str, str]] = (),
    ) -> None:
        super().__init__(f"{code} {reason}: {message}" if message else f"{code} {reason}")
        self.code = code
        self.reason = reason
        self.message = message
        self.retry_after_s = retry_after_s
        self.violations = tuple(violations)

    @property
    def may_retry(self) -> bool:
        """Repeating the same request may succeed: nothing was done, or the server recognises the repetition."""
        if self.code in {"UNAVAILABLE", "DEADLINE_EXCEEDED", "ABORTED", "CANCELLED"}:
            return True
        return self.code == "RESOURCE_EXHAUSTED" and self.retry_after_s is not None


class InvalidRequest(RequestFailed):
    """The request is wrong in itself; `violations` may name the fields."""


class NotSignedIn(RequestFailed):
    """The token is bad or has run out, or the password is wrong."""


class NotAllowed(RequestFailed):
    """The server knows who asks, and refuses."""


class NotAMember(NotAllowed):
    """Not a member of the conversation, or there is no such conversation."""


class Blocked(NotAllowed):
    """One of the two has blocked the other."""


class NotFound(RequestFailed):
    """What the request names does not exist."""


class NoSuchUser(NotFound):
    """There is no such user, or the caller may not know of them."""


class NotFriends(NotFound):
    """The two are not friends."""


class AlreadyExists(RequestFailed):
    """What the request makes exists already."""


class WrongState(RequestFailed):
    """The request does not fit the present state."""


class LimitReached(RequestFailed):
    """A rate or a quota was reached; `retry_after_s` says when to come back, absent where time does not help."""


class TemporarilyUnavailable(RequestFailed):
    """The server cannot do it now, or does not know the outcome. Repeating with the same client id is safe."""


class NotBuilt(RequestFailed):
    """The server does not know the operation, or does not do it yet."""


class ServerFault(RequestFailed):
    """A bug on the server's side."""


class NoAnswer(HitherClientError):
    """No answer came within the caller's deadline. What became of the request is not known."""


class ConnectionEnded(HitherClientError):
    """The server closed the connection and does not want this client back as it is."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"{code} {reason}".rstrip())
        self.code = code
        self.reason = reason


class BadToken(ConnectionEnded):
    """The token is bad or has run out (4100)."""


class Replaced(ConnectionEnded):
    """The same device has connected elsewhere (4101)."""


class ProtocolFailure(ConnectionEnded):
    """The server did not understand this client (4102)."""


class FrameTooLarge(ConnectionEnded):
    """The client sent more in a frame than the server takes (4103)."""


class ClientClosed(HitherClientError):
    """The client was closed, or never opened."""


_BY_REASON: Mapping[str, type[RequestFailed]] = {
    "NOT_A_MEMBER": NotAMember,
    "BLOCKED": Blocked,
    "NO_SUCH_USER": NoSuchUser,
    "NOT_FRIENDS": NotFriends,
}

_BY_CODE: Mapping[str, type[RequestFailed]] = {
    "INVALID_ARGUMENT": InvalidRequest,
    "UNAUTHENTICATED": NotSignedIn,
    "PERMISSION_DENIED": NotAllowed,
    "NOT_FOUND": NotFound,
    "ALREADY_EXISTS": AlreadyExists,
    "FAILED_PRECONDITION": WrongState,
    "RESOURCE_EXHAUSTED": LimitReached,
    "UNAVAILABLE": TemporarilyUnavailable,
    "DEADLINE_EXCEEDED": TemporarilyUnavailable,
    "ABORTED": TemporarilyUnavailable,
    "CANCELLED": TemporarilyUnavailable,
    "UNIMPLEMENTED": NotBuilt,
    "INTERNAL": ServerFault,
}

_BY_CLOSE_CODE: Mapping[int, type[ConnectionEnded]] = {
    4100: BadToken,
    4101: Replaced,
    4102: ProtocolFailure,
    4103: FrameTooLarge,
}


def request_failed(
    code: str,
    reason: str,
    message: str = "",
    *,
    retry_after_s: float | None = None,
    violations: Sequence[Mapping[str, str]] = (),
) -> RequestFailed:
    """The error for what the server said: by reason where there is a class of its own, else by code."""
    kind = _BY_REASON.get(reason) or _BY_CODE.get(code, RequestFailed)
    return kind(code, reason, message, retry_after_s=retry_after_s, violations=violations)


def connection_ended(code: int, reason: str) -> ConnectionEnded:
    """The error for a close code from 4100 to 4199."""
    return _BY_CLOSE_CODE.get(code, ConnectionEnded)(code, reason)
