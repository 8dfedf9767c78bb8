"""The schema's history: one module in versions/ for each step, applied in order when a store is opened."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection

VERSION_TABLE = "directory_schema_version"


def migrate(connection: Connection) -> None:
    """Brings the schema to the newest version inside the connection's transaction; does nothing if it is there.

    Raises alembic.util.CommandError if the database was made by a newer version of this program.
    """
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
