"""Fills a data directory with people who are friends and share their places, faster than they could sign up."""

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from bench.city.streets import People
from services.data_directory import DataDirectory
from services.directory.model import Side
from services.ports.privacy_store import Audience, Precision
from services.storage.sql.directory import SqlDirectoryStore, sqlite_url
from services.storage.sql.privacy import SqlPrivacyStore


async def settle(data: Path, names: Sequence[str], friends: Sequence[People]) -> None:
    """Makes accounts of these names, without passwords; `friends` are those of each, by number."""
    directory = DataDirectory(data)
    people, privacy = directory.database("directory"), directory.database("privacy")
    for store in (SqlDirectoryStore, SqlPrivacyStore):
        opened = await store.open(sqlite_url(people if store is SqlDirectoryStore else privacy))
        await opened.close()
    with closing(sqlite3.connect(people)) as connection, connection:
        connection.executemany(
            "INSERT INTO users (user_id, name, password_hash, create_time_ms) VALUES (?, ?, '', 1)",
            [(name, name) for name in names],
        )
        connection.executemany(
            "INSERT INTO friendships (user_id, friend_id, side, update_time_ms) VALUES (?, ?, ?, 1)",
            (
                (names[one], names[other], Side.ACCEPTED.value)
                for one, its in enumerate(friends)
                for other in its.tolist()
            ),
        )
    with closing(sqlite3.connect(privacy)) as connection, connection:
        connection.executemany(
            "INSERT INTO privacy (user_id, presence, last_seen, shares_location, default_precision, version)"
            " VALUES (?, ?, ?, 1, ?, 1)",
            [(name, Audience.FRIENDS.value, Audience.FRIENDS.value, Precision.EXACT.value) for name in names],
        )
