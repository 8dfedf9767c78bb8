"""The directory on several databases: what a death in the middle of a commit leaves, what transactions over shards see of each
other, and what goes on while a shard is away. The suite of the port runs over shards too, in tests/conformance.
"""

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import replace

import asyncpg
import pytest
from sqlalchemy import make_url

from discovery.errors import Aborted, ResourceExhausted, Unavailable
from services.directory.model import Conversation, Friendship, Kind, Member, MemberRole, Pair, Session, Side, User
from services.directory.ports import DirectoryStore, Tables
from services.storage.sql.directory import SqlDirectoryStore, SqlSettings
from services.storage.sql.postgresql import PostgresqlEngine
from services.storage.sql.sharded import commit
from services.storage.sql.sharded.branch import Branch
from services.storage.sql.sharded.recovery import Recovery
from services.storage.sql.sharded.store import ShardedDirectoryStore, ShardSettings
from tests.support.servers.postgresql import PostgresqlServer

# On the first of two shards, and on the second.
ANN, BOB = User("ann", "Ann", 1_000), User("bob", "Bob", 1_000)
FRIENDS = Pair(Side.ACCEPTED, Side.ACCEPTED)
PATIENT = SqlSettings(transaction_timeout_s=20.0, attempts=100)
# Finds nothing old enough to end, and does not wait long for it.
DOUBTING = ShardSettings(lock_timeout_s=0.05, doubt_s=3_600)
AT_ONCE = ShardSettings(doubt_s=0.0)


@pytest.fixture
def urls(postgresql_server: PostgresqlServer) -> list[str]:
    return [postgresql_server.new_database(), postgresql_server.new_database()]


@pytest.fixture
def server() -> Iterator[PostgresqlServer]:
    """One that a test may take away."""
    with PostgresqlServer() as server:
        yield server


@pytest.fixture
async def store(urls: list[str]) -> AsyncIterator[ShardedDirectoryStore]:
    opened = await ShardedDirectoryStore.open(urls, PATIENT)
    yield opened
    await opened.close()


async def ask(url: str, question: str) -> list[asyncpg.Record]:
    """What the database's operator sees."""
    connection = await asyncpg.connect(url.replace("+asyncpg", ""))
    try:
        return list(await connection.fetch(question))
    finally:
        await connection.close()


async def prepared(urls: Sequence[str]) -> int:
    """How many transactions are left in doubt."""
    question = "SELECT gid FROM pg_prepared_xacts WHERE database = current_database()"
    return sum([len(await ask(url, question)) for url in urls])


async def decisions(urls: Sequence[str]) -> list[bool]:
    return [row["is_committed"] for url in urls for row in await ask(url, "SELECT is_committed FROM decisions")]


async def befriend(tables: Tables) -> None:
    """On both shards."""
    await tables.users.add(ANN, "hash")
    await tables.users.add(BOB, "hash")
    await tables.friendships.put_pair("ann", "bob", FRIENDS, 7)


async def add_to_both(tables: Tables, *user_ids: str) -> None:
    for user_id in user_ids:
        await tables.users.add(User(user_id, user_id, 1_000), "hash")


async def people(store: DirectoryStore) -> set[str]:
    return set(await store.read(lambda tables: tables.users.find(["ann", "bob"])))


# Databases


async def test_what_is_a_users_is_on_the_users_shard(store: ShardedDirectoryStore, urls: list[str]) -> None:
    await store.write(befriend)

    sides = [await ask(url, "SELECT user_id FROM friendships UNION ALL SELECT user_id FROM users") for url in urls]
    assert [[row["user_id"] for row in rows] for rows in sides] == [["ann", "ann"], ["bob", "bob"]]


async def test_shards_in_another_order_are_refused(store: ShardedDirectoryStore, urls: list[str]) -> None:
    with pytest.raises(ValueError, match=r"is shard 2 of 2 of the directory and cannot be shard 1 of 2"):
        await ShardedDirectoryStore.open(urls[::-1])


async def test_an_undivided_directory_is_no_shard(urls: list[str]) -> None:
    await (await SqlDirectoryStore.open(urls[1])).close()

    with pytest.raises(ValueError, match="has an undivided directory"):
        await ShardedDirectoryStore.open(urls)


async def test_a_server_that_prepares_no_transactions_is_refused(urls: list[str]) -> None:
    with PostgresqlServer({"max_prepared_transactions": "0"}) as server:
        other = server.new_database()
        with pytest.raises(ValueError, match="max_prepared_transactions is 0"):
            await ShardedDirectoryStore.open([urls[0], other])


@pytest.mark.parametrize(
    ("url", "why"),
    [("sqlite:///d.db", "not on sqlite"), ("postgresql+asyncpg://h/d?replica=h:1", "no replicas")],
    ids=["sqlite", "replica"],
)
async def test_what_cannot_be_a_shard_is_refused(url: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        await ShardedDirectoryStore.open([url])


# Deaths


DIE = """
import asyncio, os, sys
from services.storage.sql.sharded import commit
from services.storage.sql.sharded.store import ShardedDirectoryStore
from tests.unit.services.storage.test_sql_sharded_directory import befriend
async def die(*_):
    os._exit(9)
async def main():
    store = await ShardedDirectoryStore.open(sys.argv[2:])
    setattr(commit, sys.argv[1], die)
    await store.write(befriend)
asyncio.run(main())
"""


async def die_before(phase: str, urls: Sequence[str]) -> None:
    """Has a process befriend people and end just before this phase of the commit."""
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", DIE, phase, *urls)
    assert await process.wait() == 9


async def test_what_was_not_decided_when_its_process_died_is_undone(urls: list[str]) -> None:
    await die_before("decide", urls)
    left = await prepared(urls)

    store = await ShardedDirectoryStore.open(urls, PATIENT, AT_ONCE)

    assert (left, await prepared(urls)) == (1, 0)
    assert await people(store) == set()
    await store.write(befriend)
    assert await people(store) == {"ann", "bob"}
    await store.close()


async def test_what_was_decided_when_its_process_died_is_done(urls: list[str]) -> None:
    await die_before("complete", urls)
    left = await prepared(urls)

    store = await ShardedDirectoryStore.open(urls, PATIENT, AT_ONCE)

    assert (left, await prepared(urls)) == (1, 0)
    assert await people(store) == {"ann", "bob"}
    assert await decisions(urls) == []
    await store.close()


async def test_a_running_process_ends_what_another_one_left(urls: list[str]) -> None:
    sharding = ShardSettings(doubt_s=0.1, recovery_interval_s=0.01)
    store = await ShardedDirectoryStore.open(urls, PATIENT, sharding)
    await die_before("complete", urls)

    async with asyncio.timeout(30):
        while await prepared(urls):
            pass
    assert await people(store) == {"ann", "bob"}
    await store.close()


@pytest.mark.parametrize(
    "look",
    [
        lambda tables: tables.users.find(["bob"]),
        lambda tables: tables.users.find(["ann", "bob"]),
        lambda tables: tables.friendships.pair("ann", "bob"),
    ],
    ids=["one shard", "two shards", "pair"],
)
async def test_what_is_in_doubt_is_not_read_without_it(
    urls: list[str], look: Callable[[Tables], Awaitable[object]]
) -> None:
    await die_before("complete", urls)
    store = await ShardedDirectoryStore.open(urls, SqlSettings(attempts=2), DOUBTING)

    with pytest.raises(Unavailable) as failed:
        await store.read(look)
    with pytest.raises(Aborted):
        await store.write(look)

    assert failed.value.reason == "ENGINE_DOWN"
    assert set(await store.read(lambda tables: tables.users.find(["ann"]))) == {"ann"}
    await store.close()


async def test_what_was_given_up_cannot_be_decided_any_more(
    store: ShardedDirectoryStore, urls: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    engines = [PostgresqlEngine(make_url(url), 1, 5.0) for url in urls]
    decide, decided = commit.decide, list[str]()

    async def late(first: Branch, commands: str) -> None:
        if not decided:
            decided.append("late")
            await Recovery(engines, doubt_s=0.0, answer_s=5.0).recover()
        await decide(first, commands)
        decided.append("in time")

    monkeypatch.setattr(commit, "decide", late)
    await store.write(befriend)

    assert decided == ["late", "in time"]
    assert await people(store) == {"ann", "bob"}
    assert await prepared(urls) == 0
    assert await decisions(urls) == [False]
    for engine in engines:
        await engine.close()


async def test_a_commit_goes_on_when_its_caller_is_cancelled(
    store: ShardedDirectoryStore, urls: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    decide, entered, leave = commit.decide, asyncio.Event(), asyncio.Event()

    async def slow(first: Branch, commands: str) -> None:
        entered.set()
        await leave.wait()
        await decide(first, commands)

    monkeypatch.setattr(commit, "decide", slow)
    writing = asyncio.create_task(store.write(befriend))
    await entered.wait()
    writing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await writing
    leave.set()
    await store.close()

    again = await ShardedDirectoryStore.open(urls, PATIENT, DOUBTING)
    assert await people(again) == {"ann", "bob"}
    await again.close()


async def test_decisions_are_forgotten_when_all_shards_know(store: ShardedDirectoryStore, urls: list[str]) -> None:
    await store.write(befriend)

    assert await prepared(urls) == 0
    assert await decisions(urls) == []


async def test_what_goes_leaves_no_traces_on_other_shards(store: ShardedDirectoryStore, urls: list[str]) -> None:
    members = tuple(Member(user.user_id, MemberRole.MEMBER, 1) for user in (ANN, BOB))
    groups = [Conversation(f"g.{number}", Kind.GROUP, "Group", number, members) for number in range(4)]

    def session(user_id: str, number: int) -> Session:
        return Session(f"{user_id}-{number}", user_id, f"device{number // 2}", b"", number, number)

    async def come(tables: Tables) -> None:
        await befriend(tables)
        for group in groups:
            await tables.conversations.add(group)
        for number in range(8):
            await tables.sessions.put(session("ann", number))
            await tables.sessions.put(session("bob", number))
        await tables.sessions.put(replace(session("ann", 7), user_id="bob"))

    async def go(tables: Tables) -> int:
        for group in groups:
            await tables.conversations.remove_member(group.conversation_id, "ann")
            await tables.conversations.remove(group.conversation_id)
        await tables.sessions.trim("ann", most=1)
        await tables.sessions.remove("bob-1")
        return await tables.sessions.prune(before_ms=100, limit=9)

    await store.write(come)
    tables = ["memberships", "members", "session_owners", "sessions"]
    came = [sum([len(await ask(url, f"SELECT FROM {table}")) for url in urls]) for table in tables]
    pruned = await store.write(go)
    left = [sum([len(await ask(url, f"SELECT FROM {table}")) for url in urls]) for table in tables]

    # Each of four devices has its last session, but the one that moved from Ann's last device to Bob's.
    assert (came, pruned, left) == ([8, 8, 7, 7], 4, [0, 0, 0, 0])


async def test_a_server_that_can_prepare_no_more_refuses_what_spans_shards(urls: list[str]) -> None:
    with PostgresqlServer({"max_prepared_transactions": "1"}) as server:
        crowded = [urls[0], server.new_database()]
        await die_before("complete", crowded)
        store = await ShardedDirectoryStore.open(crowded, PATIENT, DOUBTING)

        with pytest.raises(ResourceExhausted) as refused:
            await store.write(lambda tables: add_to_both(tables, "carol", "counter"))
        await store.close()

    assert refused.value.reason == "OVERLOADED"


# Transactions beside each other


async def read_hashes(tables: Tables) -> tuple[str | None, str | None]:
    return await tables.users.password_hash("ann"), await tables.users.password_hash("bob")


async def set_hashes(tables: Tables, ann: str, bob: str) -> None:
    await tables.users.set_password_hash("ann", ann)
    await tables.users.set_password_hash("bob", bob)


async def test_no_update_of_two_shards_is_lost(store: ShardedDirectoryStore, urls: list[str]) -> None:
    other = await ShardedDirectoryStore.open(urls, PATIENT)
    await store.write(befriend)
    await store.write(lambda tables: set_hashes(tables, "0", "0"))

    async def count(tables: Tables) -> None:
        ann, bob = await read_hashes(tables)
        await set_hashes(tables, str(int(ann or "") + 1), str(int(bob or "") + 1))

    await asyncio.gather(*(one.write(count) for one in (store, other) * 10))
    await other.close()

    assert await store.read(read_hashes) == ("20", "20")


async def test_two_who_each_look_before_they_leap_do_not_both_leap(
    store: ShardedDirectoryStore, urls: list[str]
) -> None:
    other = await ShardedDirectoryStore.open(urls, PATIENT)
    await store.write(befriend)

    def leap(user_id: str) -> Callable[[Tables], Awaitable[None]]:
        async def work(tables: Tables) -> None:
            if "out" not in await read_hashes(tables):
                await tables.users.set_password_hash(user_id, "out")

        return work

    for _ in range(10):
        await store.write(lambda tables: set_hashes(tables, "in", "in"))
        await asyncio.gather(store.write(leap("ann")), other.write(leap("bob")))
        assert sorted(map(str, await store.read(read_hashes))) == ["in", "out"]
    await other.close()


async def test_a_read_sees_all_of_a_transaction_or_nothing(store: ShardedDirectoryStore, urls: list[str]) -> None:
    other = await ShardedDirectoryStore.open(urls, PATIENT)
    await store.write(befriend)

    async def write() -> None:
        for number in range(30):
            await store.write(lambda tables, hashed=str(number): set_hashes(tables, hashed, hashed))  # type: ignore[misc]

    async def read() -> list[tuple[str | None, str | None]]:
        return [await other.read(read_hashes) for _ in range(60)]

    _, seen = await asyncio.gather(write(), read())
    await other.close()

    assert [ann for ann, _ in seen] == [bob for _, bob in seen]


async def test_transactions_that_wait_for_each_other_are_both_done(store: ShardedDirectoryStore) -> None:
    await store.write(befriend)
    have_ann, have_bob = asyncio.Event(), asyncio.Event()

    async def ann_first(tables: Tables) -> None:
        await tables.users.set_password_hash("ann", "one")
        have_ann.set()
        await have_bob.wait()
        await tables.users.set_password_hash("bob", "one")

    async def bob_first(tables: Tables) -> None:
        await tables.users.set_password_hash("bob", "other")
        have_bob.set()
        await have_ann.wait()
        await tables.users.set_password_hash("ann", "other")

    async with asyncio.timeout(30):
        await asyncio.gather(store.write(ann_first), store.write(bob_first))

    assert await store.read(read_hashes) in {("one", "one"), ("other", "other")}


# Shards that are away


async def test_while_a_shard_is_away_the_rest_goes_on(urls: list[str], server: PostgresqlServer) -> None:
    store = await ShardedDirectoryStore.open([urls[0], server.new_database()])
    await store.write(befriend)
    await asyncio.to_thread(server.kill)

    reasons = []
    for failing in (store.read(lambda tables: tables.users.find(["bob"])), store.write(befriend)):
        with pytest.raises(Unavailable) as failed:
            await failing
        reasons.append(failed.value.reason)
    await store.write(lambda tables: tables.users.set_password_hash("ann", "new"))
    ann = await store.read(lambda tables: tables.users.password_hash("ann"))
    await asyncio.to_thread(server.start)

    assert (reasons, ann) == (["ENGINE_DOWN", "ENGINE_DOWN"], "new")
    assert await store.read(lambda tables: tables.friendships.find("ann", "bob")) == Friendship(BOB, Side.ACCEPTED, 7)
    await store.close()


async def test_a_shard_that_dies_prepared_has_its_part_when_it_is_back(
    urls: list[str], server: PostgresqlServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = await ShardedDirectoryStore.open([urls[0], server.new_database()], PATIENT, AT_ONCE)
    complete = commit.complete

    async def after_death(branches: Sequence[Branch], name: commit.TransactionName) -> bool:
        await asyncio.to_thread(server.kill)
        return await complete(branches, name)

    monkeypatch.setattr(commit, "complete", after_death)
    await store.write(befriend)
    await asyncio.to_thread(server.start)

    assert await people(store) == {"ann", "bob"}
    await store.close()


async def test_a_decision_that_its_shards_death_broke_off_has_an_unknown_outcome(
    urls: list[str], server: PostgresqlServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = await ShardedDirectoryStore.open([server.new_database(), urls[1]], PATIENT, AT_ONCE)
    decide = commit.decide

    async def after_death(first: Branch, commands: str) -> None:
        await asyncio.to_thread(server.kill)
        await decide(first, commands)

    with monkeypatch.context() as patched:
        patched.setattr(commit, "decide", after_death)
        with pytest.raises(Unavailable) as failed:
            await store.write(befriend)
    await asyncio.to_thread(server.start)

    assert failed.value.reason == "OUTCOME_UNKNOWN"
    assert await people(store) == set()
    await store.close()
