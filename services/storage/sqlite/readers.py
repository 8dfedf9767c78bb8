"""Reading a database file: a few threads for what may take long, the event loop for look-ups by key.

Each has its own connection. In WAL mode readers and the writer do not wait for each other, and a read that starts after
a commit sees it.
"""

import asyncio
import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import structlog

from discovery.errors import Unavailable
from services.storage.sqlite.database import engine_down, is_engine_trouble, open_reader
from services.storage.sqlite.handoff import Handoff
from services.storage.sqlite.room import Room

_THREADS = 2
_MOST_READS = 256

_log = structlog.get_logger(__name__)
T = TypeVar("T")


class Readers:
    """Runs queries off the event loop that made it.

    At most 256 are begun or queued; who comes then waits, and gets Unavailable (ENGINE_DOWN) after 5 s.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._room = Room(_MOST_READS)
        self._handoff = Handoff(asyncio.get_running_loop())
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix=f"reader-{path.name}")
        self._local = threading.local()
        self._connections: list[sqlite3.Connection] = []
        self._closed = False

    async def run(self, query: Callable[[sqlite3.Connection], T]) -> T:
        """The query's result. Raises Unavailable (ENGINE_DOWN) if the engine fails."""
        if not self._room.try_enter(1):
            await self._room.enter(1)
        if self._closed:
            self._room.leave(1)
            raise _closed()
        try:
            job = asyncio.get_running_loop().run_in_executor(self._threads, self._run, query)
        except BaseException:
            self._room.leave(1)
            raise
        # A caller that is cancelled leaves its query running: its place is free when the thread is.
        job.add_done_callback(self._finished)
        self._handoff.expect()
        return await asyncio.shield(job)

    def look_up(self, query: Callable[[sqlite3.Connection], T]) -> T:
        """The result of a query that finds a few rows by their keys: on the event loop, since that takes some ten
        microseconds for each and handing it to a thread takes more. Raises as `run` does.
        """
        if self._closed:
            raise _closed()
        return self._run(query)

    async def close(self) -> None:
        """Finishes the queries that were begun, then closes the connections. May be called twice."""
        self._closed = True
        self._room.refuse_waiting(_closed())
        await asyncio.to_thread(self._threads.shutdown)
        while self._connections:
            self._connections.pop().close()

    def _finished(self, job: asyncio.Future[T]) -> None:
        self._room.leave(1)
        self._handoff.answered(1)
        if not job.cancelled():
            job.exception()  # whoever asked has it; if they were cancelled nobody needs it

    def _run(self, query: Callable[[sqlite3.Connection], T]) -> T:
        try:
            return query(self._connection())
        except Exception as error:
            if not is_engine_trouble(error):
                raise
            _log.error("database_failed", database=self._path.name, error=str(error))
            raise engine_down(error) from error

    def _connection(self) -> sqlite3.Connection:
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            connection = open_reader(self._path)
            self._local.connection = connection
            self._connections.append(connection)
        return connection


def _closed() -> Unavailable:
    return Unavailable("The database is closed.", reason="ENGINE_DOWN")
