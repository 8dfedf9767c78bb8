"""Makes the tables of what users let be known of them."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

_ID = sa.String(128).with_variant(sa.String(128, collation="C"), "postgresql")


def upgrade() -> None:
    """From nothing."""
    op.create_table(
        "privacy",
        sa.Column("user_id", _ID, nullable=False),
        sa.Column("presence", sa.SmallInteger, nullable=False),
        sa.Column("last_seen", sa.SmallInteger, nullable=False),
        sa.Column("shares_location", sa.Boolean, nullable=False),
        sa.Column("default_precision", sa.SmallInteger, nullable=False),
        sa.Column("version", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("user_id", name="pk_privacy"),
    )
    op.create_table(
        "grants",
        sa.Column("owner_id", _ID, nullable=False),
        sa.Column("viewer_id", _ID, nullable=False),
        sa.Column("precision", sa.SmallInteger, nullable=False),
        sa.Column("expires_ms", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("owner_id", "viewer_id", name="pk_grants"),
    )
    op.create_index("ix_grants_viewer_id_owner_id", "grants", ["viewer_id", "owner_id"])
