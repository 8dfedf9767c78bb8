"""What the directory needs from its store: transactions over a few small tables.

The directory decides; a store only finds and keeps. All decisions of one operation are made inside one transaction, so
that concurrent operations have the effect of some order of them, one after the other.
"""

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Protocol, TypeVar

from services.directory.model import (
    Answer,
    AnswerKey,
    Conversation,
    Friendship,
    Member,
    MemberRole,
    Pair,
    Session,
    Side,
    User,
)

T = TypeVar("T")


class Users(Protocol):
    """Accounts by user id."""

    async def add(self, user: User, password_hash: str) -> bool:
        """Makes the account; False, and nothing done, if the id is taken."""

    async def find(self, user_ids: Collection[str]) -> Mapping[str, User]:
        """Those of the users (at most 200 ids) that exist."""

    async def password_hash(self, user_id: str) -> str | None:
        """The hash of the user's password; None if there is no such user."""

    async def set_password_hash(self, user_id: str, password_hash: str) -> None:
        """Replaces the hash; does nothing if there is no such user."""


class Friendships(Protocol):
    """How users stand to each other. Both users of a pair must exist where anything but strangers is stored."""

    async def pair(self, user_id: str, other_id: str) -> Pair:
        """Both sides, `mine` that of `user_id`; strangers (both NONE) if nothing is stored."""

    async def put_pair(self, user_id: str, other_id: str, pair: Pair, update_time_ms: int) -> None:
        """Stores both sides. A side that was so already keeps its time; NONE forgets the side."""

    async def find(self, user_id: str, other_id: str) -> Friendship | None:
        """How the user stands to the other; None for NONE."""

    async def page(self, user_id: str, sides: Collection[Side], after_id: str, limit: int) -> Sequence[Friendship]:
        """Friendships of these sides with friend id > `after_id` (by code point), in order of friend id, at most `limit`."""

    async def friend_ids(self, user_id: str, limit: int) -> Sequence[str]:
        """Ids of the accepted friends in order of id (by code point), at most `limit`."""

    async def friends_among(self, user_id: str, other_ids: Collection[str]) -> frozenset[str]:
        """Those of the others (at most 200 ids) that are accepted friends."""

    async def count(self, user_id: str, sides: Collection[Side]) -> int:
        """How many friendships of these sides the user has."""


class Conversations(Protocol):
    """Conversations and their members, who must exist as users."""

    async def find(self, conversation_id: str) -> Conversation | None:
        """The conversation with all of its members; None if there is none."""

    async def add(self, conversation: Conversation) -> bool:
        """Stores the conversation with its members; False, and nothing done, if the id is taken."""

    async def remove(self, conversation_id: str) -> None:
        """Forgets the conversation and its memberships; does nothing if there is none."""

    async def add_members(self, conversation_id: str, members: Sequence[Member]) -> None:
        """Adds members, who are none yet, to a conversation that is there."""

    async def set_role(self, conversation_id: str, user_id: str, role: MemberRole) -> None:
        """Changes a member's role; does nothing if there is no such member."""

    async def remove_member(self, conversation_id: str, user_id: str) -> None:
        """Forgets a membership; does nothing if there is none."""

    async def page(self, user_id: str, before: tuple[int, str] | None, limit: int) -> Sequence[Conversation]:
        """The user's conversations, newest first: by (create_time_ms, conversation_id) descending, below `before` if it is
        not None, at most `limit`.
        """

    async def share(self, user_id: str, other_id: str) -> bool:
        """Whether there is a conversation that both are members of."""


class Sessions(Protocol):
    """Signed-in devices: at most one session for each (user_id, device_id)."""

    async def put(self, session: Session) -> None:
        """Stores the session in the place of the one with its id, and of the one of its device."""

    async def find(self, session_id: str) -> Session | None:
        """The session with this id, run out or not; None if there is none."""

    async def remove(self, session_id: str) -> None:
        """Forgets the session; does nothing if there is none."""

    async def trim(self, user_id: str, most: int) -> None:
        """Forgets the user's least recently refreshed sessions until at most `most` are left."""

    async def prune(self, before_ms: int, limit: int) -> int:
        """Forgets up to `limit` sessions that ran out before `before_ms`; tells how many."""


class Answers(Protocol):
    """What mutations were answered, by the ids that their callers chose."""

    async def find(self, key: AnswerKey) -> Answer | None:
        """The answer that was given; None if none is kept."""

    async def add(self, key: AnswerKey, answer: Answer) -> None:
        """Keeps an answer under a key that has none."""

    async def prune(self, before_ms: int, limit: int) -> int:
        """Forgets up to `limit` answers that were given before `before_ms`; tells how many."""


class Tables(Protocol):
    """All tables, as one transaction sees them. Good until the transaction ends, for one task at a time.

    Tables read what the same transaction wrote.
    """

    @property
    def users(self) -> Users:
        """Accounts."""

    @property
    def friendships(self) -> Friendships:
        """How users stand to each other."""

    @property
    def conversations(self) -> Conversations:
        """Conversations and members."""

    @property
    def sessions(self) -> Sessions:
        """Signed-in devices."""

    @property
    def answers(self) -> Answers:
        """Answers to mutations."""


class DirectoryStore(Protocol):
    """Transactions. Both methods raise discovery.errors.Unavailable when the engine is away (ENGINE_DOWN: nothing was
    done; OUTCOME_UNKNOWN: it broke off in a commit), and ResourceExhausted (OVERLOADED) when too many are waiting.
    """

    async def read(self, work: Callable[[Tables], Awaitable[T]]) -> T:
        """Runs `work` on one consistent snapshot, which holds every write that returned before; it must not write."""

    async def write(self, work: Callable[[Tables], Awaitable[T]]) -> T:
        """Runs `work` as one serializable transaction: all of it is durable and visible when this returns, or none of it
        was done and this raises what `work` raised.

        `work` is run again from its start when a concurrent transaction won, so it must act through its argument only.
        Raises Aborted (CONFLICT) when it lost too often.
        """

    async def close(self) -> None:
        """Finishes the transactions that were begun, then lets the engine go."""
