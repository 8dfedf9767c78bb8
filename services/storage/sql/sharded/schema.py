"""The tables of one shard of the directory: those of the whole directory without the foreign keys that would lead to other
shards, and what only shards have. The migrations make them; tests prove that the two agree.

Statements over the whole directory's tables run on shards too, as names and columns are the same.
"""

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ForeignKeyConstraint,
    Index,
    MetaData,
    SmallInteger,
    String,
    Table,
    UniqueConstraint,
)

from services.storage.sql import schema
from services.storage.sql.schema import ID

SHARD_METADATA = MetaData(naming_convention=schema.METADATA.naming_convention)


def _on_shard(table: Table, *extra: ForeignKeyConstraint | UniqueConstraint) -> None:
    columns = [
        Column(column.name, column.type, primary_key=column.primary_key, nullable=column.nullable)
        for column in table.columns
    ]
    indexes = [Index(None, *(column.name for column in index.columns)) for index in table.indexes]
    Table(table.name, SHARD_METADATA, *columns, *extra, *indexes)


_on_shard(schema.USERS)
_on_shard(schema.FRIENDSHIPS, ForeignKeyConstraint(["user_id"], ["users.user_id"]))
_on_shard(schema.CONVERSATIONS)
_on_shard(schema.MEMBERS, ForeignKeyConstraint(["conversation_id"], ["conversations.conversation_id"]))
_on_shard(
    schema.SESSIONS,
    ForeignKeyConstraint(["user_id"], ["users.user_id"]),
    UniqueConstraint("user_id", "device_id"),
)
_on_shard(schema.ANSWERS)

# Beside the user: which conversations, which may be anywhere, the user is a member of.
MEMBERSHIPS = Table(
    "memberships",
    SHARD_METADATA,
    Column("user_id", ID, primary_key=True),
    Column("conversation_id", ID, primary_key=True),
    Column("conversation_time_ms", BigInteger, nullable=False),
    Index(None, "user_id", "conversation_time_ms", "conversation_id"),
)

# Where the hash of the session's id leads: whose session it is, as the session itself is beside its user.
SESSION_OWNERS = Table(
    "session_owners",
    SHARD_METADATA,
    Column("session_id", ID, primary_key=True),
    Column("user_id", ID, nullable=False),
)

# On a transaction's first shard: whether it was committed, for the time until its other shards know.
DECISIONS = Table(
    "decisions",
    SHARD_METADATA,
    Column("transaction_id", String(32), primary_key=True),
    Column("is_committed", Boolean, nullable=False),
    Column("time_ms", BigInteger, nullable=False),
    Index(None, "time_ms"),
)

# One row at most: which shard of the directory this database is.
DIRECTORY_SHARD = Table(
    "directory_shard",
    SHARD_METADATA,
    Column("number", SmallInteger, primary_key=True, autoincrement=False),
    Column("shards", SmallInteger, nullable=False),
)
