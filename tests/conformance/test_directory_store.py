"""The contract of services.directory.ports.DirectoryStore, over every engine."""

import asyncio
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection

from discovery.errors import Aborted, HitherError, ResourceExhausted, Unavailable
from services.directory.model import (
    Answer,
    AnswerKey,
    Conversation,
    Friendship,
    Kind,
    Member,
    MemberRole,
    Pair,
    Session,
    Side,
    User,
)
from services.directory.ports import DirectoryStore, Tables
from services.storage.sql.directory import SqlDirectoryStore, SqlSettings, engine_of, sqlite_url
from services.storage.sql.migrations import DIRECTORY, DIRECTORY_SHARDS
from tests.support.directory_stores import is_sharded, open_store
from tests.support.servers.postgresql import PostgresqlReplica, PostgresqlServer

ALICE, BOB, CAROL = (User(user_id, user_id.capitalize(), 1_000) for user_id in ("alice", "bob", "carol"))
FRIENDS = Pair(Side.ACCEPTED, Side.ACCEPTED)
STRANGERS = Pair(Side.NONE, Side.NONE)


@pytest.fixture(params=["sqlite", "postgresql", "replicated", "sharded"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return sqlite_url(tmp_path / "100% #1?.db")
    server: PostgresqlServer = request.getfixturevalue("postgresql_server")
    if request.param == "postgresql":
        return server.new_database()
    if request.param == "sharded":
        return f"{server.new_database()} {server.new_database()}"
    replica: PostgresqlReplica = request.getfixturevalue("postgresql_replica")
    return f"{server.new_database()}?replica=127.0.0.1:{replica.port}"


@pytest.fixture
async def store(url: str) -> AsyncIterator[DirectoryStore]:
    opened = await open_store(url)
    yield opened
    await opened.close()


async def add_users(store: DirectoryStore, *users: User) -> None:
    async def work(tables: Tables) -> None:
        for user in users:
            await tables.users.add(user, "hash")

    await store.write(work)


def conversation(conversation_id: str, create_time_ms: int, *members: Member) -> Conversation:
    return Conversation(conversation_id, Kind.GROUP, "Group", create_time_ms, members)


def member(user_id: str, role: MemberRole = MemberRole.MEMBER, join_time_ms: int = 5) -> Member:
    return Member(user_id, role, join_time_ms)


def session(session_id: str, device_id: str, refresh_time_ms: int = 10, expire_time_ms: int = 20) -> Session:
    return Session(session_id, "alice", device_id, b"\x00hash", refresh_time_ms, expire_time_ms)


# Transactions


async def test_what_was_written_is_read_afterwards(store: DirectoryStore) -> None:
    await add_users(store, ALICE)

    assert await store.read(lambda tables: tables.users.find(["alice"])) == {"alice": ALICE}


async def test_a_transaction_reads_what_it_wrote(store: DirectoryStore) -> None:
    async def work(tables: Tables) -> object:
        await tables.users.add(ALICE, "hash")
        return await tables.users.find(["alice"])

    assert await store.write(work) == {"alice": ALICE}


async def test_nothing_is_written_when_the_work_raises(store: DirectoryStore) -> None:
    async def work(tables: Tables) -> None:
        await tables.users.add(ALICE, "hash")
        raise HitherError("no")

    with pytest.raises(HitherError, match="no"):
        await store.write(work)

    assert await store.read(lambda tables: tables.users.find(["alice"])) == {}


async def test_nothing_is_written_when_the_work_is_cancelled(store: DirectoryStore) -> None:
    wrote = asyncio.Event()

    async def work(tables: Tables) -> None:
        await tables.users.add(ALICE, "hash")
        wrote.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(store.write(work))
    await wrote.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert await store.read(lambda tables: tables.users.find(["alice"])) == {}
    await add_users(store, ALICE)


async def test_a_read_sees_one_snapshot_while_others_write(store: DirectoryStore) -> None:
    async def work(tables: Tables) -> tuple[object, object]:
        before = await tables.users.find(["alice"])
        await add_users(store, ALICE)
        return before, await tables.users.find(["alice"])

    assert await store.read(work) == ({}, {})


async def test_what_was_written_survives_reopening(store: DirectoryStore, url: str) -> None:
    await add_users(store, ALICE)
    await store.close()

    again = await open_store(url)
    found = await again.read(lambda tables: tables.users.find(["alice"]))
    await again.close()

    assert found == {"alice": ALICE}


async def test_of_many_that_take_one_id_at_once_one_gets_it(store: DirectoryStore) -> None:
    taken = await asyncio.gather(*(store.write(lambda tables: tables.users.add(ALICE, "hash")) for _ in range(20)))

    assert sorted(taken) == [False] * 19 + [True]


async def test_concurrent_read_modify_writes_of_two_stores_lose_nothing(store: DirectoryStore, url: str) -> None:
    other = await open_store(url)
    await add_users(store, User("counter", "0", 0))
    await store.write(lambda tables: tables.users.set_password_hash("counter", "0"))

    async def count(tables: Tables) -> None:
        before = await tables.users.password_hash("counter")
        assert before is not None
        await tables.users.set_password_hash("counter", str(int(before) + 1))

    async def until_won(one: DirectoryStore) -> None:
        while True:
            try:
                return await one.write(count)
            except Aborted:
                continue

    await asyncio.gather(*(until_won(one) for one in (store, other) * 10))
    await other.close()

    assert await store.read(lambda tables: tables.users.password_hash("counter")) == "20"


async def test_more_transactions_than_may_wait_are_refused(url: str) -> None:
    store = await open_store(url, SqlSettings(waiting_most=2))
    entered, leave = asyncio.Event(), asyncio.Event()

    async def work(tables: Tables) -> None:
        entered.set()
        await leave.wait()

    under_way = [asyncio.create_task(store.write(work)) for _ in range(2)]
    await entered.wait()
    with pytest.raises(ResourceExhausted) as refused:
        await store.read(lambda tables: tables.users.find(["alice"]))
    leave.set()
    await asyncio.gather(*under_way)
    await store.close()

    assert (refused.value.reason, refused.value.retry_after_s) == ("OVERLOADED", 1.0)


async def test_closing_waits_for_what_was_begun_and_refuses_what_comes_after(store: DirectoryStore) -> None:
    entered, leave = asyncio.Event(), asyncio.Event()

    async def work(tables: Tables) -> bool:
        entered.set()
        await leave.wait()
        return await tables.users.add(ALICE, "hash")

    under_way = asyncio.create_task(store.write(work))
    await entered.wait()
    closing = asyncio.create_task(store.close())
    await asyncio.sleep(0)
    with pytest.raises(Unavailable):
        await store.read(lambda tables: tables.users.find(["alice"]))
    leave.set()
    await closing

    assert under_way.done()
    assert await under_way is True


async def test_a_transaction_that_takes_too_long_ends_as_unavailable(url: str) -> None:
    store = await open_store(url, SqlSettings(transaction_timeout_s=0.2))

    async def work(tables: Tables) -> None:
        await asyncio.Event().wait()

    with pytest.raises(Unavailable) as failed:
        await store.write(work)
    await add_users(store, ALICE)
    await store.close()

    assert failed.value.reason == "ENGINE_DOWN"


# Users


async def test_a_taken_user_id_stays_as_it_was(store: DirectoryStore) -> None:
    await add_users(store, ALICE)

    added = await store.write(lambda tables: tables.users.add(User("alice", "Another", 9), "other"))

    assert added is False
    assert await store.read(lambda tables: tables.users.find(["alice"])) == {"alice": ALICE}


async def test_user_ids_differ_by_case(store: DirectoryStore) -> None:
    await add_users(store, ALICE, User("Alice", "Other", 5))

    assert set(await store.read(lambda tables: tables.users.find(["alice", "Alice", "ALICE"]))) == {"alice", "Alice"}


async def test_a_password_hash_is_kept_and_replaced(store: DirectoryStore) -> None:
    await add_users(store, ALICE)
    await store.write(lambda tables: tables.users.set_password_hash("alice", "new"))

    assert await store.read(lambda tables: tables.users.password_hash("alice")) == "new"
    assert await store.read(lambda tables: tables.users.password_hash("bob")) is None


# Friendships


async def put_pair(store: DirectoryStore, one: str, other: str, pair: Pair, time_ms: int = 7) -> None:
    await store.write(lambda tables: tables.friendships.put_pair(one, other, pair, time_ms))


async def test_strangers_are_a_pair_too(store: DirectoryStore) -> None:
    assert await store.read(lambda tables: tables.friendships.pair("alice", "bob")) == STRANGERS


async def test_a_pair_is_seen_from_either_side(store: DirectoryStore) -> None:
    await add_users(store, ALICE, BOB)
    await put_pair(store, "alice", "bob", Pair(Side.REQUESTED, Side.PENDING))

    assert await store.read(lambda tables: tables.friendships.pair("bob", "alice")) == Pair(
        Side.PENDING, Side.REQUESTED
    )
    assert await store.read(lambda tables: tables.friendships.find("alice", "bob")) == Friendship(
        BOB, Side.REQUESTED, 7
    )


async def test_a_side_that_does_not_change_keeps_its_time(store: DirectoryStore) -> None:
    await add_users(store, ALICE, BOB)
    await put_pair(store, "alice", "bob", Pair(Side.BLOCKED, Side.BLOCKED), 7)
    await put_pair(store, "alice", "bob", Pair(Side.NONE, Side.BLOCKED), 8)

    assert await store.read(lambda tables: tables.friendships.find("alice", "bob")) is None
    assert await store.read(lambda tables: tables.friendships.find("bob", "alice")) == Friendship(
        ALICE, Side.BLOCKED, 7
    )


async def test_friendships_are_paged_in_order_of_code_points(store: DirectoryStore) -> None:
    others = [User(user_id, "X", 1) for user_id in ("a", "B", "_", "b", "+", "Z", "z.9")]
    await add_users(store, ALICE, *others)
    for other in others:
        await put_pair(store, "alice", other.user_id, FRIENDS)

    async def page(after_id: str) -> list[str]:
        found = await store.read(lambda tables: tables.friendships.page("alice", [Side.ACCEPTED], after_id, limit=3))
        return [entry.friend.user_id for entry in found]

    assert [await page(""), await page("Z"), await page("b")] == [["+", "B", "Z"], ["_", "a", "b"], ["z.9"]]


async def test_only_the_asked_sides_are_paged_counted_and_listed(store: DirectoryStore) -> None:
    await add_users(store, ALICE, BOB, CAROL)
    await put_pair(store, "alice", "bob", FRIENDS)
    await put_pair(store, "alice", "carol", Pair(Side.REQUESTED, Side.PENDING))

    async def work(tables: Tables) -> object:
        friendships = tables.friendships
        return (
            [entry.friend for entry in await friendships.page("alice", [Side.REQUESTED, Side.BLOCKED], "", 10)],
            await friendships.count("alice", [Side.REQUESTED, Side.ACCEPTED]),
            await friendships.count("carol", [Side.REQUESTED]),
            await friendships.friend_ids("alice", 10),
            await friendships.friends_among("alice", ["bob", "carol", "nobody"]),
            await friendships.friends_among("alice", []),
        )

    assert await store.read(work) == ([CAROL], 2, 0, ["bob"], frozenset({"bob"}), frozenset())


# Conversations


async def test_a_conversation_comes_with_its_members_in_order(store: DirectoryStore) -> None:
    await add_users(store, ALICE, BOB, CAROL)
    made = conversation("g.1", 3, member("carol"), member("alice", MemberRole.ADMIN))
    await store.write(lambda tables: tables.conversations.add(made))
    await store.write(lambda tables: tables.conversations.add_members("g.1", [member("bob", join_time_ms=9)]))

    assert await store.read(lambda tables: tables.conversations.find("g.1")) == conversation(
        "g.1", 3, member("alice", MemberRole.ADMIN), member("bob", join_time_ms=9), member("carol")
    )
    assert await store.read(lambda tables: tables.conversations.find("g.2")) is None


async def test_members_are_promoted_and_removed(store: DirectoryStore) -> None:
    await add_users(store, ALICE, BOB)

    async def work(tables: Tables) -> None:
        await tables.conversations.add(conversation("g.1", 3, member("alice"), member("bob")))
        await tables.conversations.set_role("g.1", "bob", MemberRole.ADMIN)
        await tables.conversations.remove_member("g.1", "alice")
        await tables.conversations.remove_member("g.1", "nobody")

    await store.write(work)

    assert await store.read(lambda tables: tables.conversations.find("g.1")) == conversation(
        "g.1", 3, member("bob", MemberRole.ADMIN)
    )


async def test_a_removed_conversation_is_gone_for_all_its_members(store: DirectoryStore) -> None:
    await add_users(store, ALICE, BOB)
    await store.write(lambda tables: tables.conversations.add(conversation("g.1", 3, member("alice"), member("bob"))))
    shared = await store.read(lambda tables: tables.conversations.share("alice", "bob"))
    await store.write(lambda tables: tables.conversations.remove("g.1"))

    assert shared is True
    assert await store.read(lambda tables: tables.conversations.share("alice", "bob")) is False
    assert await store.read(lambda tables: tables.conversations.page("alice", None, 10)) == []


async def test_conversations_are_paged_newest_first(store: DirectoryStore) -> None:
    await add_users(store, ALICE, BOB)

    async def work(tables: Tables) -> None:
        for conversation_id, time_ms in (("g.1", 5), ("g.2", 7), ("g.3", 7), ("g.4", 6)):
            await tables.conversations.add(conversation(conversation_id, time_ms, member("alice")))
        await tables.conversations.add(conversation("g.9", 9, member("bob")))

    await store.write(work)

    async def page(before: tuple[int, str] | None) -> list[str]:
        found = await store.read(lambda tables: tables.conversations.page("alice", before, limit=2))
        return [entry.conversation_id for entry in found]

    assert [await page(None), await page((7, "g.2")), await page((5, "g.1"))] == [["g.3", "g.2"], ["g.4", "g.1"], []]


# Sessions


async def test_a_device_has_one_session(store: DirectoryStore) -> None:
    await add_users(store, ALICE)
    await store.write(lambda tables: tables.sessions.put(session("s1", "phone")))
    await store.write(lambda tables: tables.sessions.put(session("s2", "phone")))

    assert await store.read(lambda tables: tables.sessions.find("s1")) is None
    assert await store.read(lambda tables: tables.sessions.find("s2")) == session("s2", "phone")


async def test_a_session_is_replaced_and_removed_by_its_id(store: DirectoryStore) -> None:
    await add_users(store, ALICE)
    await store.write(lambda tables: tables.sessions.put(session("s1", "phone", expire_time_ms=20)))
    await store.write(lambda tables: tables.sessions.put(session("s1", "phone", expire_time_ms=30)))
    renewed = await store.read(lambda tables: tables.sessions.find("s1"))
    await store.write(lambda tables: tables.sessions.remove("s1"))

    assert renewed == session("s1", "phone", expire_time_ms=30)
    assert await store.read(lambda tables: tables.sessions.find("s1")) is None


async def test_the_least_recently_refreshed_sessions_are_trimmed(store: DirectoryStore) -> None:
    await add_users(store, ALICE)

    async def work(tables: Tables) -> list[str]:
        for number in (1, 3, 2):
            await tables.sessions.put(session(f"s{number}", f"device{number}", refresh_time_ms=number))
        await tables.sessions.trim("alice", most=2)
        return [name for name in ("s1", "s2", "s3") if await tables.sessions.find(name)]

    assert await store.write(work) == ["s2", "s3"]


async def test_sessions_that_ran_out_are_pruned_in_batches(store: DirectoryStore) -> None:
    await add_users(store, ALICE)

    async def work(tables: Tables) -> list[int]:
        for number in range(5):
            await tables.sessions.put(session(f"s{number}", f"device{number}", expire_time_ms=number))
        return [await tables.sessions.prune(before_ms=3, limit=2) for _ in range(3)]

    assert await store.write(work) == [2, 1, 0]


# Answers

KEY = AnswerKey("alice", "/a.B/C", "request-1")


async def test_an_answer_is_kept_under_all_of_its_key(store: DirectoryStore) -> None:
    answer = Answer(b"\x00digest", b"response\xff", 12)
    await store.write(lambda tables: tables.answers.add(KEY, answer))

    async def work(tables: Tables) -> object:
        return (
            await tables.answers.find(KEY),
            await tables.answers.find(AnswerKey("bob", KEY.method, KEY.request_id)),
            await tables.answers.find(AnswerKey("alice", "/a.B/D", KEY.request_id)),
            await tables.answers.find(AnswerKey("alice", KEY.method, "request-2")),
        )

    assert await store.read(work) == (answer, None, None, None)


async def test_answers_are_pruned_in_batches_oldest_first(store: DirectoryStore) -> None:
    async def work(tables: Tables) -> tuple[list[int], bool]:
        for number in range(5):
            await tables.answers.add(AnswerKey("alice", "/a.B/C", str(number)), Answer(b"", b"", number))
        pruned = [await tables.answers.prune(before_ms=4, limit=3) for _ in range(3)]
        return pruned, await tables.answers.find(AnswerKey("alice", "/a.B/C", "4")) is not None

    assert await store.write(work) == ([3, 1, 0], True)


# The schema


async def test_the_migrations_make_the_schema_that_the_code_uses(store: DirectoryStore, url: str) -> None:
    history = DIRECTORY_SHARDS if is_sharded(url) else DIRECTORY

    def differences(connection: Connection) -> list[object]:
        context = MigrationContext.configure(
            connection,
            opts={"version_table": history.version_table, "compare_type": True, "compare_server_default": True},
        )
        return list(compare_metadata(context, history.metadata))

    found: list[object] = []
    for each in url.split() if is_sharded(url) else [url]:
        engine = engine_of(each, SqlSettings())
        await engine.migrate(lambda connection: found.extend(differences(connection)))
        await engine.close()

    assert found == []


OPEN = """
import asyncio, sys
from tests.support.directory_stores import open_store
async def main():
    store = await open_store(sys.argv[1])
    await store.close()
asyncio.run(main())
"""


async def test_processes_that_open_a_new_database_at_once_migrate_it_once(url: str) -> None:
    processes = [await asyncio.create_subprocess_exec(sys.executable, "-c", OPEN, url) for _ in range(3)]
    statuses = [await process.wait() for process in processes]

    store = await open_store(url)
    await add_users(store, ALICE)
    await store.close()

    assert statuses == [0, 0, 0]


async def test_a_broken_file_is_an_error_at_opening(tmp_path: Path) -> None:
    (tmp_path / "directory.db").write_bytes(b"this is no database" * 100)

    with pytest.raises(Exception, match="not a database"):
        await SqlDirectoryStore.open(sqlite_url(tmp_path / "directory.db"))
