"""What the directory knows: users, how they stand to each other, conversations and sessions.

Values only. Times are milliseconds since 1970-01-01T00:00:00Z.
"""

from dataclasses import dataclass
from enum import IntEnum


@dataclass(frozen=True, slots=True)
class User:
    """A person with an account."""

    user_id: str
    name: str
    create_time_ms: int


class Side(IntEnum):
    """How one user stands to another, as that user sees it. NONE stands for strangers and is never stored."""

    NONE = 0
    REQUESTED = 1
    PENDING = 2
    ACCEPTED = 3
    BLOCKED = 4


@dataclass(frozen=True, slots=True)
class Pair:
    """Both sides of a friendship: of the user who acts, and of the other."""

    mine: Side
    theirs: Side


@dataclass(frozen=True, slots=True)
class Friendship:
    """How a user stands to `friend`, and since when."""

    friend: User
    side: Side
    update_time_ms: int


class Kind(IntEnum):
    """Kind of a conversation."""

    DIRECT = 1
    GROUP = 2


class MemberRole(IntEnum):
    """What a member may do."""

    MEMBER = 1
    ADMIN = 2


@dataclass(frozen=True, slots=True)
class Member:
    """A member of a conversation, and since when."""

    user_id: str
    role: MemberRole
    join_time_ms: int


@dataclass(frozen=True, slots=True)
class Conversation:
    """A conversation with all of its members, in order of user id. A direct one has no name."""

    conversation_id: str
    kind: Kind
    name: str
    create_time_ms: int
    members: tuple[Member, ...]

    def member(self, user_id: str) -> Member | None:
        """The member with this id, or None."""
        return next((member for member in self.members if member.user_id == user_id), None)


@dataclass(frozen=True, slots=True)
class Session:
    """A device that is signed in. Of its refresh tokens only the newest one's SHA-256 is kept."""

    session_id: str
    user_id: str
    device_id: str
    token_hash: bytes
    refresh_time_ms: int
    expire_time_ms: int


@dataclass(frozen=True, slots=True)
class AnswerKey:
    """Names a mutation: who asked for it, by which method, under which id of their own."""

    caller_id: str
    method: str
    request_id: str


@dataclass(frozen=True, slots=True)
class Answer:
    """What a mutation was answered: the serialised response, and a digest of the request that it answers."""

    request_digest: bytes
    response: bytes
    create_time_ms: int
