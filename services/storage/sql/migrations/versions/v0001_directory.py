"""Makes the tables of users, friendships, conversations, members, sessions and answers."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

_ID = sa.String(128).with_variant(sa.String(128, collation="C"), "postgresql")


def upgrade() -> None:
    """From nothing."""
    _make_people()
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
        sa.ForeignKeyConstraint(["friend_id"], ["users.user_id"], name="fk_friendships_friend_id"),
    )
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
        sa.ForeignKeyConstraint(["user_id"], ["users.user_id"], name="fk_members_user_id"),
    )
    op.create_index(
        "ix_members_user_id_conversation_time_ms_conversation_id",
        "members",
        ["user_id", "conversation_time_ms", "conversation_id"],
    )
