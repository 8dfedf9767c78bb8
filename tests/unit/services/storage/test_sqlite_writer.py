import asyncio
import os
import sqlite3
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from discovery.errors import HitherError, Internal, Unavailable
from services.storage.sqlite.database import Schema, SchemaTooNew, open_writer
from services.storage.sqlite.readers import Readers
from services.storage.sqlite.writer import Durable, Writer

SCHEMA = Schema((("CREATE TABLE numbers (n INTEGER PRIMARY KEY, filling BLOB)",),))


@dataclass(slots=True)
class Insert:
    n: int
    filling: bytes = b""


@dataclass(slots=True)
class Run:
    """Whatever a test wants to happen inside the transaction."""

    action: Callable[[sqlite3.Connection], object]


class Numbers:
    """An applier that keeps a record of what it was asked."""

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.forgot = 0
        self.committed_ops: list[Insert | Run] = []
        self.end: HitherError | None = None

    def apply(self, connection: sqlite3.Connection, ops: Sequence[Insert | Run]) -> None:
        self.batches.append(len(ops))
        for op in ops:
            if isinstance(op, Run):
                op.action(connection)
            else:
                connection.execute("INSERT INTO numbers VALUES (?, ?)", (op.n, op.filling))

    def forget(self) -> None:
        self.forgot += 1

    def committed(self, ops: Sequence[Insert | Run]) -> None:
        self.committed_ops += ops

    def ended(self, error: HitherError) -> None:
        self.end = error


@pytest.fixture
def numbers() -> Numbers:
    return Numbers()


@pytest.fixture
async def writer(tmp_path: Path, numbers: Numbers) -> AsyncIterator[Writer[Insert | Run]]:
    writer: Writer[Insert | Run] = Writer(tmp_path / "n.db", SCHEMA, numbers, capacity_bytes=1_000_000)
    await writer.open()
    yield writer
    await writer.close()


def stored(path: Path) -> list[int]:
    connection = sqlite3.connect(path)
    rows = connection.execute("SELECT n FROM numbers ORDER BY n").fetchall()
    connection.close()
    return [n for (n,) in rows]


def open_to_others(folder: Path) -> list[int]:
    return [file.stat().st_mode & 0o077 for file in folder.iterdir()]


def pretend(error: BaseException) -> Callable[[sqlite3.Connection], object]:
    def fail(_: sqlite3.Connection) -> object:
        raise error

    return fail


async def test_what_gathers_during_a_commit_is_committed_together(
    writer: Writer[Insert | Run], numbers: Numbers, tmp_path: Path
) -> None:
    await asyncio.gather(*(writer.write(Insert(n), 0) for n in range(100)))

    assert sum(numbers.batches) == 100
    assert len(numbers.batches) < 20
    assert stored(tmp_path / "n.db") == list(range(100))


async def test_committed_operations_are_told_in_order_before_their_callers_go_on(
    writer: Writer[Insert | Run], numbers: Numbers
) -> None:
    op = Insert(1)
    await writer.write(op, 0)

    assert numbers.committed_ops == [op]


async def test_every_commit_is_synced_to_the_disk(writer: Writer[Insert | Run]) -> None:
    found: list[object] = []
    await writer.write(Run(lambda connection: found.extend(connection.execute("PRAGMA synchronous").fetchone())), 0)
    await writer.write(Run(lambda connection: found.extend(connection.execute("PRAGMA journal_mode").fetchone())), 0)

    assert found == [2, "wal"]


async def test_an_operation_that_fails_does_not_fail_its_neighbours(
    writer: Writer[Insert | Run], numbers: Numbers, tmp_path: Path
) -> None:
    await writer.write(Insert(5), 0)

    outcomes = await asyncio.gather(*(writer.write(Insert(n), 0) for n in range(10)), return_exceptions=True)

    assert [type(outcome) for outcome in outcomes] == [Internal if n == 5 else type(None) for n in range(10)]
    assert stored(tmp_path / "n.db") == list(range(10))
    assert Insert(5) not in numbers.committed_ops[1:]
    assert numbers.forgot


async def test_a_domain_error_reaches_only_its_own_caller_as_it_is(
    writer: Writer[Insert | Run], tmp_path: Path
) -> None:
    class Refused(Internal):
        pass

    outcomes = await asyncio.gather(
        writer.write(Insert(1), 0),
        writer.write(Run(pretend(Refused("no"))), 0),
        writer.write(Insert(2), 0),
        return_exceptions=True,
    )

    assert [type(outcome) for outcome in outcomes] == [type(None), Refused, type(None)]
    assert stored(tmp_path / "n.db") == [1, 2]


async def test_a_full_disk_is_unavailable_and_the_writer_goes_on_when_there_is_room_again(
    writer: Writer[Insert | Run], tmp_path: Path
) -> None:
    await writer.write(Run(lambda connection: connection.execute("PRAGMA max_page_count = 10").fetchall()), 0)
    with pytest.raises(Unavailable) as caught:
        await writer.write(Insert(1, bytes(100_000)), 100_000)
    assert caught.value.reason == "ENGINE_DOWN"

    await writer.write(Run(lambda connection: connection.execute("PRAGMA max_page_count = 1000").fetchall()), 0)
    await writer.write(Insert(2, bytes(100_000)), 100_000)

    assert stored(tmp_path / "n.db") == [2]


async def test_an_io_error_is_unavailable_for_the_whole_batch(writer: Writer[Insert | Run], tmp_path: Path) -> None:
    outcomes = await asyncio.gather(
        *(writer.write(Run(pretend(sqlite3.OperationalError("disk I/O error"))), 0), writer.write(Insert(1), 0)),
        return_exceptions=True,
    )

    assert all(isinstance(outcome, Unavailable) and outcome.reason == "ENGINE_DOWN" for outcome in outcomes if outcome)
    assert isinstance(outcomes[0], Unavailable)


async def test_a_commit_that_fails_leaves_the_outcome_unknown(writer: Writer[Insert | Run], tmp_path: Path) -> None:
    def defer_a_violation(connection: sqlite3.Connection) -> None:
        connection.execute("CREATE TEMP TABLE parent (id INTEGER PRIMARY KEY)")
        connection.execute("CREATE TEMP TABLE child (id REFERENCES parent DEFERRABLE INITIALLY DEFERRED)")
        connection.execute("INSERT INTO child VALUES (1)")

    def check_foreign_keys(connection: sqlite3.Connection) -> None:
        connection.execute("COMMIT")
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute("BEGIN IMMEDIATE")

    await writer.write(Run(check_foreign_keys), 0)
    with pytest.raises(Unavailable) as caught:
        await writer.write(Run(defer_a_violation), 0)
    assert caught.value.reason == "OUTCOME_UNKNOWN"

    await writer.write(Insert(1), 0)
    assert stored(tmp_path / "n.db") == [1]


async def test_a_dead_thread_is_an_error_for_every_caller_present_and_later(
    writer: Writer[Insert | Run], numbers: Numbers, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Death(BaseException):
        pass

    def die_before_the_first_answer(*_: object) -> None:
        monkeypatch.undo()
        raise Death

    monkeypatch.setattr(writer, "_post", die_before_the_first_answer)
    outcomes = await asyncio.gather(writer.write(Insert(0), 0), writer.write(Insert(1), 0), return_exceptions=True)
    later = await asyncio.gather(writer.write(Insert(2), 0), writer.write(Insert(3), 0), return_exceptions=True)

    assert all(isinstance(outcome, Unavailable) and outcome.reason == "OUTCOME_UNKNOWN" for outcome in outcomes)
    assert all(isinstance(outcome, Unavailable) and outcome.reason == "ENGINE_DOWN" for outcome in later)
    assert isinstance(numbers.end, Unavailable)
    assert isinstance(writer.refusal, Unavailable)


async def test_a_bug_in_following_a_commit_leaves_nobody_waiting(
    writer: Writer[Insert | Run], numbers: Numbers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(numbers, "committed", lambda _: 1 / 0)

    with pytest.raises(Unavailable):
        await writer.write(Insert(1), 0)
    with pytest.raises(Unavailable):
        await writer.write(Insert(2), 0)


async def test_a_cancelled_caller_does_not_undo_its_operation(writer: Writer[Insert | Run], tmp_path: Path) -> None:
    writing = asyncio.create_task(writer.write(Insert(1), 0))
    await asyncio.sleep(0)
    writing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await writing

    await writer.write(Insert(2), 0)

    assert stored(tmp_path / "n.db") == [1, 2]


async def test_more_than_the_queue_holds_waits_for_room_and_is_written(
    writer: Writer[Insert | Run], tmp_path: Path
) -> None:
    await asyncio.gather(*(writer.write(Insert(n), 300_000) for n in range(20)))

    assert stored(tmp_path / "n.db") == list(range(20))


async def test_close_writes_what_was_begun_and_later_calls_are_refused(
    writer: Writer[Insert | Run], numbers: Numbers, tmp_path: Path
) -> None:
    writing = [asyncio.create_task(writer.write(Insert(n), 0)) for n in range(10)]
    await asyncio.sleep(0)

    await writer.close()
    await asyncio.gather(*writing)

    with pytest.raises(Unavailable):
        await writer.write(Insert(99), 0)
    assert stored(tmp_path / "n.db") == list(range(10))
    assert numbers.end is not None


async def test_a_checkpoint_keeps_the_write_ahead_log_short(writer: Writer[Insert | Run], tmp_path: Path) -> None:
    for n in range(1_100):
        await writer.write(Insert(n, bytes(3_000)), 0)

    assert (tmp_path / "n.db-wal").stat().st_size < 8_000_000
    assert (tmp_path / "n.db").stat().st_size > 2_000_000


@pytest.fixture
async def flushed_writer(tmp_path: Path, numbers: Numbers) -> AsyncIterator[Writer[Insert | Run]]:
    writer: Writer[Insert | Run] = Writer(tmp_path / "f.db", SCHEMA, numbers, durable=Durable.AT_FLUSH)
    await writer.open()
    yield writer
    await writer.close()


async def test_a_write_that_is_to_be_flushed_is_visible_at_once_and_synced_by_the_flush(
    flushed_writer: Writer[Insert | Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    monkeypatch.setattr("os.fdatasync", lambda descriptor: synced.append(os.readlink(f"/proc/self/fd/{descriptor}")))
    await flushed_writer.write(Insert(1), 0)
    assert stored(tmp_path / "f.db") == [1]
    assert synced == []

    await flushed_writer.flush()

    assert synced == [str(tmp_path / "f.db-wal"), str(tmp_path)]


async def test_a_flush_that_the_disk_refuses_is_told(
    flushed_writer: Writer[Insert | Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: int) -> None:
        raise OSError(5, "Input/output error")

    await flushed_writer.write(Insert(1), 0)
    monkeypatch.setattr("os.fdatasync", fail)

    with pytest.raises(Unavailable) as caught:
        await flushed_writer.flush()
    assert caught.value.reason == "OUTCOME_UNKNOWN"


async def test_a_checkpoint_beside_the_writing_keeps_the_write_ahead_log_short(
    flushed_writer: Writer[Insert | Run], tmp_path: Path
) -> None:
    for n in range(1_100):
        await flushed_writer.write(Insert(n, bytes(3_000)), 0)
        await flushed_writer.flush()

    assert (tmp_path / "f.db-wal").stat().st_size < 8_000_000
    assert stored(tmp_path / "f.db") == list(range(1_100))


async def test_a_file_of_a_newer_program_is_refused_and_left_alone(tmp_path: Path) -> None:
    newer = Schema((*SCHEMA.steps, ("CREATE TABLE more (n INTEGER)",)))
    open_writer(tmp_path / "n.db", newer).close()
    writer: Writer[Insert | Run] = Writer(tmp_path / "n.db", SCHEMA, Numbers())

    with pytest.raises(SchemaTooNew, match=r"n\.db has schema version 2, and this program knows up to 1"):
        await writer.open()

    await writer.close()
    assert stored(tmp_path / "n.db") == []


async def test_an_older_file_is_brought_up_to_date_with_its_rows(tmp_path: Path) -> None:
    older = open_writer(tmp_path / "n.db", SCHEMA)
    older.execute("INSERT INTO numbers VALUES (1, '')")
    older.close()

    newer = open_writer(tmp_path / "n.db", Schema((*SCHEMA.steps, ("CREATE TABLE more (n INTEGER)",))))

    assert newer.execute("SELECT count(*) FROM more").fetchone() == (0,)
    assert newer.execute("SELECT n FROM numbers").fetchone() == (1,)
    newer.close()


async def test_a_step_that_fails_leaves_the_file_at_its_old_version(tmp_path: Path) -> None:
    open_writer(tmp_path / "n.db", SCHEMA).close()

    with pytest.raises(sqlite3.OperationalError):
        open_writer(tmp_path / "n.db", Schema((*SCHEMA.steps, ("CREATE TABLE more (n INTEGER)", "NONSENSE"))))

    again = open_writer(tmp_path / "n.db", SCHEMA)
    assert again.execute("SELECT count(*) FROM sqlite_schema WHERE name = 'more'").fetchone() == (0,)
    again.close()


async def test_a_file_that_is_no_database_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "n.db").write_bytes(b"something else entirely " * 100)
    writer: Writer[Insert | Run] = Writer(tmp_path / "n.db", SCHEMA, Numbers())

    with pytest.raises(Unavailable):
        await writer.open()

    await writer.close()


async def test_the_file_is_nobody_elses_to_read(writer: Writer[Insert | Run], tmp_path: Path) -> None:
    await writer.write(Insert(1), 0)

    assert open_to_others(tmp_path) == [0, 0, 0]


async def test_a_reader_whose_file_is_gone_is_unavailable_and_comes_back_with_it(tmp_path: Path) -> None:
    readers = Readers(tmp_path / "gone" / "n.db")
    with pytest.raises(Unavailable):
        await readers.run(lambda connection: connection.execute("SELECT 1").fetchone())

    (tmp_path / "gone").mkdir()
    open_writer(tmp_path / "gone" / "n.db", SCHEMA).close()

    assert await readers.run(lambda connection: connection.execute("SELECT count(*) FROM numbers").fetchone()) == (0,)
    await readers.close()


async def test_a_reader_cannot_write(writer: Writer[Insert | Run], tmp_path: Path) -> None:
    readers = Readers(tmp_path / "n.db")

    with pytest.raises(Unavailable):
        await readers.run(lambda connection: connection.execute("DELETE FROM numbers"))

    await readers.close()
