"""What the directory refuses, each with its reason in the contract (hither.mesh.v1.Reason)."""

from discovery.errors import (
    AlreadyExists,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
    Unauthenticated,
    Violation,
)


class UserExists(AlreadyExists):
    """The user id is taken."""

    reason = "USER_EXISTS"


class NoSuchUser(NotFound):
    """There is no such user, or the caller may not know that there is."""

    reason = "NO_SUCH_USER"


class BadPassword(Unauthenticated):
    """There is no such user, or the password is another: the two are not told apart."""

    reason = "BAD_PASSWORD"


class BadToken(Unauthenticated):
    """The refresh token is malformed, unknown, or was used before."""

    reason = "BAD_TOKEN"


class ExpiredToken(Unauthenticated):
    """The refresh token has run out."""

    reason = "EXPIRED_TOKEN"


class RateLimited(ResourceExhausted):
    """Too many wrong passwords for a user; `retry_after_s` says when the next attempt is looked at."""

    reason = "RATE_LIMITED"


class QuotaExceeded(ResourceExhausted):
    """The user has as many of these as a user may have."""

    reason = "QUOTA_EXCEEDED"


class Blocked(PermissionDenied):
    """One of the two has blocked the other."""

    reason = "BLOCKED"


class NotFriends(NotFound):
    """The two are not friends."""

    reason = "NOT_FRIENDS"


class NotAMember(PermissionDenied):
    """Not a member of the conversation, or there is no such conversation: the two are not told apart."""

    reason = "NOT_A_MEMBER"


class NotAnAdmin(PermissionDenied):
    """Only an admin of the conversation may do this."""

    reason = "NOT_AN_ADMIN"


class ConversationFull(FailedPrecondition):
    """The conversation would have more members than it may have."""

    reason = "CONVERSATION_FULL"


class DirectConversation(FailedPrecondition):
    """The operation does not fit a direct conversation."""

    reason = "DIRECT_CONVERSATION"


def check_text(field: str, text: str) -> None:
    """Passes if every store can keep the text. Raises InvalidArgument if it holds a NUL, which not every one can."""
    if "\0" in text:
        raise invalid_field(field, "must not hold a NUL")


def invalid_field(field: str, rule: str) -> InvalidArgument:
    """A request whose `field` breaks a rule that the contract states in words only."""
    return InvalidArgument(f"{field} {rule}.", violations=(Violation(field, rule),))
