"""The driver, for one event loop: statements go out without blocking it, and answers come back to it.

Everything is read and written at LOCAL_QUORUM. Every statement is idempotent, so that whoever hears Unavailable may repeat it. Knows
no table, and lets none of the driver's errors out.
"""

import asyncio
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Self, TypeVar

import structlog
from cassandra import (
    AuthenticationFailed,
    ConsistencyLevel,
    DriverException,
    OperationTimedOut,
    RequestExecutionException,
    UnresolvableContactPoints,
)
from cassandra.auth import PlainTextAuthProvider
from cassandra.cluster import (
    EXEC_PROFILE_DEFAULT,
    Cluster,
    ExecutionProfile,
    NoHostAvailable,
    Session,
)
from cassandra.connection import ConnectionBusy, ConnectionException
from cassandra.policies import DCAwareRoundRobinPolicy, ExponentialReconnectionPolicy, TokenAwarePolicy
from cassandra.pool import NoConnectionsAvailable
from cassandra.protocol import ErrorMessage, ServerError
from cassandra.protocol import RequestExecutionException as ServerRequestExecutionException
from cassandra.query import BatchStatement, BatchType, BoundStatement, PreparedStatement, tuple_factory

from discovery.errors import Internal, Unavailable
from services.storage.access import Access, AccessRefused
from services.storage.cassandra.connection import LoopConnection, NotBelieved

_log = structlog.get_logger(__name__)
Result = TypeVar("Result")
Row = tuple[Any, ...]

_REQUEST_S = 4.0
"""A statement's deadline. The server's own are shorter, by default 2 s for a write: its answer says more than silence."""
_CONNECT_S = 5.0
_CLOSE_S = 3 * _REQUEST_S
_HEARTBEAT_S = 5.0
_RECONNECT_MIN_S = 0.2
_RECONNECT_MAX_S = 1.0
_MOST_REQUESTS = 256
"""Statements that are underway; more wait for their turn, in order."""

_AWAY = (
    NoHostAvailable,
    NoConnectionsAvailable,
    ConnectionException,
    ConnectionBusy,
    OperationTimedOut,
    OSError,
    RequestExecutionException,  # what a coordinator says of replicas: too few, too slow, failing
    ServerRequestExecutionException,
    ServerError,
    UnresolvableContactPoints,
)

# Several partitions share a request as long as the server does not warn of it: it does so above 10 partitions or 5 KiB.
_MOST_PARTITIONS = 10
_MOST_SHARED_BYTES = 4000


Statement = tuple[PreparedStatement, tuple[object, ...]]
"""A prepared statement and its values."""


@dataclass(frozen=True, slots=True)
class PartitionWrite:
    """Statements that write to one partition of one table, and how many bytes, about. They are applied all at once or not at all."""

    statements: Sequence[Statement]
    size_bytes: int


class Engine:
    """A connected cluster. Use it on the event loop that it was opened on."""

    def __init__(self, cluster: Cluster, session: Session) -> None:
        self._cluster = cluster
        self._session = session
        self._loop = asyncio.get_running_loop()
        self._slots = asyncio.Semaphore(_MOST_REQUESTS)
        self._thread_id = threading.get_ident()
        self._working = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._closing = False

    @classmethod
    async def open(cls, contact_points: Sequence[str], port: int, datacenter: str | None, access: Access) -> Self:
        """Connects. `datacenter` is whose nodes are used; None: that of the first contact point. Raises Unavailable, and
        AccessRefused.
        """
        connections = LoopConnection.on(asyncio.get_running_loop())
        cluster = Cluster(
            list(contact_points),
            port=port,
            # Version 5 adds checksums that the driver computes in Python.
            protocol_version=4,
            connection_class=connections,
            ssl_context=access.tls,
            auth_provider=PlainTextAuthProvider(access.user, access.password) if access.user else None,
            compression=False,
            # Without it, what takes more than one packet waits 40 ms for the server's delayed acknowledgement.
            sockopts=[(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)],
            execution_profiles={
                EXEC_PROFILE_DEFAULT: ExecutionProfile(
                    load_balancing_policy=TokenAwarePolicy(DCAwareRoundRobinPolicy(datacenter or "")),
                    consistency_level=ConsistencyLevel.LOCAL_QUORUM,
                    serial_consistency_level=ConsistencyLevel.LOCAL_SERIAL,
                    request_timeout=_REQUEST_S,
                    row_factory=tuple_factory,
                )
            },
            reconnection_policy=ExponentialReconnectionPolicy(_RECONNECT_MIN_S, _RECONNECT_MAX_S, None),
            connect_timeout=_CONNECT_S,
            control_connection_timeout=_REQUEST_S,
            idle_heartbeat_interval=_HEARTBEAT_S,
            idle_heartbeat_timeout=_HEARTBEAT_S,
        )
        try:
            session = await asyncio.to_thread(_translated, lambda: _let_in(cluster))
        except BaseException:
            await asyncio.shield(asyncio.to_thread(cluster.shutdown))
            raise
        connections.was_let_in = True
        return cls(cluster, session)

    async def run_blocking(self, work: Callable[[Session], Result]) -> Result:
        """What is done once, at opening, in a thread. Raises as execute does."""
        return await asyncio.to_thread(_translated, lambda: work(self._session))

    @contextmanager
    def working(self) -> Iterator[None]:
        """Around each operation: close() waits for its end. Raises Unavailable after that."""
        if self._closing:
            raise Unavailable("The store is closed.")
        self._working += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._working -= 1
            if not self._working:
                self._idle.set()

    async def execute(self, prepared: PreparedStatement, values: tuple[object, ...]) -> list[Row]:
        """Runs a statement; gives its rows, all on one page. Raises Unavailable (its effect is then not known), or Internal."""
        return (await self._run([_bind(prepared, values)]))[0]

    async def execute_all(self, statements: Sequence[Statement]) -> list[list[Row]]:
        """Runs statements at the same time; gives their rows. Raises, as execute does, when all of them have ended."""
        return await self._run([_bind(prepared, values) for prepared, values in statements])

    async def write(self, writes: Sequence[PartitionWrite]) -> None:
        """Writes to different partitions at the same time. Raises, as execute does, when all of them have ended."""
        await self._run([_join(shared) for shared in _share(writes)])

    async def close(self) -> None:
        """Waits for the operations that were begun, each of which has its deadline, then disconnects. May be called twice."""
        self._closing = True
        try:
            async with asyncio.timeout(_CLOSE_S):
                await self._idle.wait()
        except TimeoutError:
            _log.warning("cassandra.closed_while_working", operations=self._working)
        await asyncio.to_thread(self._cluster.shutdown)

    async def _run(self, statements: Sequence[BoundStatement | BatchStatement]) -> list[list[Row]]:
        futures: list[asyncio.Future[list[Row]]] = []
        try:
            for statement in statements:
                await self._slots.acquire()
                futures.append(self._send(statement))
        except BaseException:
            for future in futures:
                future.cancel()
            raise
        if len(futures) == 1:
            return [await futures[0]]
        results = await asyncio.gather(*futures, return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result
        return results  # type: ignore[return-value] # no exception is left among them

    def _send(self, statement: BoundStatement | BatchStatement) -> "asyncio.Future[list[Row]]":
        future: asyncio.Future[list[Row]] = self._loop.create_future()
        try:
            response = self._session.execute_async(statement)
        except Exception as error:  # noqa: BLE001 - handed to who awaits
            self._answered(None, future, error)
        else:
            response.add_callbacks(self._answered, self._failed, callback_args=(future, None), errback_args=(future,))
        return future

    def _failed(self, error: Exception, future: "asyncio.Future[list[Row]]") -> None:
        self._answered(None, future, error)

    def _answered(self, rows: list[Row] | None, future: "asyncio.Future[list[Row]]", error: Exception | None) -> None:
        """Called by the driver: in the loop by its connections, elsewhere by its threads."""
        if threading.get_ident() == self._thread_id:
            self._settle(rows, future, error)
        else:
            self._loop.call_soon_threadsafe(self._settle, rows, future, error)

    def _settle(self, rows: list[Row] | None, future: "asyncio.Future[list[Row]]", error: Exception | None) -> None:
        self._slots.release()
        if future.done():
            return
        if error is None:
            future.set_result(rows or [])
        else:
            future.set_exception(_translate(error))


def _bind(prepared: PreparedStatement, values: tuple[object, ...]) -> BoundStatement:
    return prepared.bind(values)


def _share(writes: Sequence[PartitionWrite]) -> Iterator[list[PartitionWrite]]:
    """Groups of writes that may go in one request."""
    shared: list[PartitionWrite] = []
    size_bytes = 0
    for write in writes:
        if shared and (len(shared) == _MOST_PARTITIONS or size_bytes + write.size_bytes > _MOST_SHARED_BYTES):
            yield shared
            shared, size_bytes = [], 0
        shared.append(write)
        size_bytes += write.size_bytes
    if shared:
        yield shared


def _join(writes: Sequence[PartitionWrite]) -> BoundStatement | BatchStatement:
    """One request. Unlogged: what goes to one partition is one mutation in any case, and partitions need not agree."""
    if len(writes) == 1 and len(writes[0].statements) == 1:
        return _bind(*writes[0].statements[0])
    batch = BatchStatement(BatchType.UNLOGGED)
    for write in writes:
        for prepared, values in write.statements:
            batch.add(prepared, values)
    return batch


def _let_in(cluster: Cluster) -> Session:
    try:
        return cluster.connect()
    except NoHostAvailable as error:
        for cause in error.errors.values() if isinstance(error.errors, dict) else ():
            if isinstance(cause, NotBelieved):
                raise AccessRefused(f"Cassandra's certificate is not believed: {cause}.") from error
            if isinstance(cause, AuthenticationFailed):
                raise AccessRefused("Cassandra refuses the user or the password.") from error
        raise


def _translated(work: Callable[[], Result]) -> Result:
    try:
        return work()
    except Exception as error:
        raise _translate(error) from error


def _translate(error: Exception) -> Exception:
    """The domain's error for one of the driver's; any other is itself."""
    if isinstance(error, _AWAY):
        away = Unavailable("Cassandra does not answer.")
        away.__cause__ = error
        return away
    if isinstance(error, DriverException | ErrorMessage):
        _log.error("cassandra.refused", error=repr(error))
        return Internal("Cassandra refused a statement.")
    return error
