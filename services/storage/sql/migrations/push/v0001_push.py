"""Makes the tables of where users can be woken up, how they want it, and what became of it."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

_ID = sa.String(128).with_variant(sa.String(128, collation="C"), "postgresql")


def upgrade() -> None:
    """From nothing."""
    op.create_table(
        "push_settings",
        sa.Column("user_id", _ID, nullable=False),
        sa.Column("preview", sa.SmallInteger, nullable=False),
        sa.Column("quiet_from_min", sa.SmallInteger, nullable=False),
        sa.Column("quiet_to_min", sa.SmallInteger, nullable=False),
        sa.Column("time_zone", sa.String(64), nullable=False),
        sa.PrimaryKeyConstraint("user_id", name="pk_push_settings"),
    )
    op.create_table(
        "push_tokens",
        sa.Column("user_id", _ID, nullable=False),
        sa.Column("device_id", _ID, nullable=False),
        sa.Column("platform", sa.SmallInteger, nullable=False),
        sa.Column("token", sa.Text, nullable=False),
        sa.Column("token_hash", sa.LargeBinary, nullable=False),
        sa.Column("updated_ms", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("user_id", "device_id", name="pk_push_tokens"),
        sa.UniqueConstraint("token_hash", name="uq_push_tokens_token_hash"),
    )
    op.create_table(
        "push_mutes",
        sa.Column("user_id", _ID, nullable=False),
        sa.Column("conversation_id", _ID, nullable=False),
        sa.Column("until_ms", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("user_id", "conversation_id", name="pk_push_mutes"),
    )
    op.create_table(
        "push_deliveries",
        sa.Column("user_id", _ID, nullable=False),
        sa.Column("device_id", _ID, nullable=False),
        sa.Column("push_id", _ID, nullable=False),
        sa.Column("at_ms", sa.BigInteger, nullable=False),
        sa.Column("fate", sa.SmallInteger, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("conversation_id", _ID, nullable=False),
        sa.Column("messages", sa.Integer, nullable=False),
        sa.Column("collapse_id", sa.Text, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("latency_ms", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("user_id", "device_id", "push_id", name="pk_push_deliveries"),
    )
    op.create_index(
        "ix_push_deliveries_user_id_device_id_at_ms_push_id",
        "push_deliveries",
        ["user_id", "device_id", "at_ms", "push_id"],
    )
