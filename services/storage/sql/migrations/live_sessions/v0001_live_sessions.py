"""Makes the table of live-location sessions."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

_ID = sa.String(128).with_variant(sa.String(128, collation="C"), "postgresql")


def upgrade() -> None:
    """From nothing."""
    op.create_table(
        "live_sessions",
        sa.Column("session_id", _ID, nullable=False),
        sa.Column("conversation_id", _ID, nullable=False),
        sa.Column("partition", sa.Integer, nullable=False),
        sa.Column("user_id", _ID, nullable=False),
        sa.Column("opaque", sa.SmallInteger, nullable=False),
        sa.Column("started_ms", sa.BigInteger, nullable=False),
        sa.Column("expires_ms", sa.BigInteger, nullable=False),
        sa.Column("keep_until_ms", sa.BigInteger, nullable=False),
        sa.Column("ending", sa.SmallInteger, nullable=False),
        sa.Column("ended_ms", sa.BigInteger, nullable=False),
        sa.Column("announced", sa.SmallInteger, nullable=False),
        sa.Column("told", sa.SmallInteger, nullable=False),
        sa.Column("version", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("session_id", name="pk_live_sessions"),
    )
    op.create_index(
        "ix_live_sessions_conversation_id_ending_session_id",
        "live_sessions",
        ["conversation_id", "ending", "session_id"],
    )
    op.create_index("ix_live_sessions_partition_told_session_id", "live_sessions", ["partition", "told", "session_id"])
    op.create_index("ix_live_sessions_told_keep_until_ms", "live_sessions", ["told", "keep_until_ms"])
