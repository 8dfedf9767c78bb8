"""The tables of the directory, and those of the stores of devices, privacy, live sessions and push, which may live in other
databases. The migrations make them; tests prove that the two agree.
"""

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    String,
    Table,
    Text,
    UniqueConstraint,
)

# Ids compare by code point everywhere: SQLite does so by itself, PostgreSQL only under this collation.
ID = String(128).with_variant(String(128, collation="C"), "postgresql")

_NAMES = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s",
    "pk": "pk_%(table_name)s",
}
METADATA = MetaData(naming_convention=_NAMES)
DEVICES_METADATA = MetaData(naming_convention=_NAMES)
PRIVACY_METADATA = MetaData(naming_convention=_NAMES)
LIVE_SESSIONS_METADATA = MetaData(naming_convention=_NAMES)
PUSH_METADATA = MetaData(naming_convention=_NAMES)

USERS = Table(
    "users",
    METADATA,
    Column("user_id", ID, primary_key=True),
    Column("name", Text, nullable=False),
    Column("password_hash", Text, nullable=False),
    Column("create_time_ms", BigInteger, nullable=False),
)

# One row for each side of a pair; strangers have none.
FRIENDSHIPS = Table(
    "friendships",
    METADATA,
    Column("user_id", ID, ForeignKey("users.user_id"), primary_key=True),
    Column("friend_id", ID, ForeignKey("users.user_id"), primary_key=True),
    Column("side", SmallInteger, nullable=False),
    Column("update_time_ms", BigInteger, nullable=False),
)

CONVERSATIONS = Table(
    "conversations",
    METADATA,
    Column("conversation_id", ID, primary_key=True),
    Column("kind", SmallInteger, nullable=False),
    Column("name", Text, nullable=False),
    Column("create_time_ms", BigInteger, nullable=False),
)

# conversation_time_ms repeats the conversation's create_time_ms, which never changes, so that a user's newest
# conversations are one range of one index.
MEMBERS = Table(
    "members",
    METADATA,
    Column("conversation_id", ID, ForeignKey("conversations.conversation_id"), primary_key=True),
    Column("user_id", ID, ForeignKey("users.user_id"), primary_key=True),
    Column("role", SmallInteger, nullable=False),
    Column("join_time_ms", BigInteger, nullable=False),
    Column("conversation_time_ms", BigInteger, nullable=False),
    Index(None, "user_id", "conversation_time_ms", "conversation_id"),
)

SESSIONS = Table(
    "sessions",
    METADATA,
    Column("session_id", ID, primary_key=True),
    Column("user_id", ID, ForeignKey("users.user_id"), nullable=False),
    Column("device_id", ID, nullable=False),
    Column("token_hash", LargeBinary, nullable=False),
    Column("refresh_time_ms", BigInteger, nullable=False),
    Column("expire_time_ms", BigInteger, nullable=False),
    UniqueConstraint("user_id", "device_id"),
    Index(None, "expire_time_ms"),
)

ANSWERS = Table(
    "answers",
    METADATA,
    Column("caller_id", ID, primary_key=True),
    Column("method", ID, primary_key=True),
    Column("request_id", ID, primary_key=True),
    Column("request_digest", LargeBinary, nullable=False),
    Column("response", LargeBinary, nullable=False),
    Column("create_time_ms", BigInteger, nullable=False),
    Index(None, "create_time_ms"),
)

DEVICES = Table(
    "devices",
    DEVICES_METADATA,
    Column("user_id", ID, primary_key=True),
    Column("device_id", ID, primary_key=True),
    Column("cursor", BigInteger, nullable=False),
    Column("last_seen_ms", BigInteger, nullable=False),
)

PRIVACY_ROWS = Table(
    "privacy",
    PRIVACY_METADATA,
    Column("user_id", ID, primary_key=True),
    Column("presence", SmallInteger, nullable=False),
    Column("last_seen", SmallInteger, nullable=False),
    Column("shares_location", Boolean, nullable=False),
    Column("default_precision", SmallInteger, nullable=False),
    Column("version", BigInteger, nullable=False),
)

# Whoever has grants has a row in `privacy`. No foreign key says so: each change locks that row first anyway.
GRANTS = Table(
    "grants",
    PRIVACY_METADATA,
    Column("owner_id", ID, primary_key=True),
    Column("viewer_id", ID, primary_key=True),
    Column("precision", SmallInteger, nullable=False),
    Column("expires_ms", BigInteger, nullable=False),
    Index(None, "viewer_id", "owner_id"),
)

# One row at most: which shard of the devices this database is.
DEVICES_SHARD = Table(
    "devices_shard",
    DEVICES_METADATA,
    Column("number", SmallInteger, primary_key=True, autoincrement=False),
    Column("shards", SmallInteger, nullable=False),
)

LIVE_SESSIONS = Table(
    "live_sessions",
    LIVE_SESSIONS_METADATA,
    Column("session_id", ID, primary_key=True),
    Column("conversation_id", ID, nullable=False),
    Column("partition", Integer, nullable=False),
    Column("user_id", ID, nullable=False),
    Column("opaque", SmallInteger, nullable=False),
    Column("started_ms", BigInteger, nullable=False),
    Column("expires_ms", BigInteger, nullable=False),
    Column("keep_until_ms", BigInteger, nullable=False),
    Column("ending", SmallInteger, nullable=False),
    Column("ended_ms", BigInteger, nullable=False),
    Column("announced", SmallInteger, nullable=False),
    Column("told", SmallInteger, nullable=False),
    Column("version", BigInteger, nullable=False),
    Index(None, "conversation_id", "ending", "session_id"),
    Index(None, "partition", "told", "session_id"),
    Index(None, "told", "keep_until_ms"),
)

# Also the lock of all that is counted of a user: whoever adds a token or a mute writes the row first.
PUSH_SETTINGS = Table(
    "push_settings",
    PUSH_METADATA,
    Column("user_id", ID, primary_key=True),
    Column("preview", SmallInteger, nullable=False),
    Column("quiet_from_min", SmallInteger, nullable=False),
    Column("quiet_to_min", SmallInteger, nullable=False),
    Column("time_zone", String(64), nullable=False),
)

# Tokens are longer than what an index takes: the hash stands for the token, which is one device's only.
PUSH_TOKENS = Table(
    "push_tokens",
    PUSH_METADATA,
    Column("user_id", ID, primary_key=True),
    Column("device_id", ID, primary_key=True),
    Column("platform", SmallInteger, nullable=False),
    Column("token", Text, nullable=False),
    Column("token_hash", LargeBinary, nullable=False),
    Column("updated_ms", BigInteger, nullable=False),
    UniqueConstraint("token_hash"),
)

PUSH_MUTES = Table(
    "push_mutes",
    PUSH_METADATA,
    Column("user_id", ID, primary_key=True),
    Column("conversation_id", ID, primary_key=True),
    Column("until_ms", BigInteger, nullable=False),
)

PUSH_DELIVERIES = Table(
    "push_deliveries",
    PUSH_METADATA,
    Column("user_id", ID, primary_key=True),
    Column("device_id", ID, primary_key=True),
    Column("push_id", ID, primary_key=True),
    Column("at_ms", BigInteger, nullable=False),
    Column("fate", SmallInteger, nullable=False),
    Column("reason", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("conversation_id", ID, nullable=False),
    Column("messages", Integer, nullable=False),
    Column("collapse_id", Text, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("latency_ms", BigInteger, nullable=False),
    Index(None, "user_id", "device_id", "at_ms", "push_id"),
)
