"""Run by Alembic: applies the steps on the connection that migrate() was given."""

from alembic import context

from services.storage.sql.migrations import History

history: History = context.config.attributes["history"]
context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=history.metadata,
    version_table=history.version_table,
)
context.run_migrations()
