"""Directory stores by URL, as the setting names them."""

from services.directory.ports import DirectoryStore
from services.storage.sql.directory import SqlDirectoryStore, SqlSettings
from services.storage.sql.sharded.store import ShardedDirectoryStore


def is_sharded(url: str) -> bool:
    """Whether it names the shards of one, with spaces between."""
    return " postgresql" in url


async def open_store(url: str, settings: SqlSettings | None = None) -> DirectoryStore:
    """The store at a URL, or at those of all shards with spaces between."""
    if is_sharded(url):
        return await ShardedDirectoryStore.open(url.split(), settings)
    return await SqlDirectoryStore.open(url, settings)
