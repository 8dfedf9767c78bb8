"""Rows in many buckets read and appear as if they were in one."""

from collections.abc import Callable
from typing import Any

import pytest

from discovery.errors import Unavailable
from services.ports.message_store import Head, InboxRow, MarkRow, MessageRow
from services.storage.cassandra.engine import Engine, PartitionWrite
from services.storage.cassandra.messages import CassandraMessageStore
from tests.unit.services.storage.cassandra.conftest import OpenStore

BEYOND = 1 << 62


def message(seq: int, conversation: str = "c") -> MessageRow:
    return MessageRow(conversation, seq, "ann", f"id-{seq}", 100 + seq, b"hi")


def event(pos: int, conversation: str = "c") -> InboxRow:
    return InboxRow("bob", pos, 200 + pos, conversation, pos, "ann", b"hi")


def messages(first: int, last: int) -> list[MessageRow]:
    return [message(seq) for seq in range(first, last + 1)]


async def test_ranges_over_many_buckets_are_read_from_either_end(open_store: OpenStore) -> None:
    rows = messages(1, 23)
    await (await open_store()).put_messages(rows)
    store = await open_store()  # knows nothing of any bucket

    assert await store.read_messages("c", 0, BEYOND, 100, newest=False) == rows
    assert await store.read_messages("c", 0, BEYOND, 100, newest=True) == rows
    assert await store.read_messages("c", 2, 22, 6, newest=False) == rows[2:8]
    assert await store.read_messages("c", 2, 22, 6, newest=True) == rows[15:21]
    assert await store.read_messages("c", 8, 10, 6, newest=True) == rows[8:9]
    assert await store.read_messages("c", 40, BEYOND, 6, newest=False) == []
    assert await store.read_messages("c", -1, 0, 6, newest=True) == []


@pytest.mark.parametrize("count", [1, 3, 4, 5, 8, 9, 20, 23])
async def test_the_head_is_found_however_many_buckets_are_full(open_store: OpenStore, count: int) -> None:
    writer = await open_store()
    for row in messages(1, count):
        await writer.put_messages([row])

    reader = await open_store()

    assert await reader.conversation_heads(["c", "d"]) == {"c": Head(count, 100 + count), "d": Head(0, -1)}
    assert await reader.conversation_heads(["c"]) == await writer.conversation_heads(["c"])


async def test_a_reader_that_knows_an_older_bucket_finds_the_newest(open_store: OpenStore) -> None:
    reader, writer = await open_store(), await open_store()
    await writer.put_messages(messages(1, 6))
    await reader.conversation_heads(["c"])

    await writer.put_messages(messages(7, 21))

    assert (await reader.conversation_heads(["c"]))["c"].place == 21


@pytest.mark.parametrize("bucket", [0, 1, 2])
async def test_nothing_of_a_call_is_visible_if_one_of_its_buckets_is_not_written(
    store: CassandraMessageStore, open_store: OpenStore, monkeypatch: pytest.MonkeyPatch, bucket: int
) -> None:
    await store.put_messages(messages(1, 3))
    await store.put_inbox([event(pos) for pos in range(1, 4)])
    monkeypatch.setattr(Engine, "write", fails_for(lambda write: bucket_of(write) == bucket, Engine.write))

    with pytest.raises(Unavailable):
        await store.put_messages(messages(4, 10))
    with pytest.raises(Unavailable):
        await store.put_inbox([event(pos) for pos in range(4, 11)])

    monkeypatch.undo()
    reader = await open_store()
    assert (await reader.conversation_heads(["c"]))["c"].place == 3
    assert (await reader.inbox_heads(["bob"]))["bob"].place == 3
    assert await reader.read_messages("c", 0, BEYOND, 20, newest=False) == messages(1, 3)
    assert await reader.read_messages("c", 0, BEYOND, 20, newest=True) == messages(1, 3)
    assert await reader.read_messages("c", 5, BEYOND, 20, newest=False) == []
    assert [row.pos for row in await reader.read_inbox("bob", 0, 20)] == [1, 2, 3]


async def test_an_id_whose_message_was_never_written_is_not_found(
    store: CassandraMessageStore, open_store: OpenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Engine, "write", fails_for(lambda write: bucket_of(write) is not None, Engine.write))
    with pytest.raises(Unavailable):
        await store.put_messages(messages(1, 2))
    monkeypatch.undo()
    successor = await open_store()

    assert await successor.find_sent([("c", "ann", "id-1"), ("c", "ann", "id-2")]) == {}

    await successor.put_messages(messages(1, 2))
    assert await store.find_sent([("c", "ann", "id-2")]) == {("c", "ann", "id-2"): message(2)}


async def test_an_id_that_leads_to_a_message_of_another_id_finds_nothing(
    store: CassandraMessageStore, open_store: OpenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Engine, "write", fails_for(lambda write: bucket_of(write) is not None, Engine.write))
    with pytest.raises(Unavailable):
        await store.put_messages([message(1)])
    monkeypatch.undo()
    await store.put_messages([MessageRow("c", 1, "ann", "other", 101, b"hi")])

    assert await store.find_sent([("c", "ann", "id-1")]) == {}


async def test_an_id_that_cannot_be_written_keeps_its_message_from_being_visible(
    store: CassandraMessageStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Engine, "write", fails_for(lambda write: bucket_of(write) is None, Engine.write))

    with pytest.raises(Unavailable):
        await store.put_messages(messages(1, 2))

    assert await store.conversation_heads(["c"]) == {"c": Head(0, -1)}


async def test_recent_conversations_are_gathered_from_older_buckets(store: CassandraMessageStore) -> None:
    await store.put_inbox([event(pos, name) for pos, name in enumerate("aabbbbccccdddda", 1)])
    await store.merge_marks([MarkRow(name, "bob", 1, 1) for name in "abcd"])

    assert [mark.conversation_id for mark in await store.recent_marks("bob", 3)] == ["a", "d", "c"]
    assert [mark.conversation_id for mark in await store.recent_marks("bob", 9)] == ["a", "d", "c", "b"]


def bucket_of(write: PartitionWrite) -> int | None:
    """The bucket that rows are written to; None for ids."""
    values = write.statements[0][1]
    return values[0] if isinstance(values[0], int) else None


def fails_for(
    meets: Callable[[PartitionWrite], bool], write_all: Callable[..., Any]
) -> Callable[[Engine, list[PartitionWrite]], Any]:
    """An engine that is away as soon as such a write is among those it is given."""

    async def write(engine: Engine, writes: list[PartitionWrite]) -> None:
        if any(meets(write) for write in writes):
            raise Unavailable
        await write_all(engine, writes)

    return write
