"""Group commit: one thread commits a database file, and what gathers while it does is the next transaction.

An idle writer commits the first operation at once; a busy one waits 1.5 to 5 ms between the beginnings of two commits, the
longer the more it has to do, and pays for one fsync for what has gathered. Rows are put into the transaction on the
event loop, which costs some microseconds each; only the commit, which waits for the disk, is the thread's. (Rows
written by the thread cost more: sqlite3 lets go of the interpreter's lock at every step, and beside a busy loop
getting it back takes longer than the step.) Callers are answered after the commit, one wake-up of the loop for all of
them. Decides nothing about rows: an Applier does.
"""

import asyncio
import os
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from copy import copy
from dataclasses import dataclass
from enum import Enum
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Generic, Protocol, TypeVar

import structlog
from prometheus_client import Histogram

from discovery.errors import HitherError, Internal, Unavailable
from services.storage.sqlite.database import Schema, engine_down, is_engine_trouble, open_writer, outcome_unknown
from services.storage.sqlite.handoff import Handoff
from services.storage.sqlite.room import Room

_CAPACITY_BYTES = 32 * 1024 * 1024
_OP_OVERHEAD_BYTES = 1024
_COMMITS_BETWEEN_CHECKPOINTS = 256
_SPACING_S = 0.001
_SPACING_FOR_EACH_S = 0.0005
_TIMER_GRAIN_S = 0.001
"""Timers of an event loop are no finer; a shorter wait would come back at once, again and again."""
_LOCKED_RETRY_S = 0.005
LOCKED_S = 5.0
"""How long another process may hold the file before its writers here get ENGINE_DOWN, in seconds."""

_log = structlog.get_logger(__name__)
_commit_s = Histogram(
    "hither_sqlite_commit_seconds",
    "Time of one transaction, its fsync included",
    ["database"],
    buckets=(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0),
)
_commit_ops = Histogram(
    "hither_sqlite_commit_operations",
    "Operations that shared one transaction",
    ["database"],
    buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256, 1024),
)

Op = TypeVar("Op")
Applied = TypeVar("Applied", contravariant=True)


class Durable(Enum):
    """When what `write` returned from is on disk, for good. It survives the end of the process in any case."""

    AT_COMMIT = "when write returns"
    AT_FLUSH = "when a later flush returns"


_SYNCHRONOUS = {Durable.AT_COMMIT: "FULL", Durable.AT_FLUSH: "NORMAL"}


class Applier(Protocol[Applied]):
    """What a writer's operations do. An operation carries its result; `apply` sets it."""

    def apply(self, connection: sqlite3.Connection, ops: Sequence[Applied]) -> None:
        """Carries out the operations in this order inside the open transaction. Called in the event loop.

        If it raises anything, all of it is undone and each operation is applied again alone.
        """

    def forget(self) -> None:
        """Something that was applied has been undone: what was remembered of the tables is void. In the event loop."""

    def committed(self, ops: Sequence[Applied]) -> None:
        """These are durable; called in the event loop, in the order of the commits, before their callers go on."""

    def ended(self, error: HitherError) -> None:
        """No commit will follow. Called in the event loop, once."""


@dataclass(slots=True)
class _Entry(Generic[Op]):
    op: Op
    weight: int
    done: asyncio.Future[None]
    error: HitherError | None = None


class Writer(Generic[Op]):
    """The one writer of a file. Belongs to the event loop that opened it.

    Operations that wait weigh at most `capacity_bytes` together; beyond that `write` waits for room, and raises
    Unavailable (ENGINE_DOWN) after 5 s without any. If the thread dies, every caller, present and later, gets Unavailable.
    """

    def __init__(
        self,
        path: Path,
        schema: Schema,
        applier: Applier[Op],
        *,
        capacity_bytes: int = _CAPACITY_BYTES,
        durable: Durable = Durable.AT_COMMIT,
    ) -> None:
        self._durable = durable
        self._path = path
        self._schema = schema
        self._applier = applier
        self._room = Room(capacity_bytes)
        self._handoff = Handoff(asyncio.get_running_loop())
        self._loop = asyncio.get_running_loop()
        self._outstanding: deque[_Entry[Op]] = deque()
        self._refusal: HitherError | None = None
        self._opened: asyncio.Future[None] = self._loop.create_future()
        self._ended: asyncio.Future[None] = self._loop.create_future()
        self._jobs: SimpleQueue[Callable[[sqlite3.Connection], None] | None] = SimpleQueue()
        self._commits = 0
        self._flushes: set[asyncio.Future[None]] = set()
        self._pending: list[_Entry[Op]] = []
        self._connection: sqlite3.Connection | None = None
        self._thread_is_busy = False
        self._next_s = 0.0
        self._waits_for_turn = False
        self._locked_until_s: float | None = None
        self._closing = False
        self._thread = threading.Thread(target=self._run, name=f"writer-{path.name}", daemon=True)
        self._commit_s = _commit_s.labels(path.name)
        self._commit_ops = _commit_ops.labels(path.name)

    @property
    def refusal(self) -> HitherError | None:
        """Why nothing is written any more; None while the writer works."""
        return self._refusal

    async def open(self) -> None:
        """Opens the file. Raises SchemaTooNew, or Unavailable if the engine cannot. Called once, first."""
        self._thread.start()
        await asyncio.shield(self._opened)

    async def write(self, op: Op, payload_bytes: int) -> None:
        """Returns when the operation is durable, or visible and to be flushed: see Durable. `payload_bytes` is about what it
        holds in memory.

        Raises what the applier raised for it, or Unavailable: ENGINE_DOWN if nothing was done, OUTCOME_UNKNOWN if
        that cannot be told. A caller that is cancelled while it waits for the commit does not undo the operation.
        """
        weight = payload_bytes + _OP_OVERHEAD_BYTES
        assert self._opened.done(), "open() comes first"
        if self._refusal is not None:
            raise copy(self._refusal)  # a raised error holds on to its frames: one of its own for each caller
        if not self._room.try_enter(weight):
            await self._room.enter(weight)
            if self._refusal is not None:
                self._room.leave(weight)
                raise copy(self._refusal)
        entry = _Entry(op, weight, self._loop.create_future())
        self._outstanding.append(entry)
        self._handoff.expect()
        if not self._pending:
            self._loop.call_soon(self._begin)  # what else this turn of the loop writes comes along
        self._pending.append(entry)
        await entry.done

    async def flush(self) -> None:
        """Returns when all that was written before is on disk. Raises Unavailable (OUTCOME_UNKNOWN)."""
        if self._refusal is not None:
            raise copy(self._refusal)
        flushed: asyncio.Future[None] = self._loop.create_future()
        self._flushes.add(flushed)
        flushed.add_done_callback(self._flushes.discard)
        self._handoff.expect()
        self._jobs.put(partial(self._sync, flushed))
        await flushed

    async def close(self) -> None:
        """Finishes what was begun, then closes the file. May be called twice."""
        self._refuse(Unavailable("The database is closed.", reason="ENGINE_DOWN"))
        if not self._closing:
            self._closing = True
            self._stop_when_done()
        if self._thread.ident is not None:
            await asyncio.shield(self._ended)
            self._thread.join()

    def _refuse(self, error: HitherError) -> None:
        if self._refusal is None:
            self._refusal = error
            self._room.refuse_waiting(error)

    # In the event loop: one transaction at a time, from its rows to its commit.

    def _begin(self) -> None:
        """Puts what has gathered into a transaction and hands it to the thread, unless it is busy with the one before."""
        while self._pending and not self._thread_is_busy and self._connection is not None:
            if self._durable is Durable.AT_COMMIT and self._is_too_early():
                return
            if self._is_locked(self._connection):
                self._loop.call_later(_LOCKED_RETRY_S, self._begin)
                return
            batch, self._pending = self._pending, []
            if not self._apply(self._connection, batch):
                self._settle(batch)
            elif self._durable is Durable.AT_COMMIT:
                self._thread_is_busy = True
                self._next_s = self._loop.time() + _SPACING_S + _SPACING_FOR_EACH_S * min(len(batch), 8)
                self._jobs.put(partial(self._commit, batch))
            else:
                self._commit_here(self._connection, batch)
        self._stop_when_done()

    def _is_too_early(self) -> bool:
        """Lets operations gather for a little when the last commit was begun just now; sees to being called again."""
        if self._waits_for_turn:
            return True
        wait_s = self._next_s - self._loop.time()
        if wait_s < _TIMER_GRAIN_S or self._closing:
            return False
        self._waits_for_turn = True
        self._loop.call_later(wait_s, self._take_turn)
        return True

    def _take_turn(self) -> None:
        self._waits_for_turn = False
        self._begin()

    def _is_locked(self, connection: sqlite3.Connection) -> bool:
        """Begins a transaction, unless another process is in one; waits for it for `LOCKED_S` at most."""
        try:
            connection.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY:
                return False  # to be met again, and told
            if self._locked_until_s is None:
                self._locked_until_s = self._loop.time() + LOCKED_S
            if self._loop.time() < self._locked_until_s:
                return True
        self._locked_until_s = None
        return False

    def _apply(self, connection: sqlite3.Connection, batch: list[_Entry[Op]]) -> bool:
        """Whether there is a transaction to commit; if not, the entries say why."""
        try:
            if not connection.in_transaction:
                connection.execute("BEGIN IMMEDIATE")
            try:
                self._applier.apply(connection, [entry.op for entry in batch])
            except Exception as error:
                self._roll_back(connection)
                if is_engine_trouble(error):
                    raise
                self._redo_one_by_one(connection, batch)
        except Exception as error:  # noqa: BLE001 - whatever it was, the callers of this batch are told
            self._roll_back(connection)
            self._fail(batch, self._explain(error))
            return False
        return True

    def _commit_here(self, connection: sqlite3.Connection, batch: list[_Entry[Op]]) -> None:
        """Commits without waiting for the disk."""
        error: sqlite3.Error | None = None
        try:
            connection.execute("COMMIT")
        except sqlite3.Error as failed:
            error = failed
        self._count(len(batch), None)
        if self._commits % _COMMITS_BETWEEN_CHECKPOINTS == 0:
            self._jobs.put(self._checkpoint_apart)
        self._told(batch, error)

    def _count(self, operations: int, seconds: float | None) -> None:
        self._commits += 1
        self._commit_ops.observe(operations)
        if seconds is not None:
            self._commit_s.observe(seconds)

    def _redo_one_by_one(self, connection: sqlite3.Connection, batch: list[_Entry[Op]]) -> None:
        connection.execute("BEGIN IMMEDIATE")
        for entry in batch:
            connection.execute("SAVEPOINT one")
            try:
                self._applier.apply(connection, [entry.op])
            except Exception as error:
                if is_engine_trouble(error):
                    raise
                entry.error = self._explain(error)
                self._applier.forget()
                connection.execute("ROLLBACK TO one")
            connection.execute("RELEASE one")

    def _roll_back(self, connection: sqlite3.Connection) -> None:
        self._applier.forget()
        if connection.in_transaction:
            with suppress(sqlite3.Error):
                connection.execute("ROLLBACK")

    def _told(self, batch: list[_Entry[Op]], error: sqlite3.Error | None) -> None:
        if error is not None:
            assert self._connection is not None  # it committed
            self._roll_back(self._connection)
            self._fail(batch, outcome_unknown(error))
        self._settle(batch)

    def _committed(self, batch: list[_Entry[Op]], error: sqlite3.Error | None, *, free: bool) -> None:
        if free:
            self._thread_is_busy = False
        self._told(batch, error)
        self._begin()

    def _flushed(self, flushed: asyncio.Future[None], error: OSError | None) -> None:
        self._handoff.answered(1)
        if flushed.done():  # cancelled
            return
        if error is None:
            flushed.set_result(None)
        else:
            flushed.set_exception(outcome_unknown(error))

    def _freed(self) -> None:
        self._thread_is_busy = False
        self._begin()

    def _stop_when_done(self) -> None:
        if self._closing and not self._pending and not self._thread_is_busy:
            self._jobs.put(None)

    # In the writer's thread.

    def _run(self) -> None:
        cause: BaseException | None = None
        try:
            with closing(open_writer(self._path, self._schema, synchronous=_SYNCHRONOUS[self._durable])) as connection:
                self._post(self._report_opened, connection, None)
                while job := self._jobs.get():
                    job(connection)
        except BaseException as error:  # noqa: BLE001 - a thread has nobody else to tell
            cause = error
        self._post(self._report_opened, None, cause)
        self._post(self._end, cause)

    def _commit(self, batch: list[_Entry[Op]], connection: sqlite3.Connection) -> None:
        started_s = time.perf_counter()
        error: sqlite3.Error | None = None
        try:
            connection.execute("COMMIT")
        except sqlite3.Error as failed:
            error = failed
        checkpoint = (self._commits + 1) % _COMMITS_BETWEEN_CHECKPOINTS == 0 and error is None
        self._post(partial(self._committed, batch, error, free=not checkpoint))
        self._count(len(batch), time.perf_counter() - started_s)
        if checkpoint:
            self._checkpoint(connection)
            self._post(self._freed)

    def _sync(self, flushed: asyncio.Future[None], connection: sqlite3.Connection) -> None:
        """What a commit does with synchronous=FULL: the log of a file in WAL mode holds all commits up to here, or the file
        itself does, synced by the checkpoint that moved them.
        """
        error: OSError | None = None
        try:
            for path in (Path(f"{self._path}-wal"), self._path.parent):
                descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
                try:
                    os.fdatasync(descriptor)
                finally:
                    os.close(descriptor)
        except OSError as failed:
            error = failed
        self._post(self._flushed, flushed, error)

    def _checkpoint_apart(self, connection: sqlite3.Connection) -> None:
        """A checkpoint that leaves the writing connection to the event loop."""
        with closing(sqlite3.connect(self._path, isolation_level=None)) as another:
            self._checkpoint(another)

    def _checkpoint(self, connection: sqlite3.Connection) -> None:
        try:
            connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
        except sqlite3.OperationalError as error:  # the log file only grows a little; the next one may succeed
            _log.warning("checkpoint_failed", database=self._path.name, error=str(error))

    def _post(self, callback: Callable[..., None], *values: object) -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody waits
            self._loop.call_soon_threadsafe(callback, *values)

    # In the event loop.

    def _explain(self, error: Exception) -> HitherError:
        if isinstance(error, HitherError):
            return error
        if is_engine_trouble(error):
            _log.error("database_failed", database=self._path.name, error=str(error))
            return engine_down(error)
        _log.error("operation_failed", database=self._path.name, exc_info=error)
        return Internal("An operation could not be written.")

    @staticmethod
    def _fail(batch: list[_Entry[Op]], error: HitherError) -> None:
        for entry in batch:
            entry.error = entry.error or copy(error)

    def _report_opened(self, connection: sqlite3.Connection | None, error: BaseException | None) -> None:
        if self._opened.done():
            return
        if error is None:
            self._connection = connection
            self._opened.set_result(None)
        else:
            self._opened.set_exception(engine_down(error) if is_engine_trouble(error) else error)

    def _settle(self, batch: list[_Entry[Op]]) -> None:
        self._handoff.answered(len(batch))
        try:
            self._applier.committed([entry.op for entry in batch if entry.error is None])
        except Exception as error:  # noqa: BLE001 - a bug there must not leave callers waiting
            _log.critical("commit_not_followed", database=self._path.name, exc_info=error)
            self._fail(batch, outcome_unknown(error))
            self._refuse(engine_down(error))
        for entry in batch:
            self._outstanding.popleft()
            if entry.done.done():  # cancelled
                continue
            if entry.error is None:
                entry.done.set_result(None)
            else:
                entry.done.set_exception(entry.error)
        self._room.leave(sum(entry.weight for entry in batch))

    def _end(self, cause: BaseException | None) -> None:
        self._connection = None
        self._pending.clear()
        self._handoff.answered(len(self._outstanding))
        if cause is not None:
            _log.critical("writer_ended", database=self._path.name, exc_info=cause)
            self._refuse(engine_down(cause))
        for entry in self._outstanding:
            if not entry.done.done():
                entry.done.set_exception(outcome_unknown(cause or RuntimeError("closed")))
        self._outstanding.clear()
        for flushed in list(self._flushes):
            flushed.set_exception(outcome_unknown(cause or RuntimeError("closed")))
        self._applier.ended(self._refusal or engine_down(RuntimeError("closed")))
        if not self._ended.done():
            self._ended.set_result(None)
