"""Opening a store that is one schema and its prepared statements: connect, make what the keyspace lacks, prepare."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

from cassandra.cluster import Session

from services.storage.access import Access
from services.storage.cassandra.engine import Engine
from services.storage.cassandra.schema import Keyspace, Schema, checked_name, migrate

Statements = TypeVar("Statements")


async def open_tables(
    contact_points: Sequence[str],
    port: int,
    keyspace: str,
    replication: int,
    access: Access,
    schema: Schema,
    prepare: Callable[[Session, str], Statements],
) -> tuple[Engine, Statements]:
    """A connected engine, and what `prepare` makes for the keyspace. Raises ValueError, SchemaTooNew, Unavailable, or AccessRefused;
    then nothing stays open.
    """
    place = Keyspace(checked_name(keyspace), replication)
    engine = await Engine.open(contact_points, port, None, access)
    try:
        await engine.run_blocking(partial(migrate, keyspace=place, schema=schema))
        return engine, await engine.run_blocking(lambda session: prepare(session, keyspace))
    except BaseException:  # also when it is cancelled: nobody else would close it
        await engine.close()
        raise
