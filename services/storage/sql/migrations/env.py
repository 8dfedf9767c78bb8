"""Run by Alembic: applies the steps on the connection that migrate() was given."""

from alembic import context

from services.storage.sql.migrations import VERSION_TABLE
from services.storage.sql.schema import METADATA

context.configure(
    connection=context.config.attributes["connection"], target_metadata=METADATA, version_table=VERSION_TABLE
)
context.run_migrations()
