from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, make_url

from discovery.errors import HitherError
from services.ports.live_session_store import LiveSessionRow
from services.storage.sql.directory import SqlSettings, engine_of, sqlite_url
from services.storage.sql.live_sessions import SqlLiveSessionStore
from services.storage.sql.migrations import LIVE_SESSIONS


async def test_the_migrations_make_the_schema_that_the_code_uses(tmp_path: Path) -> None:
    url = sqlite_url(tmp_path / "live_sessions.db")
    store = await SqlLiveSessionStore.open(url)
    found: list[object] = []

    def differences(connection: Connection) -> None:
        options = {"version_table": LIVE_SESSIONS.version_table, "compare_type": True}
        found.extend(compare_metadata(MigrationContext.configure(connection, opts=options), LIVE_SESSIONS.metadata))

    engine = engine_of(url, SqlSettings())
    await engine.migrate(differences)
    await engine.close()
    await store.close()

    assert found == []


async def test_another_kind_of_database_is_refused() -> None:
    with pytest.raises(ValueError, match="not on mysql"):
        await SqlLiveSessionStore.open(str(make_url("mysql://127.0.0.1/x")))


async def test_more_calls_than_may_wait_are_refused(tmp_path: Path) -> None:
    store = await SqlLiveSessionStore.open(sqlite_url(tmp_path / "live_sessions.db"), SqlSettings(waiting_most=0))

    with pytest.raises(HitherError) as refused:
        await store.add(LiveSessionRow("g.1~a", "g.1", 0, "ann", False, 1, 2, 3))
    assert refused.value.reason == "OVERLOADED"
    await store.close()
