"""Reads on replicas: recent ones serve, others are passed over, and nobody reads what is older than a write that returned."""

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest
from sqlalchemy import make_url

from services.directory.model import User
from services.directory.ports import Tables
from services.storage.sql.directory import SqlDirectoryStore, SqlSettings
from services.storage.sql.metrics import MISSED, READS
from services.storage.sql.postgresql import PostgresqlEngine
from services.storage.sql.replicas import Place, Replica, ReplicaSettings, SharedQuestion, without_replicas
from tests.support.servers.postgresql import PostgresqlReplica, PostgresqlServer

URL = "postgresql+asyncpg://me:secret@primary:5432/hither"
PATIENT = ReplicaSettings(lag_s=5.0, answer_s=10.0)
HASTY = ReplicaSettings(lag_s=0.005, answer_s=2.0, out_base_s=0.001, out_most_s=0.001)


@pytest.fixture
def replica(postgresql_replica: PostgresqlReplica) -> Iterator[PostgresqlReplica]:
    """The run's own, for a test that takes it away: it is there again for the next one."""
    yield postgresql_replica
    postgresql_replica.stop()
    postgresql_replica.start()


@pytest.fixture
def url(postgresql_server: PostgresqlServer, postgresql_replica: PostgresqlReplica) -> str:
    return f"{postgresql_server.new_database()}?replica=127.0.0.1:{postgresql_replica.port}"


async def opened(url: str, replication: ReplicaSettings) -> SqlDirectoryStore:
    await (await SqlDirectoryStore.open(url)).close()
    return SqlDirectoryStore(PostgresqlEngine(make_url(url), 4, 20.0, replication), SqlSettings())


@pytest.fixture
async def store(url: str) -> AsyncIterator[SqlDirectoryStore]:
    store = await opened(url, PATIENT)
    yield store
    await store.close()


@pytest.fixture
async def hasty(url: str) -> AsyncIterator[SqlDirectoryStore]:
    store = await opened(url, HASTY)
    yield store
    await store.close()


async def add(store: SqlDirectoryStore, number: int) -> None:
    await store.write(lambda tables: tables.users.add(User(f"user{number}", "Name", 1), "hash"))


async def sees(store: SqlDirectoryStore, number: int) -> bool:
    return bool(await store.read(lambda tables: tables.users.find([f"user{number}"])))


def served(by: str) -> float:
    value: float = READS.labels(by)._value.get()
    return value


def missed(replica: PostgresqlReplica, why: str) -> float:
    value: float = MISSED.labels(f"127.0.0.1:{replica.port}", why)._value.get()
    return value


async def until_served_by_replica(store: SqlDirectoryStore) -> None:
    before = served("replica")
    async with asyncio.timeout(30):
        while served("replica") == before:
            await sees(store, 0)


async def test_replicas_serve_reads_that_see_every_write_before(store: SqlDirectoryStore) -> None:
    await until_served_by_replica(store)
    before = served("replica")

    for number in range(50):
        await add(store, number)
        assert await sees(store, number)

    assert served("replica") == before + 50


async def test_a_replica_that_applies_nothing_is_passed_over_and_taken_in_again(
    hasty: SqlDirectoryStore, replica: PostgresqlReplica
) -> None:
    await add(hasty, 0)
    await until_served_by_replica(hasty)
    before = missed(replica, "behind")
    await asyncio.to_thread(replica.ask, "SELECT pg_wal_replay_pause()")
    await add(hasty, 1)

    assert await sees(hasty, 1)
    assert missed(replica, "behind") > before

    await asyncio.to_thread(replica.ask, "SELECT pg_wal_replay_resume()")
    await until_served_by_replica(hasty)


async def test_a_replica_that_died_is_passed_over_and_taken_in_again(
    hasty: SqlDirectoryStore, replica: PostgresqlReplica
) -> None:
    await add(hasty, 0)
    await until_served_by_replica(hasty)
    before = missed(replica, "away")
    await asyncio.to_thread(replica.kill)
    await add(hasty, 1)

    assert await sees(hasty, 1)
    assert missed(replica, "away") > before

    await asyncio.to_thread(replica.start)
    await until_served_by_replica(hasty)


async def test_a_replica_that_stands_still_is_passed_over(hasty: SqlDirectoryStore, replica: PostgresqlReplica) -> None:
    await add(hasty, 0)
    await until_served_by_replica(hasty)
    await asyncio.to_thread(replica.pause)

    assert await sees(hasty, 0)
    await asyncio.to_thread(replica.resume)


async def test_reads_inside_a_write_ask_no_replica(store: SqlDirectoryStore) -> None:
    before = served("replica"), served("primary")

    async def work(tables: Tables) -> None:
        await tables.users.find(["user1"])

    await store.write(work)

    assert (served("replica"), served("primary")) == before


def test_replicas_have_the_primarys_user_and_database_and_their_own_address() -> None:
    url = make_url(f"{URL}?replica=one:1&replica=[::1]:2&host=a:1&host=b:2&target_session_attrs=primary&ssl=require")

    primary, replicas = without_replicas(url)

    assert dict(primary.query) == {"host": ("a:1", "b:2"), "target_session_attrs": "primary", "ssl": "require"}
    assert [replica.render_as_string(hide_password=False) for replica in replicas] == [
        "postgresql+asyncpg://me:secret@one:1/hither?ssl=require",
        "postgresql+asyncpg://me:secret@[::1]:2/hither?ssl=require",
    ]


@pytest.mark.parametrize("address", ["one", ":1", "one:", "one:two"])
def test_a_replica_without_host_and_port_is_refused(address: str) -> None:
    with pytest.raises(ValueError, match="HOST:PORT"):
        without_replicas(make_url(URL).update_query_dict({"replica": address}))


@pytest.mark.parametrize(
    ("place", "covers"),
    [
        (Place(10, "00000001", 7), True),
        (Place(11, "00000001", 7), True),
        (Place(9, "00000001", 7), False),
        (Place(11, "00000002", 7), False),
        (Place(11, None, 7), False),
        (Place(11, "00000001", 8), False),
        (Place(None, "00000001", 7), False),
    ],
)
def test_only_the_same_history_as_far_or_farther_covers_a_place(place: Place, covers: bool) -> None:
    assert place.covers(Place(10, "00000001", 7)) is covers


async def test_who_comes_while_a_question_is_asked_shares_the_next_one() -> None:
    asked, is_asked, go_on = 0, asyncio.Event(), asyncio.Event()

    async def ask() -> Place:
        nonlocal asked
        asked += 1
        number = asked
        is_asked.set()
        await go_on.wait()
        return Place(number, "00000001", 7)

    question = SharedQuestion(ask)
    first = asyncio.create_task(question.answer())
    await is_asked.wait()
    later = [asyncio.create_task(question.answer()) for _ in range(5)]
    await asyncio.sleep(0)
    go_on.set()

    assert (await first).position == 1
    assert {place.position for place in await asyncio.gather(*later)} == {2}
    await question.close()


def test_a_replica_is_left_out_for_longer_each_time_up_to_a_limit_until_it_serves() -> None:
    engine = PostgresqlEngine(make_url(URL), 1, 1.0)._engine
    replica = Replica("one:1", engine, ReplicaSettings(out_base_s=1.0, out_most_s=3.0))

    for now_s, out_s in ((10.0, 1.0), (20.0, 2.0), (30.0, 3.0), (40.0, 3.0)):
        replica.miss("away", now_s)
        replica.miss("away", now_s)
        assert not replica.is_in(now_s + out_s - 0.01)
        assert replica.is_in(now_s + out_s)
    replica.serve()
    replica.miss("away", 50.0)

    assert replica.is_in(51.0)
