"""Makes the table that says which shard of the devices this database is. One that has devices already is the only one."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """From 0001."""
    op.create_table(
        "devices_shard",
        sa.Column("number", sa.SmallInteger, nullable=False, autoincrement=False),
        sa.Column("shards", sa.SmallInteger, nullable=False),
        sa.PrimaryKeyConstraint("number", name="pk_devices_shard"),
    )
    op.execute("INSERT INTO devices_shard (number, shards) SELECT 0, 1 WHERE EXISTS (SELECT 1 FROM devices)")
