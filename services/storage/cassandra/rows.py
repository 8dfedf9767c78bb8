"""Rows by key and place (messages by conversation and seq, inbox rows by user and pos), in buckets.

**What is visible.** The rows of one call and key that are in one bucket are one mutation, which Cassandra applies all at once. Where
they reach into a further bucket, the furthest is written first: readers look at a bucket only when the one before it is
full, so that all of them become visible with the last mutation, that of the nearest bucket. The newest bucket of a long
key is noted after that, as a place to begin the search; the search goes on from it while buckets are full.

**Conflicts** are checked, not locked: rows at places that may be taken are read before anything is written. Two owners
that write at the same time do not see each other, and need not: they write the same rows. Places above the head that heads()
gave last are free as far as this store can know, so the ordinary way (heads, then put) reads nothing twice.

**Replicas.** A write whose caller got an error may stand on a minority of the replicas. Readers that see it make a majority
of it first (read repair, Cassandra's default), so what was seen once is seen ever after, and is as durable as any other row. Repair
goes row by row: should such a write be seen while it is underway, its newest row may for a moment be visible before the others.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from operator import attrgetter
from typing import Any, Generic, TypeVar

import structlog
from cassandra.cluster import Session
from cassandra.query import PreparedStatement

from services.ports.message_store import Head, InboxRow, MessageRow, RowConflict
from services.storage.cassandra.buckets import Buckets
from services.storage.cassandra.engine import Engine, PartitionWrite, Statement
from services.storage.cassandra.remembered import Remembered

KEYS_A_STATEMENT = 32
"""Partitions that one statement reads. More would make one node gather too much; fewer cost more of our own time."""
_PLACES_A_STATEMENT = 100
_ROWS_A_STATEMENT = 500
"""Rows that one statement reads, so that an answer stays small whatever was asked for."""
_ROW_BYTES = 200
"""What a row weighs beside its payload, about."""
_MOST_REMEMBERED = 65_536

_log = structlog.get_logger(__name__)
R = TypeVar("R", MessageRow, InboxRow)
Place = tuple[str, int]
"""A key, and a place from 1 on."""
Also = Callable[[str, int, Sequence[R]], Sequence[Statement]]
"""Makes statements for a key and bucket from the rows that are written to it."""


@dataclass(frozen=True, slots=True)
class Table(Generic[R]):
    """A table of rows. `columns` are named as the fields of the row's class and in their order: the key, the place, the rest."""

    name: str
    make: Callable[..., R]
    columns: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Statements:
    insert: PreparedStatement
    newest: PreparedStatement
    newest_of_many: PreparedStatement
    upwards: PreparedStatement
    downwards: PreparedStatement
    at: PreparedStatement
    noted_buckets: PreparedStatement
    note_bucket: PreparedStatement


class BucketedRows(Generic[R]):
    """The rows of one table. `prepare` first, once for each session."""

    def __init__(self, engine: Engine, table: Table[R], buckets: Buckets, statements: _Statements) -> None:
        self._engine = engine
        self._table: Table[R] = table
        self._buckets = buckets
        self._statements = statements
        self._values: Callable[[R], tuple[Any, ...]] = attrgetter(*table.columns)
        self._newest_buckets: Remembered[str, int] = Remembered(_MOST_REMEMBERED)
        self._heads: Remembered[str, int] = Remembered(_MOST_REMEMBERED)

    @classmethod
    def prepare(
        cls, engine: Engine, table: Table[R], buckets: Buckets, session: Session, keyspace: str
    ) -> "BucketedRows[R]":
        """Blocks while the server prepares the statements."""
        return cls(engine, table, buckets, _prepare(session, keyspace, table))

    def place_of(self, row: R) -> Place:
        """Where the row belongs."""
        values = self._values(row)
        return values[0], values[1]

    async def heads(self, keys: Sequence[str]) -> dict[str, Head]:
        """The newest row of each key; Head(0, -1) if there is none."""
        heads = dict.fromkeys(keys, Head(0, -1))
        buckets = {key: self._newest_buckets.get(key) or 0 for key in heads}
        while buckets:
            found = await self._heads_in(buckets)
            heads.update(found)
            for key in found:
                if buckets[key]:
                    self._newest_buckets.put(key, buckets[key])
            full = [key for key, head in found.items() if head.place == self._buckets.last(buckets[key])]
            buckets = await self._buckets_after(full, buckets) if full else {}
        for key, head in heads.items():
            self._heads.put(key, head.place)
        return heads

    async def read_up(self, key: str, after: int, before: int, limit: int) -> list[R]:
        """Rows with after < place < before, the oldest `limit` of them, ascending."""
        bucket = self._buckets.of(max(after, 0) + 1)
        if bucket > (self._newest_buckets.get(key) or 0):  # it may be written to, and not be visible yet
            before = min(before, (await self.heads([key]))[key].place + 1)
        rows: list[R] = []
        while len(rows) < limit and after + 1 < before:
            want = min(limit - len(rows), _ROWS_A_STATEMENT)
            found = await self._read(self._statements.upwards, key, bucket, after, before, want)
            rows.extend(found)
            if found:
                after = self.place_of(found[-1])[1]
            if after == self._buckets.last(bucket):
                bucket += 1
            elif len(found) < want:
                break
        return rows

    async def read_down(self, key: str, after: int, before: int, limit: int) -> list[R]:
        """Rows with after < place < before, the newest `limit` of them, ascending."""
        if self._buckets.of(before - 1) > (self._newest_buckets.get(key) or 0):
            before = min(before, (await self.heads([key]))[key].place + 1)
        rows: list[R] = []
        while len(rows) < limit and max(after, 0) + 1 < before:
            want = min(limit - len(rows), _ROWS_A_STATEMENT)
            bucket = self._buckets.of(before - 1)
            found = await self._read(self._statements.downwards, key, bucket, after, before, want)
            rows.extend(found)
            before = self.place_of(found[-1])[1] if len(found) == want else self._buckets.first(bucket)
        return rows[::-1]

    async def at(self, places: Iterable[Place]) -> dict[Place, R]:
        """The rows at these places."""
        groups: defaultdict[tuple[str, int], list[int]] = defaultdict(list)
        for key, place in places:
            groups[key, self._buckets.of(place)].append(place)
        statements: list[Statement] = [
            (self._statements.at, (key, bucket, chunk))
            for (key, bucket), wanted in groups.items()
            for chunk in chunks(wanted, _PLACES_A_STATEMENT)
        ]
        made = [self._table.make(*values) for found in await self._engine.execute_all(statements) for values in found]
        return {self.place_of(row): row for row in made}

    async def distinct(self, rows: Sequence[R]) -> list[R]:
        """The rows, each once. Raises RowConflict if another one stands in the place of one, here or in the table."""
        by_place: dict[Place, R] = {}
        for row in rows:
            if by_place.setdefault(self.place_of(row), row) != row:
                raise self.conflict(row)
        heads = {key: self._heads.take(key) for key in {key for key, _ in by_place}}
        doubtful = [place for place in by_place if (head := heads[place[0]]) is None or place[1] <= head]
        if doubtful:
            for place, found in (await self.at(doubtful)).items():
                if found != by_place[place]:
                    raise self.conflict(by_place[place])
        return list(by_place.values())

    def conflict(self, row: R) -> RowConflict:
        """To raise: another row stands where this one should, or is told apart from it by nothing."""
        _log.critical("row_conflict", table=self._table.name, place=self.place_of(row), log_offset=row.log_offset)
        return RowConflict(f"Another row stands in the place of a row of {self._table.name}, or has its client id.")

    async def write(self, rows: Sequence[R], also: Also[R] | None = None) -> None:
        """Writes distinct rows, and in one mutation with those of a key and bucket what `also` makes of these."""
        groups: defaultdict[tuple[str, int], list[R]] = defaultdict(list)
        for row in rows:
            key, place = self.place_of(row)
            groups[key, self._buckets.of(place)].append(row)
        writes: defaultdict[str, list[PartitionWrite]] = defaultdict(list)
        for key, bucket in sorted(groups, key=lambda group: -group[1]):
            writes[key].append(self._write_to(key, bucket, groups[key, bucket], also))
        for wave in zip_longest(*writes.values()):
            await self._engine.write([write for write in wave if write])
        notes = [
            (self._statements.note_bucket, (key, bucket, bucket))
            for (key, bucket), group in groups.items()
            if bucket and any(self.place_of(row)[1] == self._buckets.first(bucket) for row in group)
        ]
        if notes:
            await self._engine.execute_all(notes)

    def _write_to(self, key: str, bucket: int, rows: Sequence[R], also: Also[R] | None) -> PartitionWrite:
        statements = [self._insert(bucket, row) for row in rows]
        if also is not None:
            statements.extend(also(key, bucket, rows))
        return PartitionWrite(statements, sum([_ROW_BYTES + len(row.payload) for row in rows]))

    def _insert(self, bucket: int, row: R) -> Statement:
        return self._statements.insert, (bucket, *self._values(row))

    async def _heads_in(self, buckets: dict[str, int]) -> dict[str, Head]:
        keys_of: defaultdict[int, list[str]] = defaultdict(list)
        for key, bucket in buckets.items():
            keys_of[bucket].append(key)
        # A statement for a single key goes to a node that has it; one for many spares us most of the work.
        statements: list[Statement] = [
            (self._statements.newest_of_many, (chunk, bucket))
            if len(chunk) > 1
            else (self._statements.newest, (chunk[0], bucket))
            for bucket, keys in keys_of.items()
            for chunk in chunks(keys, KEYS_A_STATEMENT)
        ]
        results = await self._engine.execute_all(statements)
        return {key: Head(place, log_offset) for found in results for key, place, log_offset in found}

    async def _buckets_after(self, keys: Sequence[str], buckets: dict[str, int]) -> dict[str, int]:
        """Where to look on, for keys whose bucket is full."""
        after = {key: buckets[key] + 1 for key in keys}
        statements: list[Statement] = [
            (self._statements.noted_buckets, (chunk,))
            for chunk in chunks([key for key in keys if not buckets[key]], KEYS_A_STATEMENT)
        ]
        for noted in await self._engine.execute_all(statements):
            for key, bucket in noted:
                after[key] = max(after[key], bucket)
        return after

    async def _read(
        self, prepared: PreparedStatement, key: str, bucket: int, after: int, before: int, limit: int
    ) -> list[R]:
        found = await self._engine.execute(prepared, (key, bucket, after, before, limit))
        return [self._table.make(*values) for values in found]


def chunks(items: Sequence[Any], most: int) -> Iterator[Sequence[Any]]:
    """The items in order, at most so many at a time."""
    for start in range(0, len(items), most):
        yield items[start : start + most]


def _prepare(session: Session, keyspace: str, table: Table[R]) -> _Statements:
    key, place = table.columns[:2]
    columns, name = ", ".join(table.columns), f"{keyspace}.{table.name}"
    head, partition = f"SELECT {key}, {place}, log_offset FROM {name}", f"{key} = ? AND bucket = ?"
    between = f"SELECT {columns} FROM {name} WHERE {partition} AND {place} > ? AND {place} < ?"
    marks = ", ".join("?" * len(table.columns))
    texts = {
        "insert": f"INSERT INTO {name} (bucket, {columns}) VALUES (?, {marks})",
        "newest": f"{head} WHERE {partition} LIMIT 1",
        "newest_of_many": f"{head} WHERE {key} IN ? AND bucket = ? PER PARTITION LIMIT 1",
        "upwards": f"{between} ORDER BY {place} ASC LIMIT ?",
        "downwards": f"{between} ORDER BY {place} DESC LIMIT ?",
        "at": f"SELECT {columns} FROM {name} WHERE {partition} AND {place} IN ?",
        "noted_buckets": f"SELECT id, bucket FROM {keyspace}.newest_buckets WHERE kind = '{table.name}' AND id IN ?",
        # The bucket is its own timestamp, so that the highest stays, whoever writes last.
        "note_bucket": f"INSERT INTO {keyspace}.newest_buckets (kind, id, bucket) VALUES ('{table.name}', ?, ?) USING TIMESTAMP ?",
    }
    return _Statements(**{statement: session.prepare(text) for statement, text in texts.items()})
