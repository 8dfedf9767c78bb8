"""Reads on PostgreSQL's streaming replicas that see every write which returned before, as reads on the primary do.

A read first learns how far the primary's log is on disk (its read index: one question for all reads that wait), and is given to
a replica only after that one, asked on the very connection that will serve, has applied as much of the same history. A replica
that has not within a few milliseconds, or does not answer, is left out for a while, and the primary serves. Nothing here
writes, and nothing here fails a read.

For operators. `?replica=HOST:PORT`, once for each replica, stands in the URL of the primary; user, password and database are the
same. The user must be a member of pg_read_all_stats on the primary, or else no replica is ever used: only so does a replica show
which timeline it follows, and one that missed a failover must not serve. Failover is PostgreSQL's business (Patroni, repmgr, a
managed service): name the primary by an address that follows it (a virtual IP, a proxy, DNS), or name all candidates with
`?host=H1:PORT&host=H2:PORT&target_session_attrs=primary` in place of HOST:PORT. Keep synchronous_commit on: what is not on
disk is not in the read index. A read costs one round trip to the replica more, and a share of one to the primary, so replicas
pay where the primary's CPU is what is scarce or reads are heavy, and cost latency where it is idle.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from itertools import count
from typing import NamedTuple

import asyncpg
import structlog
from sqlalchemy import URL
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from services.storage.sql.failures import FAILURES
from services.storage.sql.metrics import MISSED, READS

_INDEX = """
    SELECT pg_current_wal_flush_lsn() - '0/0'::pg_lsn, left(pg_walfile_name(pg_current_wal_flush_lsn()), 8),
        (SELECT system_identifier FROM pg_control_system())"""
_APPLIED = """
    SELECT pg_last_wal_replay_lsn() - '0/0'::pg_lsn,
        upper(lpad(to_hex((SELECT received_tli FROM pg_stat_wal_receiver)), 8, '0')),
        (SELECT system_identifier FROM pg_control_system())"""
_POLL_S = 0.001

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class ReplicaSettings:
    """A replica has `lag_s` to come as far as a read needs and `answer_s` to answer at all. One that has not is left out for
    `out_base_s`, doubled each time in a row up to `out_most_s`.
    """

    lag_s: float = 0.005
    answer_s: float = 0.25
    out_base_s: float = 0.1
    out_most_s: float = 5.0


class Place(NamedTuple):
    """Where a server is: bytes of log, on a timeline (8 hexadecimal digits) of a cluster. None where it does not say."""

    position: int | None
    timeline: str | None
    cluster: int

    def covers(self, other: "Place") -> bool:
        """Whether everything that is at the other place is at this one too."""
        if self.position is None or other.position is None:
            return False
        same = (self.cluster, self.timeline) == (other.cluster, other.timeline)
        return same and self.position >= other.position


def without_replicas(url: URL) -> tuple[URL, list[URL]]:
    """The primary's URL, and those of the replicas that it names. Raises ValueError for an address that is none."""
    named = url.query.get("replica", ())
    primary = url.difference_update_query(["replica"])
    plain = primary.difference_update_query(["host", "port", "target_session_attrs"])
    return primary, [_at(plain, address) for address in ((named,) if isinstance(named, str) else named)]


def _at(url: URL, address: str) -> URL:
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        raise ValueError(f"a replica is named HOST:PORT, not {address!r}")
    return url.set(host=host.strip("[]"), port=int(port))


class SharedQuestion:
    """Asks for all who wait at once. Nobody gets an answer to a question that was asked before they came."""

    def __init__(self, ask: Callable[[], Awaitable[Place]]) -> None:
        self._ask = ask
        self._asking: asyncio.Task[Place] | None = None
        self._next: asyncio.Task[Place] | None = None

    async def answer(self) -> Place:
        """The answer to a question that is asked from now on. Raises what asking raises."""
        if self._next is None:
            self._next = asyncio.create_task(self._after(self._asking))
        return await asyncio.shield(self._next)

    async def close(self) -> None:
        """Cancels what is being asked, and returns when it has ended."""
        tasks = [task for task in (self._asking, self._next) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _after(self, before: asyncio.Task[Place] | None) -> Place:
        if before is not None:
            await asyncio.wait([before])
        self._asking, self._next = self._next, None
        return await self._ask()


class Replica:
    """One replica, and whether it is left out now."""

    def __init__(self, name: str, engine: AsyncEngine, settings: ReplicaSettings) -> None:
        self.name = name
        self.engine = engine
        self._settings = settings
        self._misses = 0
        self._out_until_s = 0.0

    def is_in(self, now_s: float) -> bool:
        """Whether it may be asked."""
        return now_s >= self._out_until_s

    def miss(self, why: str, now_s: float) -> None:
        """Leaves it out for a while. Reads that miss it together count as one in the row."""
        MISSED.labels(self.name, why).inc()
        if not self.is_in(now_s):
            return
        if self._misses == 0:
            log.warning("a replica is left out", replica=self.name, why=why)
        out_s = min(self._settings.out_base_s * 2.0 ** min(self._misses, 30), self._settings.out_most_s)
        self._misses += 1
        self._out_until_s = now_s + out_s

    def serve(self) -> None:
        """Takes it in again."""
        if self._misses:
            log.info("a replica serves again", replica=self.name)
        self._misses = 0


class Replicas:
    """The replicas of a primary, which `primary` connects to for the sake of its read index only."""

    def __init__(self, primary: AsyncEngine, replicas: list[Replica], settings: ReplicaSettings) -> None:
        self._primary = primary
        self._replicas = replicas
        self._settings = settings
        self._index = SharedQuestion(self._ask_primary)
        self._turns = count()

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[AsyncConnection | None]:
        """A connection to a replica that has all that was written before, in no transaction yet; None if there is none."""
        async with AsyncExitStack() as stack:
            found = await self._find(stack)
            READS.labels("primary" if found is None else "replica").inc()
            yield found

    async def close(self) -> None:
        """Lets all connections go, those of `primary` too."""
        await self._index.close()
        await self._primary.dispose()
        for replica in self._replicas:
            await replica.engine.dispose()

    async def _find(self, stack: AsyncExitStack) -> AsyncConnection | None:
        now_s = asyncio.get_running_loop().time()
        present = [replica for replica in self._replicas if replica.is_in(now_s)]
        if not present:
            return None
        replica = present[next(self._turns) % len(present)]
        try:
            index = await self._index.answer()
        except FAILURES as error:
            # The primary says so itself when it is asked for the read.
            log.debug("the primary does not tell how far it is", error=type(error).__name__)
            return None
        return await self._caught_up(stack, replica, index)

    async def _caught_up(self, stack: AsyncExitStack, replica: Replica, index: Place) -> AsyncConnection | None:
        time_s = asyncio.get_running_loop().time
        async with AsyncExitStack() as own:
            try:
                async with asyncio.timeout(self._settings.answer_s):
                    connection = await own.enter_async_context(replica.engine.connect())
                    reached = await self._await_place(connection, index)
            except FAILURES as error:
                log.debug("a replica does not answer", replica=replica.name, error=type(error).__name__)
                replica.miss("away", time_s())
                return None
            if not reached:
                replica.miss("behind", time_s())
                return None
            replica.serve()
            stack.push_async_exit(own.pop_all())
            return connection

    async def _await_place(self, connection: AsyncConnection, index: Place) -> bool:
        time_s = asyncio.get_running_loop().time
        end_s = time_s() + self._settings.lag_s
        while not (await _ask(connection, _APPLIED)).covers(index):
            if time_s() >= end_s:
                return False
            await asyncio.sleep(_POLL_S)
        return True

    async def _ask_primary(self) -> Place:
        async with asyncio.timeout(self._settings.answer_s), self._primary.connect() as connection:
            return await _ask(connection, _INDEX)


async def _ask(connection: AsyncConnection, question: str) -> Place:
    """Asks the driver itself, outside of any transaction: the snapshot of the read must be newer than the answer."""
    raw = await connection.get_raw_connection()
    driver: asyncpg.Connection = raw.driver_connection
    try:
        row = await driver.fetchrow(question)
    except BaseException:
        driver.terminate()  # else it would wait for the answer when it goes back
        raise
    position, timeline, cluster = row
    return Place(None if position is None else int(position), timeline, cluster)
