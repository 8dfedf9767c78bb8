"""The directory store on SQLite: what its statements on the loop and its commits in a thread must not break."""

import asyncio
import sqlite3
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import Connection, event, text
from sqlalchemy.exc import ResourceClosedError

from discovery.errors import Aborted, Unavailable
from services.directory.model import Pair, Side, User
from services.directory.ports import Tables
from services.storage.sql.directory import SqlDirectoryStore, SqlSettings, SqlTables, sqlite_url
from services.storage.sql.sqlite import SqliteEngine

ALICE, BOB = (User(user_id, user_id.capitalize(), 1_000) for user_id in ("alice", "bob"))


class Gate:
    """Stops commits in their thread until it is opened."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._open = threading.Event()
        self.reached = asyncio.Event()

    def __call__(self, _connection: Connection) -> None:
        self._loop.call_soon_threadsafe(self.reached.set)
        self._open.wait()

    def open(self) -> None:
        self._open.set()


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqlDirectoryStore]:
    opened = await SqlDirectoryStore.open(
        sqlite_url(tmp_path / "directory.db"), SqlSettings(connections=2, transaction_timeout_s=0.5)
    )
    yield opened
    await opened.close()


@pytest.fixture
async def engine(store: SqlDirectoryStore) -> SqliteEngine:
    assert isinstance(store._engine, SqliteEngine)
    return store._engine


@pytest.fixture
async def gate(engine: SqliteEngine) -> AsyncIterator[Gate]:
    made = Gate(asyncio.get_running_loop())
    event.listen(engine._opened[0], "commit", made)
    yield made
    made.open()


@pytest.fixture
def other_process(tmp_path: Path, store: SqlDirectoryStore) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(tmp_path / "directory.db", isolation_level=None)) as connection:
        yield connection


async def add(store: SqlDirectoryStore, user: User) -> bool:
    return await store.write(lambda tables: tables.users.add(user, "hash"))


def pragmas(connections: Sequence[Connection]) -> list[tuple[object, ...]]:
    names = ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
    return [tuple(one.exec_driver_sql(f"PRAGMA {name}").scalar() for name in names) for one in connections]


async def test_every_connection_syncs_fully_guards_its_keys_and_waits_for_no_lock(engine: SqliteEngine) -> None:
    assert pragmas(engine._opened) == [("wal", 2, 1, 0)] * 3


async def test_connections_that_break_are_replaced_by_their_like(
    store: SqlDirectoryStore, engine: SqliteEngine
) -> None:
    for connection in engine._opened:
        raw = connection.connection.dbapi_connection
        assert raw is not None
        raw.close()

    assert await add(store, ALICE)
    assert await store.read(lambda tables: tables.users.find(["alice"])) == {"alice": ALICE}
    assert pragmas(engine._opened[:1]) == [("wal", 2, 1, 0)]


async def test_a_commit_goes_on_when_its_caller_is_cancelled(store: SqlDirectoryStore, gate: Gate) -> None:
    cancelled = asyncio.create_task(add(store, ALICE))
    await gate.reached.wait()
    cancelled.cancel()
    await asyncio.wait([cancelled])
    next_one = asyncio.create_task(add(store, ALICE))
    gate.open()

    assert await next_one is False


async def test_a_commit_that_takes_too_long_may_have_been_done(store: SqlDirectoryStore, gate: Gate) -> None:
    with pytest.raises(Unavailable) as failed:
        await add(store, ALICE)
    gate.open()

    assert failed.value.reason == "OUTCOME_UNKNOWN"
    assert await add(store, BOB)


async def test_reads_go_on_beside_a_commit(store: SqlDirectoryStore, gate: Gate) -> None:
    writing = asyncio.create_task(add(store, ALICE))
    await gate.reached.wait()
    found = await store.read(lambda tables: tables.users.find(["alice"]))
    gate.open()

    assert found == {}
    assert await writing


async def test_closing_waits_for_a_commit_whose_caller_is_gone(store: SqlDirectoryStore, gate: Gate) -> None:
    cancelled = asyncio.create_task(add(store, ALICE))
    await gate.reached.wait()
    cancelled.cancel()
    await asyncio.wait([cancelled])
    closing_it = asyncio.create_task(store.close())
    still_open, _ = await asyncio.wait([closing_it], timeout=0.01)
    gate.open()
    await closing_it

    assert still_open == set()


async def test_the_loop_goes_on_while_another_process_writes(
    store: SqlDirectoryStore, other_process: sqlite3.Connection
) -> None:
    other_process.execute("BEGIN IMMEDIATE")
    waiting = asyncio.create_task(add(store, ALICE))
    done, _ = await asyncio.wait([waiting], timeout=0.02)
    other_process.execute("COMMIT")

    assert done == set()
    assert await waiting


async def test_a_file_that_another_process_keeps_locked_is_away(
    store: SqlDirectoryStore, other_process: sqlite3.Connection
) -> None:
    other_process.execute("BEGIN IMMEDIATE")
    with pytest.raises(Unavailable) as failed:
        await add(store, ALICE)
    other_process.execute("COMMIT")

    assert failed.value.reason == "ENGINE_DOWN"
    assert await add(store, ALICE)


async def test_a_commit_that_fails_leaves_nothing_and_the_next_succeeds(store: SqlDirectoryStore) -> None:
    async def befriend_nobody(tables: Tables) -> None:
        assert isinstance(tables, SqlTables)
        await tables.users.add(ALICE, "hash")
        await tables.friendships._statements.execute(text("PRAGMA defer_foreign_keys=ON"))
        await tables.friendships.put_pair("nobody", "alice", Pair(Side.BLOCKED, Side.NONE), 1)

    with pytest.raises(Aborted):
        await store.write(befriend_nobody)

    assert await add(store, ALICE)


async def test_more_reads_than_connections_wait_for_each_other(store: SqlDirectoryStore) -> None:
    async def pause(tables: Tables) -> None:
        await asyncio.sleep(0)

    await asyncio.gather(*(store.read(pause) for _ in range(10)))


async def test_the_tables_of_a_transaction_that_ended_are_good_for_nothing(store: SqlDirectoryStore) -> None:
    async def keep(tables: Tables) -> Tables:
        return tables

    for kept in (await store.read(keep), await store.write(keep)):
        with pytest.raises(ResourceClosedError):
            await kept.users.find(["alice"])
