"""One process's view of the mesh: who owns what, and how to call them.

A call goes to the owner of its routing key: through the dispatcher if that is this process, over gRPC otherwise, with
the same contract. What the ring answers is believed until an owner says otherwise.
"""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self, TypeVar, cast
from uuid import uuid4

import grpc
from google.protobuf.message import Message
from opentelemetry.trace import SpanKind

from discovery.channels import RoutedChannel
from discovery.clock import Clock, SystemClock
from discovery.contract import MethodSpec, methods
from discovery.errors import DeadlineExceeded, HitherError, NotOwner, Unavailable, Unimplemented
from discovery.fill import fill
from discovery.membership import Membership
from discovery.partitions import partition_of
from discovery.registry.port import Instance, InstanceState, Registry
from discovery.ring_metrics import RingMetrics
from discovery.routing import Router, compile_router
from discovery.rpc.call import Call, Caller, Role, find_call
from discovery.rpc.deliver import DeliverStreams
from discovery.rpc.dispatcher import Dispatcher
from discovery.rpc.peers import Peers
from discovery.rpc.tls import Credentials
from discovery.rpc.tracing import Traced, begin_trace, open_call_span, surrounding_trace
from discovery.view import View
from hither.edge.v1 import deliver_pb2

T = TypeVar("T")
DeliverHandler = Callable[[deliver_pb2.DeliverBatch], Sequence[int]]
"""Queues the frames of a batch for the connections of an edge; returns the connection ids that are gone."""

DELIVER_SERVICE: Final = "hither.edge.v1.DeliverService"
DEFAULT_TIMEOUT_S: Final = 5.0
"""Deadline of a stub's call that names none, in seconds."""
DELIVER_TIMEOUT_S: Final = 2.0

_OF_EVERY_PROCESS: Final = "hither.mesh."
"""Services of this package are served by every process for itself, so there is nothing to route."""

_ATTEMPTS: Final = 6
_FIRST_BACKOFF_S: Final = 0.02
_NO_OWNER_RETRY_AFTER_S: Final = 1.0
_ANNOUNCE_PAUSE_S: Final = 1.0
_EJECTED_S: Final = 5.0
"""How long an instance that could not be reached is spared the calls that another can answer."""


@dataclass(slots=True)
class _Route:
    spec: MethodSpec
    router: Router | None


class Mesh:
    """See the module. `async with mesh:` joins the registry and leaves it again; `await mesh.serve()` inside of it offers
    the dispatcher's services to everyone. Of one event loop; the task that enters it must leave it.

    `partitions` is the cluster's. `service_name` is what this process is called when it calls others in its own name, and
    the start of its instance id. `credentials`, or on loopback a `token` of role SERVICE, prove to other processes who calls;
    without either it can only call itself.
    """

    def __init__(
        self,
        registry: Registry,
        dispatcher: Dispatcher,
        *,
        partitions: int,
        service_name: str,
        clock: Clock | None = None,
        token: Callable[[], str] | None = None,
        credentials: Credentials | None = None,
        version: str = "",
        weight: int = 100,
    ) -> None:
        self.partitions = partitions
        self.instance_id = f"{service_name}-{uuid4().hex[:12]}"
        self.dispatcher = dispatcher
        self._identity = Caller(Role.SERVICE, service=service_name)
        self._membership = Membership(registry, partitions, clock or SystemClock(), self._changed)
        self.ring_metrics = RingMetrics(self.instance_id)
        """What this process sees of the mesh; who runs the process shows it in its registry."""
        self._peers = Peers(token, credentials=credentials)
        self._deliver_streams = DeliverStreams(self._peers)
        self._routes = {spec.path: _Route(spec, compile_router(spec, partitions)) for spec in methods().values()}
        self._channel = RoutedChannel(self._call_as_self)
        self._version = version
        self._weight = weight
        self._address = ""
        self._state = InstanceState.SERVING
        self._serving = False
        self._edges: dict[str, DeliverHandler] = {}
        self._owned: dict[str, frozenset[int]] = {}
        self._ejected: dict[str, float] = {}
        self._news = asyncio.Event()
        self._group = asyncio.TaskGroup()
        self._tasks: list[asyncio.Task[None]] = []
        dispatcher.guard(self)

    # --- life ---

    async def __aenter__(self) -> Self:
        """Takes a lease (with the instance number) and follows the registry. Raises HitherError if it refuses."""
        await self._membership.join()
        await self._group.__aenter__()
        self._tasks = [
            self._group.create_task(self._membership.keep(), name="mesh lease"),
            self._group.create_task(self._membership.follow(), name="mesh watch"),
        ]
        self._deliver_streams.own(self._group)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leaves the registry and hangs up. Raises what ended the mesh's own work, if something did."""
        for task in self._tasks:
            task.cancel()
        self._deliver_streams.close()
        try:
            await self._group.__aexit__(kind, error, trace)
        finally:
            await self._membership.leave()
            await self._peers.close()

    async def serve(self, address: str = "") -> None:
        """Registers the services of the dispatcher, and the attached edges, as SERVING. `address` (host:port) is where
        this process's gRPC server listens; empty: it can be called from inside only. May be called again.
        """
        self._address = address
        self._serving = True
        self._state = InstanceState.SERVING
        for service in sorted(self.dispatcher.services):
            if service.startswith(_OF_EVERY_PROCESS):
                continue
            await self._put(service, self.instance_id)
        for edge_id in list(self._edges):
            await self._put(DELIVER_SERVICE, edge_id)

    async def drain(self) -> None:
        """Tells everyone that this process takes no new work: it owns nothing from now on. Calls that come are answered
        as before, if they need no owner.
        """
        self._state = InstanceState.DRAINING
        await self._membership.put_all(InstanceState.DRAINING, self.dispatcher.load)

    # --- who owns what ---

    @property
    def instance_number(self) -> int:
        """The number for Snowflakes, 0 to 1023, that no other live process of the cluster has; known once joined."""
        return self._membership.number

    @property
    def view(self) -> View:
        """The mesh as this process sees it now."""
        return self._membership.view

    @property
    def revision(self) -> int:
        """The registry's revision that the ring follows from."""
        return self._membership.view.revision

    def partition_of(self, key: str) -> int:
        """The partition of a key, 0 to `partitions` - 1."""
        return partition_of(key, self.partitions)

    def owns(self, service: str, partition: int) -> bool:
        """Whether this process's instance of the service (full name) owns the partition."""
        return partition in self.owned(service)

    def owned(self, service: str) -> frozenset[int]:
        """The partitions that this process's instance of the service owns."""
        owned = self._owned.get(service)
        if owned is None:
            owned = frozenset() if self._membership.fenced else self.view.of(service).partitions_of(self.instance_id)
            self._owned[service] = owned
        return owned

    async def watch_owned(self, service: str) -> AsyncIterator[frozenset[int]]:
        """What `owned` says: now, and whenever it changes."""
        last = None
        while True:
            news, owned = self._news, self.owned(service)
            if owned != last:
                last = owned
                yield owned
            else:
                await news.wait()

    # --- calls ---

    def stub(self, make: Callable[[grpc.aio.Channel], T]) -> T:
        """A generated stub whose unary calls are routed: `mesh.stub(MessagingServiceStub).SendMessage(request, timeout=1.0)`.

        The caller is this process, on behalf of the user of the current call. The deadline is the timeout (5 s by
        default), or the current call's if that is nearer. Raises HitherError only.
        """
        return make(cast(grpc.aio.Channel, self._channel))

    async def call(self, method: str, request: Message, *, caller: Caller, timeout_s: float) -> Message:
        """A routed call of "/package.Service/Method" in a client's name. Fills the request in place. Raises HitherError.

        NOT_OWNER is answered by reading the registry and trying again, an unavailable owner by trying again if the method
        is idempotent; both with growing, jittered pauses within the deadline, six times at most.
        """
        route = self._routes.get(method)
        if route is None:
            raise Unimplemented(f"the contract has no method {method}", reason="UNKNOWN_TYPE")
        outer = find_call()
        deadline_s = time.monotonic() + timeout_s
        if outer is not None:
            deadline_s = min(deadline_s, outer.deadline_s)
        place: Traced = outer or surrounding_trace() or begin_trace()
        span = open_call_span(method, SpanKind.CLIENT, place) if place.sampled else None
        if span is None:
            call = Call(method, caller, deadline_s, place.trace_id, place.span_id, place.sampled)
            return await self._persist(route, request, call)
        with span:
            return await self._persist(route, request, Call(method, caller, deadline_s, *span.trace))

    async def _persist(self, route: _Route, request: Message, call: Call) -> Message:
        attempt = 0
        while True:
            attempt += 1
            try:
                return await self._attempt(route, request, call)
            except NotOwner as error:
                moved = Unavailable(error.message, reason="NO_OWNER", retry_after_s=_NO_OWNER_RETRY_AFTER_S)
                await self._pause(attempt, call, moved)
                await self._refresh()
            except Unavailable as error:
                if not _worth_repeating(route.spec, error):
                    raise
                await self._pause(attempt, call, error)

    async def _call_as_self(self, method: str, request: Message, timeout_s: float | None) -> Message:
        outer = find_call()
        caller = self._identity
        if outer is not None and outer.caller.user_id:
            caller = Caller(Role.SERVICE, outer.caller.user_id, outer.caller.device_id, caller.service)
        timeout_s = DEFAULT_TIMEOUT_S if timeout_s is None else timeout_s
        return await self.call(method, request, caller=caller, timeout_s=timeout_s)

    async def _attempt(self, route: _Route, request: Message, call: Call) -> Message:
        owner = self._owner(route, request, call.caller)
        if owner.instance_id == self.instance_id:
            return await self.dispatcher.dispatch(route.spec.path, request, call)
        if not owner.address:
            raise Unavailable("the owner cannot be reached from another process", reason="NO_OWNER")
        try:
            return await self._peers.call(owner.address, route.spec, request, call)
        except Unavailable as error:
            if error.reason == "OUTCOME_UNKNOWN":
                self._ejected[owner.instance_id] = time.monotonic() + _EJECTED_S
            raise

    def _owner(self, route: _Route, request: Message, caller: Caller) -> Instance:
        partition = None
        if route.router is not None:
            partition = route.router(request)
            if partition is None:
                fill(request, caller)
                partition = route.router(request)
        service = self.view.of(route.spec.service)
        if partition is not None and service.owners:
            return service.owners[partition]
        if not service.serving:
            raise NotOwner("nobody serves this now", revision=self.revision)
        local = service.instances.get(self.instance_id)
        if local is not None and local.state is InstanceState.SERVING:
            return local
        now_s = time.monotonic()
        fit = [peer for peer in service.serving if self._ejected.get(peer.instance_id, 0.0) <= now_s]
        return random.choice(fit or service.serving)  # noqa: S311 (spreads load, guards nothing)

    async def _pause(self, attempt: int, call: Call, error: HitherError) -> None:
        """Waits before the next attempt. Raises the error if there is to be none."""
        pause_s = _FIRST_BACKOFF_S * 2 ** (attempt - 1) * random.uniform(0.5, 1.0)  # noqa: S311
        if attempt >= _ATTEMPTS or pause_s >= call.remaining_s():
            raise error
        self.dispatcher.metrics.retries += 1
        await asyncio.sleep(pause_s)

    async def _refresh(self) -> None:
        # Without the registry the last snapshot goes on routing.
        with suppress(HitherError):
            await self._membership.refresh()

    # --- edges ---

    def attach_edge(self, edge_id: str, handler: DeliverHandler) -> None:
        """Makes this process the edge of that id: batches for it go to `handler`, which must not block. Others find it once
        this process serves.
        """
        self._edges[edge_id] = handler
        if self._serving:
            self._group.create_task(self._announce(edge_id), name="mesh edge")

    def detach_edge(self, edge_id: str) -> None:
        """The edge is gone: batches for it are refused from now on."""
        self._edges.pop(edge_id, None)

    @property
    def edges(self) -> dict[str, DeliverHandler]:
        """The edges of this process, by id."""
        return self._edges

    async def deliver(self, edge_id: str, batch: deliver_pb2.DeliverBatch) -> Sequence[int]:
        """Brings a batch to an edge; returns the connection ids that are gone. The `seq` of the batch is the mesh's to
        give. Raises Unavailable if the edge is not known or cannot be reached, DeadlineExceeded after 2 s.
        """
        handler = self._edges.get(edge_id)
        if handler is not None:
            return handler(batch)
        edge = self.view.of(DELIVER_SERVICE).instances.get(edge_id)
        if edge is None or not edge.address:
            raise Unavailable(f"no edge {edge_id}", reason="NO_OWNER")
        try:
            async with asyncio.timeout(DELIVER_TIMEOUT_S):
                return await self._deliver_streams.deliver(edge.address, edge_id, batch)
        except TimeoutError:
            raise DeadlineExceeded(f"edge {edge_id} did not take the batch in time") from None

    # --- inside ---

    async def _announce(self, edge_id: str) -> None:
        """Registers an edge that came late, as soon as the registry takes it."""
        while edge_id in self._edges:
            with suppress(HitherError):
                await self._put(DELIVER_SERVICE, edge_id)
                return
            await asyncio.sleep(_ANNOUNCE_PAUSE_S)

    async def _put(self, service: str, instance_id: str) -> None:
        instance = Instance(
            service=service,
            instance_id=instance_id,
            address=self._address,
            weight=self._weight,
            version=self._version,
            state=self._state,
            load=self.dispatcher.load,
        )
        await self._membership.put(instance)

    def _changed(self) -> None:
        self._owned.clear()
        self.ring_metrics.see(self.view, fenced=self._membership.fenced)
        known = {name for service in self.view.services.values() for name in service.instances}
        self._ejected = {name: until_s for name, until_s in self._ejected.items() if name in known}
        self._news.set()
        self._news = asyncio.Event()


def _worth_repeating(spec: MethodSpec, error: Unavailable) -> bool:
    # An engine that is away stays away for longer than our pauses last; its adapter tries again by itself.
    return spec.idempotent and error.reason != "ENGINE_DOWN"
