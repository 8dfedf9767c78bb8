"""The serving end between processes: a gRPC server over a dispatcher.

A service author gets health, reflection, status, relay and metrics with it without writing a line. It decodes, says
who calls until when, and encodes; all decisions are the dispatcher's.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self

import grpc
import structlog
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from grpc_status import rpc_status

from discovery.contract import methods
from discovery.errors import HitherError, Internal, Unavailable
from discovery.mesh import DELIVER_SERVICE, DeliverHandler, Mesh
from discovery.registry.port import Registry
from discovery.rpc.call import Call, Caller, Role
from discovery.rpc.deliver import EDGE_KEY
from discovery.rpc.dispatcher import Dispatcher, check_access
from discovery.rpc.identity import TRACEPARENT, Peer, authenticate, identify
from discovery.rpc.link import SESSION_KEY
from discovery.rpc.peers import MAX_MESSAGE_BYTES
from discovery.rpc.registry_servicer import REGISTRY_SERVICE, WATCH, RegistryServicer
from discovery.rpc.relay import RelaySession
from discovery.rpc.sessions import Sessions
from discovery.rpc.status import to_status
from discovery.rpc.status_servicer import STATUS_SERVICE, StatusServicer
from discovery.rpc.taking import TakingSession
from discovery.rpc.tls import Credentials, TlsError, is_local
from discovery.rpc.tokens import TokenVerifier
from discovery.rpc.tracing import new_trace_id, received_trace
from hither.edge.v1 import deliver_pb2

RELAY_SERVICE: Final = "hither.mesh.v1.RelayService"
RELAY_KEEP_S: Final = 10.0
"""How long a session of relayed calls is kept without a stream; what runs in it is cancelled then."""
DELIVER_KEEP_S: Final = 30.0
"""How long an edge remembers what a sender without a stream has brought."""
MAX_STREAMLESS_SESSIONS: Final = 256
"""Of each kind."""
MAX_TIMEOUT_S: Final = 600.0
"""The longest deadline that a call gets, and the one of a call that came without."""

_HEALTH: Final = "grpc.health.v1.Health"
_DELIVER: Final = f"/{DELIVER_SERVICE}/Deliver"
_RELAY: Final = f"/{RELAY_SERVICE}/Exchange"
_OPTIONS: Final = (
    ("grpc.so_reuseport", 0),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 5_000),
)

log = structlog.get_logger(__name__)

_SETTLE_S: Final = 1.0

_Context = grpc.aio.ServicerContext[bytes, bytes]


class RpcServer:
    """`async with RpcServer(mesh, verifier, "127.0.0.1:0") as server:` listens; leaving it hangs up at once, so `drain`
    before. Services must have been added to the mesh's dispatcher, for reflection to show them. `address` is host:port, or
    unix:path. With `credentials` it speaks mTLS and nothing else; the certificate says who calls. Without a verifier there are
    no tokens: who has no certificate is anonymous. A `registry` that this process holds is served to the other processes of
    the machine.

    TlsError (a ValueError) for an address that is not loopback without credentials, and for those of an operator; RuntimeError
    if the port is taken.
    """

    def __init__(
        self,
        mesh: Mesh,
        verifier: TokenVerifier | None,
        address: str = "127.0.0.1:0",
        *,
        credentials: Credentials | None = None,
        registry: Registry | None = None,
    ) -> None:
        if credentials is None and not is_local(address):
            raise TlsError(f"{address} is not loopback: gRPC needs ca, cert and key of [tls] there")
        if credentials is not None and credentials.name.role is not Role.SERVICE:
            raise TlsError(f"{credentials.name.uri} is an operator; a server is a service")
        self._mesh = mesh
        self._dispatcher = mesh.dispatcher
        self._door = _Door(verifier, credentials)
        self._credentials = credentials
        self._wanted = address
        self._registry = RegistryServicer(registry) if registry else None
        self._streams = _Streams(mesh, self._door)
        self._health = health.aio.HealthServicer()
        self._server = grpc.aio.server(options=_OPTIONS)
        self._retired = False
        self.port = 0
        """The port it listens on, once entered; nothing that counts for a unix socket."""
        if STATUS_SERVICE not in self._dispatcher.services:
            cluster = verifier.cluster if verifier else ""
            self._dispatcher.add(StatusServicer(mesh, cluster), STATUS_SERVICE)
        if self._registry is not None:
            self._dispatcher.add(self._registry, REGISTRY_SERVICE)

    @property
    def address(self) -> str:
        """Where it listens, as host:port or unix:path."""
        return self._wanted if self._wanted.startswith("unix:") else f"{self._wanted.rpartition(':')[0]}:{self.port}"

    async def __aenter__(self) -> Self:
        """Listens."""
        handlers = _Handlers(self._dispatcher, self._door, self._streams, self._registry)
        self._server.add_generic_rpc_handlers((handlers,))
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        services = [*sorted(self._dispatcher.services), RELAY_SERVICE, DELIVER_SERVICE]
        reflection.enable_server_reflection([*services, _HEALTH, reflection.SERVICE_NAME], self._server)
        if self._credentials is None:
            self.port = self._server.add_insecure_port(self._wanted)
        else:
            self.port = self._server.add_secure_port(self._wanted, self._credentials.server())
        await self._streams.__aenter__()
        await self._server.start()
        for service in ("", *services):
            await self._health.set(service, health_pb2.HealthCheckResponse.SERVING)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Hangs up."""
        try:
            await self._server.stop(grace=0)
        finally:
            await self._streams.__aexit__(kind, error, trace)

    async def retire(self) -> None:
        """Begins to end: health says NOT_SERVING, and the mesh sends new work elsewhere. What comes is still answered. May be
        called twice.
        """
        if self._retired:
            return
        self._retired = True
        await self._health.enter_graceful_shutdown()
        try:
            await self._mesh.drain()
        except HitherError as failed:
            log.warning("the registry does not know of the drain", reason=failed.reason)

    async def drain(self, grace_s: float) -> None:
        """Ends gracefully: retires, lets what runs go on for `grace_s` seconds, then hangs up."""
        await self.retire()
        self._streams.drain()
        if self._registry is not None:
            self._registry.drain()
        await self._server.stop(grace=grace_s)


@dataclass(frozen=True, slots=True)
class _Door:
    """Says who comes in, by certificate and token."""

    verifier: TokenVerifier | None
    credentials: Credentials | None

    def peer(self, context: _Context) -> Peer:
        """The other end of the call. Raises Unauthenticated, PermissionDenied."""
        return identify(_metadata(context), self.verifier, self._certified(context))

    def caller(self, context: _Context) -> Caller:
        """The peer, or in whose name it calls. Raises Unauthenticated, PermissionDenied."""
        return authenticate(_metadata(context), self.verifier, self._certified(context))

    def _certified(self, context: _Context) -> Caller | None:
        return None if self.credentials is None else self.credentials.caller_of(context.auth_context())


class _Handlers(grpc.GenericRpcHandler):
    """Finds the handler of a method. Messages are decoded behind it, so that a malformed one gets a typed answer."""

    def __init__(
        self, dispatcher: Dispatcher, door: _Door, streams: "_Streams", registry: RegistryServicer | None
    ) -> None:
        self._dispatcher = dispatcher
        self._door = door
        self._handlers: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {
            _RELAY: grpc.stream_stream_rpc_method_handler(streams.exchange),
            _DELIVER: grpc.stream_stream_rpc_method_handler(streams.deliver),
        }
        if registry is not None:
            self._handlers[WATCH] = grpc.stream_stream_rpc_method_handler(self._watch(registry))

    def service(self, details: grpc.HandlerCallDetails) -> "grpc.RpcMethodHandler[bytes, bytes] | None":
        """Called by gRPC for every call."""
        handler = self._handlers.get(details.method)
        if handler is None and self._dispatcher.find(details.method):
            unary = self._unary(details.method)
            handler = self._handlers[details.method] = grpc.unary_unary_rpc_method_handler(unary)
        return handler

    def _unary(self, method: str) -> Callable[[bytes, _Context], Awaitable[bytes]]:
        async def handle(payload: bytes, context: _Context) -> bytes:
            try:
                call = _call(method, context, self._door)
                return await self._dispatcher.dispatch_bytes(method, payload, call)
            except HitherError as error:
                return await _abort(context, error)

        return handle

    def _watch(self, registry: RegistryServicer) -> Callable[[AsyncIterator[bytes], _Context], Awaitable[None]]:
        # As if requests came in a stream: so who calls is checked before the one that does is waited for. It says nothing.
        async def handle(requests: AsyncIterator[bytes], context: _Context) -> None:
            try:
                check_access(methods()[WATCH], _call(WATCH, context, self._door).caller)
                await registry.WatchSnapshots(requests, context)
            except HitherError as error:
                await _abort(context, error)

        return handle


class _Streams:
    """The streams that a process serves beside its unary methods, and the sessions that outlive them."""

    def __init__(self, mesh: Mesh, door: _Door) -> None:
        self._mesh = mesh
        self._door = door
        self._draining = asyncio.Event()
        self._group = asyncio.TaskGroup()
        metrics = mesh.stream_metrics
        self._relays = Sessions(
            self._new_relay, keep_s=RELAY_KEEP_S, most=MAX_STREAMLESS_SESSIONS, numbers=metrics.relay_in
        )
        self._takings = Sessions(
            self._new_taking, keep_s=DELIVER_KEEP_S, most=MAX_STREAMLESS_SESSIONS, numbers=metrics.deliver_in
        )

    async def __aenter__(self) -> Self:
        await self._group.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Cancels what is still open."""
        self._relays.close()
        self._takings.close()
        # What ended the block is not the tasks' doing: it goes on as it is.
        await self._group.__aexit__(None, None, None)

    def drain(self) -> None:
        """Ends the streams: the relayed calls that run are answered, batches for an edge are taken no more."""
        self._draining.set()
        for session in self._relays.all:
            session.drain()

    async def exchange(self, requests: AsyncIterator[bytes], context: _Context) -> None:
        """RelayService.Exchange."""
        write = _Writing(context)
        try:
            peer = self._door.peer(context)
            check_access(methods()[_RELAY], peer.caller)
            with self._relays.attached(_text(dict(_metadata(context)).get(SESSION_KEY)), peer) as session:
                if self._draining.is_set():
                    session.drain()
                await session.serve(requests, write)
        except HitherError as error:
            await write.settled()
            await _abort(context, error)

    async def deliver(self, requests: AsyncIterator[bytes], context: _Context) -> None:
        """DeliverService.Deliver."""
        write = _Writing(context)
        try:
            peer = self._door.peer(context)
            check_access(methods()[_DELIVER], peer.caller)
            metadata = dict(_metadata(context))
            edge_id = _text(metadata.get(EDGE_KEY))
            with self._takings.attached(_text(metadata.get(SESSION_KEY)), peer) as session:
                await session.serve(edge_id, requests, write, self._draining)
        except HitherError as error:
            await write.settled()
            await _abort(context, error)

    def _new_relay(self, session_id: str, peer: Peer) -> RelaySession:
        return RelaySession(
            self._mesh.dispatcher,
            self._group,
            peer=peer,
            session_id=session_id,
            numbers=self._mesh.stream_metrics.relay_in,
        )

    def _new_taking(self, session_id: str, peer: Peer) -> TakingSession:
        return TakingSession(session_id, peer, self._hand_over, self._mesh.stream_metrics.deliver_in)

    def _hand_over(self, edge_id: str, batch: deliver_pb2.DeliverBatch) -> list[int]:
        edges = self._mesh.edges
        handler: DeliverHandler | None = edges.get(edge_id)
        if handler is None:
            raise Unavailable(f"no edge {edge_id} here", reason="NO_OWNER")
        try:
            return list(handler(batch))
        except Exception:
            trace_id = new_trace_id()
            log.exception("an edge failed to take a batch", edge_id=edge_id, trace_id=trace_id)
            raise Internal(f"internal error, trace {trace_id}") from None


class _Writing:
    """Writes to a stream. A write whose caller is cancelled goes on: gRPC cannot end a stream with a status while a message is
    on its way.
    """

    def __init__(self, context: _Context) -> None:
        self._context = context
        self._under_way: asyncio.Future[None] | None = None

    async def __call__(self, message: bytes) -> None:
        """Returns when the transport has taken the message."""
        writing = self._under_way = asyncio.ensure_future(self._context.write(message))
        try:
            await asyncio.shield(writing)
        except asyncio.CancelledError:
            writing.add_done_callback(_look_at)  # of a stream that broke nobody wants to hear any more
            raise

    async def settled(self) -> None:
        """Returns when nothing is on its way; after a second at the latest, since a peer may have stopped to read."""
        if self._under_way is not None:
            await asyncio.wait((self._under_way,), timeout=_SETTLE_S)


def _look_at(done: asyncio.Future[None]) -> None:
    if not done.cancelled():
        done.exception()


def _metadata(context: _Context) -> tuple[tuple[str, str | bytes], ...]:
    return tuple(context.invocation_metadata() or ())


def _call(method: str, context: _Context, door: _Door) -> Call:
    remaining_s = context.time_remaining()
    timeout_s = MAX_TIMEOUT_S if remaining_s is None else min(remaining_s, MAX_TIMEOUT_S)
    trace = received_trace(dict(_metadata(context)).get(TRACEPARENT))
    return Call(method, door.caller(context), time.monotonic() + timeout_s, *trace)


async def _abort(context: _Context, error: HitherError) -> bytes:
    """Ends the call with the error's status. Does not return."""
    await context.abort_with_status(rpc_status.to_status(to_status(error)))
    raise AssertionError("abort_with_status returned")


def _text(value: str | bytes | None) -> str:
    return value.decode("ascii", "replace") if isinstance(value, bytes) else value or ""
