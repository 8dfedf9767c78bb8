"""What transactions over shards lock, and where it is: XXH3 of an id names the shard, and of all of the key the advisory lock."""

from dataclasses import dataclass

from xxhash import xxh3_64_intdigest

from services.directory.model import AnswerKey
from services.storage.sql.shards import shard_of


@dataclass(frozen=True, slots=True)
class Key:
    """Something of a kind whose rows are on the shard of `place`. Two keys may share a lock, which costs only waiting."""

    kind: str
    place: str
    name: str = ""

    def shard(self, shards: int) -> int:
        """The number of its shard."""
        return shard_of(self.place, shards)

    @property
    def lock(self) -> int:
        """The advisory lock, a bigint."""
        return xxh3_64_intdigest(f"{self.kind}\0{self.place}\0{self.name}".encode()) - 2**63


def user_key(user_id: str) -> Key:
    """The user's account, sides of friendships, memberships and sessions."""
    return Key("directory user", user_id)


def conversation_key(conversation_id: str) -> Key:
    """The conversation and its members."""
    return Key("directory conversation", conversation_id)


def session_key(session_id: str) -> Key:
    """Whose session it is."""
    return Key("directory session", session_id)


def answer_key(key: AnswerKey) -> Key:
    """One answer, beside its caller."""
    return Key("directory answer", key.caller_id, f"{key.method}\0{key.request_id}")
