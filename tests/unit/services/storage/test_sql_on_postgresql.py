"""The stores on PostgreSQL: their schemas, and a server that goes away and comes back."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack

import asyncpg
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, make_url

from discovery.errors import HitherError, Unavailable
from services.directory.model import User
from services.ports.device_store import CursorMove, DeviceRow
from services.ports.privacy_store import GrantRow, Precision, PrivacyRow
from services.ports.push_store import Platform, PushSettingsRow, PushTokenRow
from services.storage.sql.devices import SqlDeviceStore
from services.storage.sql.directory import SqlDirectoryStore, SqlSettings
from services.storage.sql.failures import FAILURES
from services.storage.sql.migrations import DEVICES, PRIVACY, PUSH, History
from services.storage.sql.postgresql import PostgresqlEngine
from services.storage.sql.privacy import SqlPrivacyStore
from services.storage.sql.push import SqlPushStore
from services.storage.sql.sharded.branch import Branch
from services.storage.sql.sharded.failures import is_broken
from tests.support.servers.postgresql import PostgresqlServer

ALICE = User("alice", "Alice", 1_000)


@pytest.fixture
def server(postgresql_server: PostgresqlServer) -> Iterator[PostgresqlServer]:
    """The run's own server, for a test that takes it away: it is there again for the next one."""
    yield postgresql_server
    postgresql_server.stop()
    postgresql_server.start()


@pytest.fixture
def url(postgresql_server: PostgresqlServer) -> str:
    return postgresql_server.new_database()


@pytest.fixture
async def devices(url: str) -> AsyncIterator[SqlDeviceStore]:
    store = await SqlDeviceStore.open(url, SqlSettings(transaction_timeout_s=20.0))
    yield store
    await store.close()


@pytest.fixture
async def privacy(url: str) -> AsyncIterator[SqlPrivacyStore]:
    store = await SqlPrivacyStore.open(url, SqlSettings(transaction_timeout_s=20.0))
    yield store
    await store.close()


@pytest.fixture
async def push(url: str) -> AsyncIterator[SqlPushStore]:
    store = await SqlPushStore.open(url, SqlSettings(transaction_timeout_s=20.0))
    yield store
    await store.close()


CALLS: dict[str, Callable[[SqlDeviceStore], Awaitable[object]]] = {
    "touch": lambda devices: devices.touch("ann", "phone", 1, 1),
    "advance": lambda devices: devices.advance([CursorMove("ann", "phone", 1)]),
    "list_devices": lambda devices: devices.list_devices("ann", "", 1),
    "remove": lambda devices: devices.remove("ann", "phone"),
}


class Operator:
    """Another connection to the store's database."""

    def __init__(self, connection: asyncpg.Connection) -> None:
        self._connection = connection

    async def do(self, statements: str) -> None:
        await self._connection.execute(statements)

    async def see_waiting(self, count: int) -> None:
        """Returns when so many of the store's connections wait for a lock."""
        async with asyncio.timeout(30):
            while await self._connection.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted") < count:
                pass


@pytest.fixture
async def operator(url: str) -> AsyncIterator[Operator]:
    connection = await asyncpg.connect(url.replace("+asyncpg", ""))
    yield Operator(connection)
    await connection.close()


async def outcome(call: Awaitable[object]) -> str:
    """What became of the call: its error's reason, or "done"."""
    try:
        await call
    except HitherError as error:
        return error.reason
    return "done"


@pytest.mark.parametrize("history", [DEVICES, PRIVACY, PUSH], ids=["devices", "privacy", "push"])
async def test_the_migrations_make_the_schema_that_the_code_uses(
    devices: SqlDeviceStore, privacy: SqlPrivacyStore, push: SqlPushStore, url: str, history: History
) -> None:
    def differences(connection: Connection) -> list[object]:
        options = {"version_table": history.version_table, "compare_type": True, "compare_server_default": True}
        options["include_name"] = lambda name, kind, _parents: kind != "table" or name in history.metadata.tables
        return list(compare_metadata(MigrationContext.configure(connection, opts=options), history.metadata))

    found: list[object] = []
    engine = PostgresqlEngine(make_url(url), 1, 5.0)
    await engine.migrate(lambda connection: found.extend(differences(connection)))
    await engine.close()

    assert found == []


async def test_devices_and_directory_may_share_a_database(devices: SqlDeviceStore, url: str) -> None:
    directory = await SqlDirectoryStore.open(url)
    await directory.write(lambda tables: tables.users.add(ALICE, "hash"))
    await directory.close()
    again = await SqlDeviceStore.open(url)

    assert await again.touch("alice", "phone", 1, 1) == DeviceRow("alice", "phone", 0, 1)
    await again.close()


async def test_the_device_store_refuses_another_kind_of_database() -> None:
    with pytest.raises(ValueError, match="not on sqlite"):
        await SqlDeviceStore.open("sqlite:///devices.db")


async def test_more_calls_than_may_wait_are_refused(url: str) -> None:
    store = await SqlDeviceStore.open(url, SqlSettings(waiting_most=2))
    calls = [asyncio.create_task(outcome(store.list_devices("ann", "", 1))) for _ in range(3)]

    assert sorted(await asyncio.gather(*calls)) == ["OVERLOADED", "done", "done"]
    await store.close()


SLOW_INSERTS = """
    CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS
        'BEGIN PERFORM pg_advisory_xact_lock(7); RETURN NEW; END';
    CREATE TRIGGER slow BEFORE INSERT ON devices FOR EACH ROW EXECUTE FUNCTION wait();
    BEGIN; SELECT pg_advisory_xact_lock(7)"""


async def test_devices_that_are_made_at_once_are_counted_one_after_the_other(
    devices: SqlDeviceStore, operator: Operator
) -> None:
    await operator.do(SLOW_INSERTS)
    touches = [asyncio.create_task(devices.touch("ann", f"d{n}", 1, 1)) for n in range(4)]
    await operator.see_waiting(4)
    await operator.do("COMMIT")

    rows = await asyncio.gather(*touches)

    assert sum(row is not None for row in rows) == 1


async def test_cursors_that_are_moved_at_once_answer_what_the_one_before_left(
    devices: SqlDeviceStore, operator: Operator
) -> None:
    await devices.touch("ann", "phone", 1, 1)
    await operator.do("BEGIN; UPDATE devices SET cursor = 2")
    moves = [asyncio.create_task(devices.advance([CursorMove("ann", "phone", 5)])) for _ in range(4)]
    await operator.see_waiting(4)
    await operator.do("COMMIT")

    answers = [before for (before,) in await asyncio.gather(*moves)]

    assert sorted(answers) == [2, 5, 5, 5]


async def test_a_statement_that_the_database_refuses_shows_no_drivers_error(devices: SqlDeviceStore) -> None:
    with pytest.raises(HitherError) as caught:
        await devices.touch("nul\0", "phone", 1, 1)

    assert caught.value.reason == "BUG"
    assert "nul" not in str(caught.value)


@pytest.mark.parametrize("call", CALLS.values(), ids=list(CALLS))
async def test_a_call_while_the_database_is_away_is_unavailable_and_the_next_one_works(
    server: PostgresqlServer, devices: SqlDeviceStore, call: Callable[[SqlDeviceStore], Awaitable[object]]
) -> None:
    await devices.touch("ann", "phone", 1, 1)
    await asyncio.gather(*(devices.list_devices("ann", "", 1) for _ in range(4)))

    await asyncio.to_thread(server.kill)
    with pytest.raises(Unavailable) as caught:
        await call(devices)
    await asyncio.to_thread(server.start)

    assert caught.value.reason == "ENGINE_DOWN"
    assert await outcome(call(devices)) == "done"


PRIVACY_CALLS: dict[str, Callable[[SqlPrivacyStore], Awaitable[object]]] = {
    "privacy": lambda store: store.privacy(["ann"]),
    "put_privacy": lambda store: store.put_privacy(PrivacyRow("ann")),
    "put_grant": lambda store: store.put_grant(GrantRow("ann", "bob", Precision.CITY), 9),
    "forget": lambda store: store.forget("ann"),
}


@pytest.mark.parametrize("call", PRIVACY_CALLS.values(), ids=list(PRIVACY_CALLS))
async def test_privacy_is_unavailable_while_the_database_is_away_and_there_again_with_it(
    server: PostgresqlServer, privacy: SqlPrivacyStore, call: Callable[[SqlPrivacyStore], Awaitable[object]]
) -> None:
    await asyncio.gather(*(privacy.put_privacy(PrivacyRow("ann")) for _ in range(4)))

    await asyncio.to_thread(server.kill)
    with pytest.raises(Unavailable) as caught:
        await call(privacy)
    await asyncio.to_thread(server.start)

    assert caught.value.reason == "ENGINE_DOWN"
    assert await outcome(call(privacy)) == "done"


async def test_a_privacy_write_that_waits_too_long_for_another_is_given_up_undone(url: str, operator: Operator) -> None:
    store = await SqlPrivacyStore.open(url, SqlSettings(transaction_timeout_s=0.3))
    await store.put_privacy(PrivacyRow("ann"))
    await operator.do("BEGIN; UPDATE privacy SET version = 7")

    assert await outcome(store.put_grant(GrantRow("ann", "bob", Precision.CITY), 9)) == "ENGINE_DOWN"

    await operator.do("COMMIT")
    assert await store.grants_by("ann", "", 9) == []
    assert await store.put_privacy(PrivacyRow("ann")) == 8
    await store.close()


PUSH_CALLS: dict[str, Callable[[SqlPushStore], Awaitable[object]]] = {
    "put_token": lambda store: store.put_token(PushTokenRow("ann", "phone", Platform.IOS, "t", 1), 9),
    "tokens": lambda store: store.tokens(["ann"]),
    "preferences": lambda store: store.preferences(["ann"]),
    "put_settings": lambda store: store.put_settings(PushSettingsRow("ann")),
    "put_mute": lambda store: store.put_mute("ann", "g.1", 0, 9),
}


@pytest.mark.parametrize("call", PUSH_CALLS.values(), ids=list(PUSH_CALLS))
async def test_push_is_unavailable_while_the_database_is_away_and_there_again_with_it(
    server: PostgresqlServer, push: SqlPushStore, call: Callable[[SqlPushStore], Awaitable[object]]
) -> None:
    await asyncio.gather(*(push.put_settings(PushSettingsRow("ann")) for _ in range(4)))

    await asyncio.to_thread(server.kill)
    with pytest.raises(Unavailable) as caught:
        await call(push)
    await asyncio.to_thread(server.start)

    assert caught.value.reason == "ENGINE_DOWN"
    assert await outcome(call(push)) == "done"


async def test_a_mute_that_waits_too_long_for_another_is_given_up_undone(url: str, operator: Operator) -> None:
    store = await SqlPushStore.open(url, SqlSettings(transaction_timeout_s=0.3))
    await store.put_settings(PushSettingsRow("ann"))
    await operator.do("BEGIN; UPDATE push_settings SET preview = 3")

    assert await outcome(store.put_mute("ann", "g.1", 0, 9)) == "ENGINE_DOWN"

    await operator.do("COMMIT")
    assert (await store.preferences(["ann"]))["ann"].mutes == {}
    await store.close()


async def test_connections_that_broke_while_nobody_used_them_fail_no_call(
    server: PostgresqlServer, devices: SqlDeviceStore
) -> None:
    await asyncio.gather(*(devices.touch("ann", f"d{n}", 1, 9) for n in range(8)))

    await asyncio.to_thread(server.kill)
    await asyncio.to_thread(server.start)

    outcomes = await asyncio.gather(*(outcome(devices.advance([CursorMove("ann", f"d{n}", 1)])) for n in range(8)))
    assert outcomes == ["done"] * 8


async def test_a_write_that_the_database_does_not_answer_ends_with_its_outcome_unknown(
    server: PostgresqlServer, url: str
) -> None:
    devices = await SqlDeviceStore.open(url, SqlSettings(transaction_timeout_s=2.0))
    await devices.touch("ann", "phone", 1, 1)
    await asyncio.to_thread(server.pause)

    reason = await outcome(devices.advance([CursorMove("ann", "phone", 1)]))
    await asyncio.to_thread(server.resume)

    assert reason == "OUTCOME_UNKNOWN"
    assert await outcome(devices.advance([CursorMove("ann", "phone", 2)])) == "done"
    await devices.close()


async def test_the_directory_works_again_when_the_database_comes_back(server: PostgresqlServer, url: str) -> None:
    store = await SqlDirectoryStore.open(url)
    await store.write(lambda tables: tables.users.add(ALICE, "hash"))

    await asyncio.to_thread(server.kill)
    with pytest.raises(Unavailable) as caught:
        await store.read(lambda tables: tables.users.find(["alice"]))
    await asyncio.to_thread(server.start)

    assert caught.value.reason == "ENGINE_DOWN"
    assert await store.read(lambda tables: tables.users.find(["alice"])) == {"alice": ALICE}
    await store.close()


SLOW_COMMITS = """
    CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS
        'BEGIN PERFORM pg_advisory_xact_lock(7); RETURN NULL; END';
    CREATE CONSTRAINT TRIGGER slow AFTER INSERT ON users DEFERRABLE INITIALLY DEFERRED
        FOR EACH ROW EXECUTE FUNCTION wait()"""


async def test_a_commit_that_the_servers_death_broke_off_has_an_unknown_outcome(
    server: PostgresqlServer, url: str, operator: Operator
) -> None:
    store = await SqlDirectoryStore.open(url, SqlSettings(transaction_timeout_s=20.0))
    await operator.do(SLOW_COMMITS)
    await operator.do("SELECT pg_advisory_lock(7)")
    writing = asyncio.create_task(outcome(store.write(lambda tables: tables.users.add(ALICE, "hash"))))
    await operator.see_waiting(1)

    await asyncio.to_thread(server.kill)
    reason = await writing
    await asyncio.to_thread(server.start)

    assert reason == "OUTCOME_UNKNOWN"
    assert await store.read(lambda tables: tables.users.find(["alice"])) == {}
    assert await outcome(store.write(lambda tables: tables.users.add(ALICE, "hash"))) == "done"
    await store.close()


@pytest.mark.parametrize("passes", range(5))
async def test_a_connection_is_broken_at_every_moment_after_its_server_has_said_farewell(
    url: str, postgresql_server: PostgresqlServer, passes: int
) -> None:
    engine = PostgresqlEngine(make_url(url), 1, 5.0)
    async with AsyncExitStack() as stack:
        branch = await Branch.begin(stack, engine, 0, "BEGIN")
        database = url.rpartition("/")[2]
        ended = f"SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE datname = '{database}'"
        postgresql_server.ask(ended)
        for _ in range(passes):
            await asyncio.sleep(0)  # a pass of the loop: the farewell is read in one, the end in a later one
        with pytest.raises(FAILURES) as caught:
            await branch.end("COMMIT", "COMMIT")
    await engine.close()

    assert is_broken(caught.value)
