"""The schemas' histories: for each store a folder with one module for each step, applied in order when a store is opened."""

from dataclasses import dataclass
from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, MetaData

from services.storage.sql.schema import (
    DEVICES_METADATA,
    LIVE_SESSIONS_METADATA,
    METADATA,
    PRIVACY_METADATA,
    PUSH_METADATA,
)
from services.storage.sql.sharded.schema import SHARD_METADATA

_HERE = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class History:
    """The steps in `folder` lead to the tables of `metadata`; `version_table` says how far a database has come."""

    folder: str
    version_table: str
    metadata: MetaData


DIRECTORY = History("versions", "directory_schema_version", METADATA)
DIRECTORY_SHARDS = History("directory_shards", "directory_shard_schema_version", SHARD_METADATA)
DEVICES = History("devices", "devices_schema_version", DEVICES_METADATA)
PRIVACY = History("privacy", "privacy_schema_version", PRIVACY_METADATA)
LIVE_SESSIONS = History("live_sessions", "live_sessions_schema_version", LIVE_SESSIONS_METADATA)
PUSH = History("push", "push_schema_version", PUSH_METADATA)


def migrate(history: History, connection: Connection) -> None:
    """Brings the schema to the newest version inside the connection's transaction; does nothing if it is there.

    Raises alembic.util.CommandError if the database was made by a newer version of this program.
    """
    config = Config()
    # A percent sign begins an interpolation for Alembic.
    config.set_main_option("script_location", str(_HERE).replace("%", "%%"))
    config.set_main_option("version_locations", str(_HERE / history.folder).replace("%", "%%"))
    config.set_main_option("path_separator", "newline")
    config.attributes["connection"] = connection
    config.attributes["history"] = history
    command.upgrade(config, "head")
