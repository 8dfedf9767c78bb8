from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, make_url

from discovery.errors import HitherError
from services.ports.push_store import PushSettingsRow
from services.storage.sql.directory import SqlSettings, engine_of, sqlite_url
from services.storage.sql.migrations import PUSH
from services.storage.sql.push import SqlPushStore
from services.storage.sql.push_deliveries import SqlDeliveryLog


async def test_the_migrations_make_the_schema_that_the_code_uses(tmp_path: Path) -> None:
    url = sqlite_url(tmp_path / "push.db")
    store, log = await SqlPushStore.open(url), await SqlDeliveryLog.open(url)
    found: list[object] = []

    def differences(connection: Connection) -> None:
        options = {"version_table": PUSH.version_table, "compare_type": True}
        found.extend(compare_metadata(MigrationContext.configure(connection, opts=options), PUSH.metadata))

    engine = engine_of(url, SqlSettings())
    await engine.migrate(differences)
    for one in (engine, log, store):
        await one.close()

    assert found == []


@pytest.mark.parametrize("store", [SqlPushStore, SqlDeliveryLog])
async def test_another_kind_of_database_is_refused(store: type[SqlPushStore]) -> None:
    with pytest.raises(ValueError, match="not on mysql"):
        await store.open(str(make_url("mysql://127.0.0.1/x")))


async def test_more_calls_than_may_wait_are_refused(tmp_path: Path) -> None:
    store = await SqlPushStore.open(sqlite_url(tmp_path / "push.db"), SqlSettings(waiting_most=0))

    with pytest.raises(HitherError) as refused:
        await store.put_settings(PushSettingsRow("ann"))
    assert refused.value.reason == "OVERLOADED"
    await store.close()
