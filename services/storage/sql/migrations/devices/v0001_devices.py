"""Makes the table of devices."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

_ID = sa.String(128).with_variant(sa.String(128, collation="C"), "postgresql")


def upgrade() -> None:
    """From nothing."""
    op.create_table(
        "devices",
        sa.Column("user_id", _ID, nullable=False),
        sa.Column("device_id", _ID, nullable=False),
        sa.Column("cursor", sa.BigInteger, nullable=False),
        sa.Column("last_seen_ms", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("user_id", "device_id", name="pk_devices"),
    )
