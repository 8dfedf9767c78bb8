"""Several owners at once, and a server that goes away and comes back."""

import asyncio

import pytest

from discovery.errors import Unavailable
from services.ports.message_store import Activity, ActivityRow, Head, InboxRow, MarkRow, MessageRow, RowConflict
from services.storage.cassandra.messages import CassandraMessageStore
from tests.support.servers.cassandra import CassandraServer
from tests.unit.services.storage.cassandra.conftest import OpenStore


def message(seq: int, conversation: str = "c", payload: bytes = b"hi") -> MessageRow:
    return MessageRow(conversation, seq, "ann", f"id-{seq}", 100 + seq, payload)


async def test_two_owners_write_the_same_rows_at_once_without_conflict(open_store: OpenStore) -> None:
    rows = [message(seq) for seq in range(1, 41)]
    inbox = [InboxRow("bob", row.seq, 7, "c", row.seq, "ann", b"") for row in rows]

    async def own(store: CassandraMessageStore, step: int) -> None:
        for start in range(0, len(rows), step):
            await store.conversation_heads(["c"])
            await store.find_sent([("c", "ann", row.client_id) for row in rows[start : start + step]])
            await store.put_messages(rows[start : start + step])
            await store.put_inbox(inbox[start : start + step])

    stores = [await open_store(), await open_store()]
    await asyncio.gather(own(stores[0], 3), own(stores[1], 5))

    assert await stores[0].read_messages("c", 0, 99, 99, newest=False) == rows
    assert await stores[1].read_inbox("bob", 0, 99) == inbox


async def test_what_a_late_owner_says_of_a_conversation_does_not_replace_what_its_successor_said(
    open_store: OpenStore,
) -> None:
    late, successor = await open_store(), await open_store()
    rows = [InboxRow("bob", pos, 7, "c", pos, "ann", b"") for pos in range(1, 10)]
    await successor.put_inbox(rows, [ActivityRow("bob", "c", 9, 9, 1, (3, 4))])

    await late.put_inbox(rows[:5], [ActivityRow("bob", "c", 5, 5, 1, (3, 4))])

    assert await late.inbox_activity([("bob", "c")]) == {("bob", "c"): ActivityRow("bob", "c", 9, 9, 1, (3, 4))}


async def test_a_conversation_whose_inbox_row_is_not_there_yet_is_listed_with_the_message_itself(
    store: CassandraMessageStore,
) -> None:
    await store.put_messages([message(1, payload=b"first"), message(2, payload=b"second")])
    await store.put_inbox([InboxRow("bob", 1, 7, "c", 1, "ann", b"first")], [ActivityRow("bob", "c", 2, 2, 1, ())])

    assert await store.list_activity("bob", 99, 10) == [Activity(ActivityRow("bob", "c", 2, 2, 1, ()), 0, b"second")]


async def test_an_owner_that_wakes_up_with_other_rows_than_its_successors_is_refused(open_store: OpenStore) -> None:
    first, successor = await open_store(), await open_store()
    await successor.put_messages([message(1), message(2)])

    with pytest.raises(RowConflict):
        await first.put_messages([message(2, payload=b"other")])

    await first.conversation_heads(["c"])
    with pytest.raises(RowConflict):
        await first.put_messages([message(2, payload=b"other"), message(3)])

    assert await first.conversation_heads(["c"]) == {"c": Head(2, 102)}


async def test_other_inbox_rows_than_a_successors_are_refused_though_heads_were_read(open_store: OpenStore) -> None:
    first, successor = await open_store(), await open_store()
    await successor.put_inbox([InboxRow("bob", pos, 7, "c", pos, "ann", b"") for pos in (1, 2)])
    await first.inbox_heads(["bob"])

    with pytest.raises(RowConflict):
        await first.put_inbox([InboxRow("bob", pos, 7, "d", pos, "ann", b"") for pos in (2, 3)])

    assert await first.inbox_heads(["bob"]) == {"bob": Head(2, 7)}


async def test_stores_that_are_opened_at_once_make_one_schema(cassandra_server: CassandraServer) -> None:
    stores = await asyncio.gather(
        *(CassandraMessageStore.open(["127.0.0.1"], cassandra_server.port, "raced") for _ in range(3))
    )

    for n, store in enumerate(stores):
        await store.put_messages([message(1, f"c{n}")])

    heads = [await store.conversation_heads(["c0", "c1", "c2"]) for store in stores]
    assert heads == [dict.fromkeys(["c0", "c1", "c2"], Head(1, 101))] * 3
    for store in stores:
        await store.close()


async def test_a_cluster_that_is_not_there_is_unavailable() -> None:
    with pytest.raises(Unavailable) as caught:
        await CassandraMessageStore.open(["127.0.0.1"], 1, "nowhere")

    assert caught.value.reason == "ENGINE_DOWN"


async def test_a_name_that_is_no_keyspace_is_refused() -> None:
    with pytest.raises(ValueError, match="cannot name a keyspace"):
        await CassandraMessageStore.open(["127.0.0.1"], 1, "a; DROP KEYSPACE b")


async def test_ids_must_be_kept_for_a_week() -> None:
    with pytest.raises(ValueError, match="at least 7 days"):
        await CassandraMessageStore.open(["127.0.0.1"], 1, "hither", sent_ttl_s=6 * 24 * 3600)


async def test_what_was_acked_is_there_after_a_kill_and_the_store_works_on(
    store: CassandraMessageStore, cassandra_server: CassandraServer
) -> None:
    acked: list[int] = []
    enough = asyncio.Event()

    async def write() -> None:
        while True:
            await store.put_messages([message(len(acked) + 1)])
            acked.append(len(acked) + 1)
            if len(acked) == 50:
                enough.set()

    await store.merge_marks([MarkRow("c", "bob", 7, 3)])
    writing = asyncio.create_task(write())
    await enough.wait()
    await asyncio.to_thread(cassandra_server.kill)

    with pytest.raises(Unavailable):
        await writing
    with pytest.raises(Unavailable):
        await store.conversation_heads(["c"])

    await asyncio.to_thread(cassandra_server.start)
    head = await answered(store)
    rows = await store.read_messages("c", 0, head.place + 1, 1000, newest=False)
    assert rows == [message(seq) for seq in range(1, head.place + 1)]
    assert head.place in {len(acked), len(acked) + 1}
    assert await store.read_marks("c", "", 9) == [MarkRow("c", "bob", 7, 3)]
    await store.put_messages([message(len(acked) + 1)])


async def test_a_server_that_hangs_is_unavailable_until_it_goes_on(
    store: CassandraMessageStore, cassandra_server: CassandraServer
) -> None:
    await store.put_messages([message(1)])
    cassandra_server.pause()
    try:
        with pytest.raises(Unavailable):
            await store.put_messages([message(2)])
    finally:
        cassandra_server.resume()

    await answered(store)
    await store.put_messages([message(2)])
    assert await answered(store) == Head(2, 102)


async def answered(store: CassandraMessageStore) -> Head:
    """The head of "c", as soon as the store has connected again."""
    async with asyncio.timeout(60):
        while True:
            try:
                return (await store.conversation_heads(["c"]))["c"]
            except Unavailable:
                await asyncio.sleep(0.05)
