"""The log on SQLite: one file, one writer, and the tail of each partition in memory.

A record's row id is its partition's number and its offset in one integer, so appending is always at the end of a
partition's range and reading is one range scan. Offsets are given in the writer's thread, in the order of the commits;
they have no gaps.
"""

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Self

from discovery.errors import HitherError, Internal, InvalidArgument, Unavailable
from services.ports.log import Committed, Record
from services.storage.sqlite.database import Schema
from services.storage.sqlite.readers import Readers
from services.storage.sqlite.tail import Tail
from services.storage.sqlite.writer import Writer

_MOST_RECORDS = 1_000
_MOST_RECORD_BYTES = 1024 * 1024
_READ_BYTES = 8 * 1024 * 1024
"""A read of large records stops here, so that it does not fill the memory."""
_TRIM_CHUNK = 1_000
"""Records that one transaction deletes at most: appends that queue behind it wait a few milliseconds, not seconds."""
_OFFSET_BITS = 40
_MOST_OFFSETS = 1 << _OFFSET_BITS

_SCHEMA = Schema(
    (
        (
            """CREATE TABLE partitions (
                id INTEGER PRIMARY KEY, topic TEXT NOT NULL, partition INTEGER NOT NULL,
                first_offset INTEGER NOT NULL, UNIQUE (topic, partition))""",
            "CREATE TABLE records (place INTEGER PRIMARY KEY, value BLOB NOT NULL)",
            """CREATE TABLE commits (
                reader TEXT NOT NULL, topic TEXT NOT NULL, partition INTEGER NOT NULL,
                next_offset INTEGER NOT NULL, state BLOB NOT NULL,
                PRIMARY KEY (reader, topic, partition)) WITHOUT ROWID""",
        ),
    )
)

_Partition = tuple[str, int]


@dataclass(slots=True)
class _Append:
    partition: _Partition
    values: Sequence[bytes]
    partition_id: int = 0
    first_offset: int = 0


@dataclass(slots=True)
class _Commit:
    group: str
    partition: _Partition
    committed: Committed


@dataclass(slots=True)
class _Trim:
    partition: _Partition
    before_offset: int
    more: bool = True


_Op = _Append | _Commit | _Trim


class SqliteLog:
    """See services.ports.log.Log.

    Reads of the newest 2,048 records (1 MiB) of a partition are answered from memory. A read returns fewer than `limit`
    when they would be more than 8 MiB. Appending nothing does nothing.
    """

    def __init__(self, path: Path) -> None:
        self._tails: dict[_Partition, Tail] = {}
        self._writer: Writer[_Op] = Writer(path, _SCHEMA, _LogApplier(self._tails))
        self._readers = Readers(path)
        self._closed = False

    @classmethod
    async def open(cls, path: Path) -> Self:
        """Opens the file, or makes it. Raises SchemaTooNew, or Unavailable if the engine cannot."""
        log = cls(path)
        try:
            await log._writer.open()
            log._tails.update(await log._readers.run(_load_tails))
        except BaseException:
            await log.close()
            raise
        return log

    async def append(self, topic: str, partition: int, values: Sequence[bytes]) -> Sequence[int]:
        """See Log."""
        if not values:
            return []
        if len(values) > _MOST_RECORDS:
            raise InvalidArgument(f"{len(values)} records are more than {_MOST_RECORDS}.")
        size = sum(map(len, values))
        if size > _MOST_RECORD_BYTES and max(map(len, values)) > _MOST_RECORD_BYTES:
            raise InvalidArgument(f"A record is larger than {_MOST_RECORD_BYTES} bytes.")
        op = _Append((topic, partition), values)
        await self._writer.write(op, size)
        return list(range(op.first_offset, op.first_offset + len(values)))

    async def read(self, topic: str, partition: int, offset: int, limit: int) -> Sequence[Record]:
        """See Log."""
        self._check_open()
        tail = self._tails.get((topic, partition))
        if tail is None or limit <= 0 or not tail.has_from(offset):
            return []
        offset = max(offset, tail.first_offset)
        if tail.holds(offset):
            return tail.read(offset, limit)
        return await self._readers.run(partial(_select_records, tail.partition_id, offset, limit))

    async def wait(self, topic: str, partition: int, offset: int) -> None:
        """See Log. Raises Unavailable when the log is closed or can be written no more."""
        self._check_open()
        await self._tails.setdefault((topic, partition), Tail()).wait(offset)

    async def commit(self, group: str, topic: str, partition: int, committed: Committed) -> None:
        """See Log."""
        await self._writer.write(_Commit(group, (topic, partition), committed), len(committed.state))

    async def committed(self, group: str, topic: str, partition: int) -> Committed:
        """See Log."""
        return await self._readers.run(partial(_select_committed, group, topic, partition))

    async def trim(self, topic: str, partition: int, before_offset: int) -> None:
        """See Log. Never goes beyond what is durable now."""
        self._check_open()
        tail = self._tails.get((topic, partition))
        if tail is None or min(before_offset, tail.next_offset) <= tail.first_offset:
            return
        op = _Trim((topic, partition), min(before_offset, tail.next_offset))
        while op.more:
            await self._writer.write(op, 0)

    async def close(self) -> None:
        """See Log. May be called twice."""
        self._closed = True
        # The writer goes last: as the file's last connection it leaves a checkpointed file behind.
        await self._readers.close()
        await self._writer.close()

    def _check_open(self) -> None:
        if self._closed or self._writer.refusal is not None:
            raise Unavailable("The log is closed.", reason="ENGINE_DOWN")


class _LogApplier:
    """Carries out the log's operations, and tells the tails what became durable."""

    def __init__(self, tails: dict[_Partition, Tail]) -> None:
        self._tails = tails
        self._ends: dict[_Partition, tuple[int, int]] = {}  # the writer thread's own: number and next offset

    def apply(self, connection: sqlite3.Connection, ops: Sequence[_Op]) -> None:
        """See Applier. Operations on different tables may change places: all of them become visible at once."""
        rows: list[tuple[int, bytes]] = []
        commits: dict[tuple[str, _Partition], Committed] = {}
        trims: list[_Trim] = []
        for op in ops:
            match op:
                case _Append():
                    self._place(connection, op, rows)
                case _Commit():
                    commits[op.group, op.partition] = op.committed
                case _Trim():
                    trims.append(op)
        if rows:
            connection.executemany("INSERT INTO records VALUES (?, ?)", rows)
        if commits:
            connection.executemany(
                "INSERT OR REPLACE INTO commits VALUES (?, ?, ?, ?, ?)",
                [(group, *partition, c.next_offset, c.state) for (group, partition), c in commits.items()],
            )
        for trim in trims:
            self._trim(connection, trim)

    def forget(self) -> None:
        """See Applier."""
        self._ends.clear()

    def committed(self, ops: Sequence[_Op]) -> None:
        """See Applier."""
        for op in ops:
            if isinstance(op, _Append):
                tail = self._tails.get(op.partition)
                if tail is None:
                    tail = self._tails[op.partition] = Tail()
                tail.partition_id = op.partition_id
                tail.extend(op.values)
            elif isinstance(op, _Trim):
                tail = self._tails[op.partition]
                tail.first_offset = max(tail.first_offset, op.before_offset)

    def ended(self, error: HitherError) -> None:
        """See Applier."""
        for tail in self._tails.values():
            tail.end(error)

    def _place(self, connection: sqlite3.Connection, op: _Append, rows: list[tuple[int, bytes]]) -> None:
        number, next_offset = self._ends.get(op.partition) or self._find_end(connection, op.partition)
        if next_offset + len(op.values) > _MOST_OFFSETS:
            raise Internal("A partition of the log has used up its offsets.")
        op.partition_id, op.first_offset = number, next_offset
        start = (number << _OFFSET_BITS) + next_offset
        rows.extend([(start + n, value) for n, value in enumerate(op.values)])
        self._ends[op.partition] = number, next_offset + len(op.values)

    @staticmethod
    def _find_end(connection: sqlite3.Connection, partition: _Partition) -> tuple[int, int]:
        connection.execute(
            "INSERT OR IGNORE INTO partitions (topic, partition, first_offset) VALUES (?, ?, 0)",
            partition,
        )
        (number,) = connection.execute(
            "SELECT id FROM partitions WHERE (topic, partition) = (?, ?)", partition
        ).fetchone()
        row = _select_ends(connection, number).fetchone()
        return number, row[3]

    @staticmethod
    def _trim(connection: sqlite3.Connection, op: _Trim) -> None:
        row = connection.execute("SELECT id FROM partitions WHERE (topic, partition) = (?, ?)", op.partition).fetchone()
        start = row[0] << _OFFSET_BITS
        # Durable with the first chunk: a partition that was emptied still knows where its offsets go on.
        connection.execute(
            "UPDATE partitions SET first_offset = max(first_offset, ?) WHERE id = ?", (op.before_offset, row[0])
        )
        deleted = connection.execute(
            """DELETE FROM records WHERE place >= ?1 AND place < min(
                ?1 + ?2, (SELECT min(place) FROM records WHERE place >= ?1) + ?3)""",
            (start, op.before_offset, _TRIM_CHUNK),
        ).rowcount
        op.more = deleted >= _TRIM_CHUNK


def _select_ends(connection: sqlite3.Connection, number: int | None = None) -> sqlite3.Cursor:
    """Topic, partition, first and next offset of the partition with this number, or of all."""
    return connection.execute(
        f"""SELECT topic, partition, first_offset, max(first_offset, ifnull(1 - (id << {_OFFSET_BITS}) + (
                SELECT max(place) FROM records
                WHERE place >= id << {_OFFSET_BITS} AND place < (id + 1) << {_OFFSET_BITS}), 0)), id
            FROM partitions WHERE ifnull(id = ?1, 1)""",  # noqa: S608 - a constant of this module
        (number,),
    )


def _load_tails(connection: sqlite3.Connection) -> dict[_Partition, Tail]:
    return {
        (topic, partition): Tail(number, first_offset, next_offset)
        for topic, partition, first_offset, next_offset, number in _select_ends(connection)
    }


def _select_records(partition_id: int, offset: int, limit: int, connection: sqlite3.Connection) -> list[Record]:
    start = partition_id << _OFFSET_BITS
    rows = connection.execute(
        "SELECT place, value FROM records WHERE place >= ? AND place < ? ORDER BY place LIMIT ?",
        (start + offset, start + _MOST_OFFSETS, limit),
    )
    records: list[Record] = []
    size = 0
    for place, value in rows:
        records.append(Record(place - start, value))
        size += len(value)
        if size >= _READ_BYTES:
            break
    rows.close()
    return records


def _select_committed(group: str, topic: str, partition: int, connection: sqlite3.Connection) -> Committed:
    row = connection.execute(
        "SELECT next_offset, state FROM commits WHERE (reader, topic, partition) = (?, ?, ?)", (group, topic, partition)
    ).fetchone()
    return Committed(*row) if row else Committed(0, b"")
