"""Makes the tables of a shard of the directory."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

_ID = sa.String(128, collation="C")


def upgrade() -> None:
    """From nothing."""
    _make_people()
    _make_sessions()
    _make_conversations()
    op.create_table(
        "answers",
        sa.Column("caller_id", _ID, nullable=False),
        sa.Column("method", _ID, nullable=False),
        sa.Column("request_id", _ID, nullable=False),
        sa.Column("request_digest", sa.LargeBinary, nullable=False),
        sa.Column("response", sa.LargeBinary, nullable=False),
        sa.Column("create_time_ms", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("caller_id", "method", "request_id", name="pk_answers"),
    )
    op.create_index("ix_answers_create_time_ms", "answers", ["create_time_ms"])
    _make_what_shards_need()


def _make_people() -> None:
    op.create_table(
        "users",
        sa.Column("user_id", _ID, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("password_hash", sa.Text, nullable=False),
        sa.Column("create_time_ms", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("user_id", name="pk_users"),
    )
    op.create_table(
        "friendships",
        sa.Column("user_id", _ID, nullable=False),
        sa.Column("friend_id", _ID, nullable=False),
        sa.Column("side", sa.SmallInteger, nullable=False),
        sa.Column("update_time_ms", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("user_id", "friend_id", name="pk_friendships"),
        sa.ForeignKeyConstraint(["user_id"], ["users.user_id"], name="fk_friendships_user_id"),
    )


def _make_sessions() -> None:
    op.create_table(
        "sessions",
        sa.Column("session_id", _ID, nullable=False),
        sa.Column("user_id", _ID, nullable=False),
        sa.Column("device_id", _ID, nullable=False),
        sa.Column("token_hash", sa.LargeBinary, nullable=False),
        sa.Column("refresh_time_ms", sa.BigInteger, nullable=False),
        sa.Column("expire_time_ms", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("session_id", name="pk_sessions"),
        sa.ForeignKeyConstraint(["user_id"], ["users.user_id"], name="fk_sessions_user_id"),
        sa.UniqueConstraint("user_id", "device_id", name="uq_sessions_user_id_device_id"),
    )
    op.create_index("ix_sessions_expire_time_ms", "sessions", ["expire_time_ms"])
    op.create_table(
        "session_owners",
        sa.Column("session_id", _ID, nullable=False),
        sa.Column("user_id", _ID, nullable=False),
        sa.PrimaryKeyConstraint("session_id", name="pk_session_owners"),
    )


def _make_conversations() -> None:
    op.create_table(
        "conversations",
        sa.Column("conversation_id", _ID, nullable=False),
        sa.Column("kind", sa.SmallInteger, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("create_time_ms", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("conversation_id", name="pk_conversations"),
    )
    op.create_table(
        "members",
        sa.Column("conversation_id", _ID, nullable=False),
        sa.Column("user_id", _ID, nullable=False),
        sa.Column("role", sa.SmallInteger, nullable=False),
        sa.Column("join_time_ms", sa.BigInteger, nullable=False),
        sa.Column("conversation_time_ms", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("conversation_id", "user_id", name="pk_members"),
        sa.ForeignKeyConstraint(
            ["conversation_id"], ["conversations.conversation_id"], name="fk_members_conversation_id"
        ),
    )
    op.create_table(
        "memberships",
        sa.Column("user_id", _ID, nullable=False),
        sa.Column("conversation_id", _ID, nullable=False),
        sa.Column("conversation_time_ms", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("user_id", "conversation_id", name="pk_memberships"),
    )
    columns = ["user_id", "conversation_time_ms", "conversation_id"]
    for table in ("members", "memberships"):
        op.create_index(f"ix_{table}_user_id_conversation_time_ms_conversation_id", table, columns)


def _make_what_shards_need() -> None:
    op.create_table(
        "decisions",
        sa.Column("transaction_id", sa.String(32), nullable=False),
        sa.Column("is_committed", sa.Boolean, nullable=False),
        sa.Column("time_ms", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("transaction_id", name="pk_decisions"),
    )
    op.create_index("ix_decisions_time_ms", "decisions", ["time_ms"])
    op.create_table(
        "directory_shard",
        sa.Column("number", sa.SmallInteger, nullable=False, autoincrement=False),
        sa.Column("shards", sa.SmallInteger, nullable=False),
        sa.PrimaryKeyConstraint("number", name="pk_directory_shard"),
    )
