import asyncio
from dataclasses import astuple
from pathlib import Path
from typing import NoReturn

import pytest

from discovery.errors import Internal, Unavailable
from services.messaging.activity import follow
from services.ports.device_store import CursorMove, DeviceRow
from services.ports.log import Committed, Record
from services.ports.message_store import InboxRow
from services.storage.sqlite import activity_rows, messages
from services.storage.sqlite.database import Schema, open_writer
from services.storage.sqlite.devices import SqliteDeviceStore
from services.storage.sqlite.keys import select_by_keys
from services.storage.sqlite.log import SqliteLog
from services.storage.sqlite.messages import SqliteMessageStore


async def test_an_operation_that_fails_beside_appends_leaves_their_offsets_without_a_gap(tmp_path: Path) -> None:
    log = await SqliteLog.open(tmp_path / "log.db")
    await log.append("t", 0, [b"before"])

    outcomes = await asyncio.gather(
        log.append("t", 0, [b"a", b"b"]),
        log.commit("g", "t", 0, Committed(1 << 70, b"no integer of SQLite's")),
        log.append("t", 0, [b"c"]),
        log.append("new", 0, [b"d"]),
        return_exceptions=True,
    )
    await log.append("t", 0, [b"after"])

    assert [outcomes[0], type(outcomes[1]), *outcomes[2:]] == [[1, 2], Internal, [3], [0]]
    from_memory = await log.read("t", 0, 0, 10)
    await log.close()
    log = await SqliteLog.open(tmp_path / "log.db")
    assert from_memory == await log.read("t", 0, 0, 10)
    assert [record.value for record in from_memory] == [b"before", b"a", b"b", b"c", b"after"]
    await log.close()


async def test_a_reader_that_keeps_up_never_touches_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuse(_: object) -> NoReturn:
        raise AssertionError("read from the disk")

    log = await SqliteLog.open(tmp_path / "log.db")
    monkeypatch.setattr(log._readers, "run", refuse)

    await log.append("t", 0, [b"a", b"b"])

    assert await log.read("t", 0, 1, 10) == [Record(1, b"b")]
    assert await log.read("t", 0, 2, 10) == []
    await log.close()


async def test_what_is_not_committed_is_in_no_tail(tmp_path: Path) -> None:
    log = await SqliteLog.open(tmp_path / "log.db")
    blocker = open_writer(tmp_path / "log.db", Schema(((),)))
    blocker.execute("BEGIN IMMEDIATE")
    appending = asyncio.create_task(log.append("t", 0, [b"a"]))
    waiting = asyncio.create_task(log.wait("t", 0, 0))
    for _ in range(10):
        await asyncio.sleep(0)

    assert await log.read("t", 0, 0, 10) == []
    assert not waiting.done()
    blocker.execute("ROLLBACK")
    blocker.close()
    assert await appending == [0]
    await waiting
    await log.close()


async def test_a_database_that_another_process_holds_is_unavailable_and_nothing_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.storage.sqlite.writer.LOCKED_S", 0.01)
    log = await SqliteLog.open(tmp_path / "log.db")
    blocker = open_writer(tmp_path / "log.db", Schema(((),)))
    blocker.execute("BEGIN IMMEDIATE")

    with pytest.raises(Unavailable) as caught:
        await log.append("t", 0, [b"a"])
    assert caught.value.reason == "ENGINE_DOWN"

    blocker.execute("ROLLBACK")
    blocker.close()
    assert await log.append("t", 0, [b"b"]) == [0]
    await log.close()


async def test_a_partition_that_has_used_up_its_offsets_says_so(tmp_path: Path) -> None:
    log = await SqliteLog.open(tmp_path / "log.db")
    await log.append("t", 0, [b"a"])
    await log.close()
    connection = open_writer(tmp_path / "log.db", Schema(((),)))
    connection.execute("UPDATE partitions SET first_offset = (1 << 40) - 1")
    connection.close()

    log = await SqliteLog.open(tmp_path / "log.db")
    assert await log.append("t", 0, [b"last"]) == [(1 << 40) - 1]
    with pytest.raises(Internal):
        await log.append("t", 0, [b"one too many"])
    assert await log.append("t", 1, [b"a"]) == [0]
    await log.close()


async def test_device_operations_that_share_a_commit_keep_their_order(tmp_path: Path) -> None:
    devices = await SqliteDeviceStore.open(tmp_path / "devices.db")

    first, *answers, last = await asyncio.gather(
        devices.touch("ann", "phone", 1, 32),
        devices.advance([CursorMove("ann", "phone", 5)]),
        devices.advance([CursorMove("ann", "phone", 7)]),
        devices.remove("ann", "phone"),
        devices.advance([CursorMove("ann", "phone", 9)]),
        devices.touch("ann", "phone", 2, 32),
    )

    assert (first, last) == (DeviceRow("ann", "phone", 0, 1), DeviceRow("ann", "phone", 0, 2))
    assert answers == [[0], [5], True, [0]]
    await devices.close()


@pytest.mark.parametrize(
    ("query", "width"),
    [
        (messages._MESSAGES_AT, 2),
        (messages._MESSAGES_SENT, 3),
        (messages._MESSAGES_HEADS, 1),
        (messages._INBOX_AT, 2),
        (messages._INBOX_HEADS, 1),
        (messages._MARKS_AT, 2),
        (activity_rows._AT, 2),
    ],
)
def test_a_query_by_keys_seeks_and_never_scans_a_table(tmp_path: Path, query: str, width: int) -> None:
    connection = open_writer(tmp_path / "m.db", messages._SCHEMA)

    plan = [str(row[3]) for row in select_by_keys(connection, f"EXPLAIN QUERY PLAN {query}", [("x",) * width] * 3)]

    scanned = {step for step in plan if step.startswith("SCAN") and "CONSTANT" not in step and "column" not in step}
    assert {step.split()[1] for step in scanned} & {
        "m",
        "i",
        "a",
        "messages",
        "inbox",
        "marks",
        "inbox_activity",
    } == set()
    assert any("USING" in step and step.startswith("SEARCH") for step in plan)
    connection.close()


async def test_a_file_from_before_knows_the_conversations_of_its_inboxes_after_it_is_opened(tmp_path: Path) -> None:
    names = [*"ab" * 40, *"a" * 10]
    seqs = {"a": 0, "b": 100}
    rows = []
    for pos, name in enumerate(names, 1):
        seqs[name] += 6 if (name, seqs[name]) == ("b", 120) else 1  # the user was away for some of them
        sender_id = "bob" if pos % 4 else "ann"
        rows.append(InboxRow("bob", pos, pos, name, seqs[name], sender_id, b""))
    old = open_writer(tmp_path / "m.db", Schema(messages._SCHEMA.steps[:1]))
    old.executemany("INSERT INTO inbox VALUES (?, ?, ?, ?, ?, ?, ?)", [astuple(row) for row in rows])
    old.execute("INSERT INTO inbox_conversations VALUES ('bob', 'a', 1)")
    old.close()

    store = await SqliteMessageStore.open(tmp_path / "m.db")

    expected = {(item.user_id, item.conversation_id): item for item in follow({}, rows)}
    assert await store.inbox_activity([("bob", "a"), ("bob", "b")]) == expected
    assert len(expected["bob", "a"].own_seqs) == 32
    assert expected["bob", "b"].since_seq == 126
    await store.close()
