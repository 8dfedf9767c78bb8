"""One process's view of the mesh: who owns what, and how to call them.

A call goes to the owner of its routing key: through the dispatcher if that is this process, over a relay stream otherwise,
with the same contract. What the ring answers is believed until an owner says otherwise (calls.py).
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Final, Self, TypeVar, cast
from uuid import uuid4

import grpc
from google.protobuf.message import Message
from opentelemetry.trace import SpanKind

from discovery import load
from discovery.calls import Calls, Refresher, Route
from discovery.channels import RoutedChannel
from discovery.choosing import Chooser
from discovery.clock import Clock, SystemClock
from discovery.contract import methods
from discovery.errors import DeadlineExceeded, HitherError, Unavailable, Unimplemented
from discovery.membership import Membership
from discovery.partitions import partition_of
from discovery.registry.port import Instance, InstanceState, Registry
from discovery.ring_metrics import RingMetrics
from discovery.routing import compile_router
from discovery.rpc.call import Call, Caller, Role, find_call
from discovery.rpc.deliver import DeliverStreams
from discovery.rpc.dispatcher import Dispatcher
from discovery.rpc.link import Pace
from discovery.rpc.outlier import Outliers
from discovery.rpc.peers import Peers
from discovery.rpc.requesting import Requesters
from discovery.rpc.stream_metrics import StreamMetrics
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

_ANNOUNCE_PAUSE_S: Final = 1.0
_PARTING_S: Final = 10.0
_LONGEST_PARTING: Final = 6
"""Looks at a peer that has left the registry until its stream is closed although calls to it are open."""


class Mesh:
    """See the module. `async with mesh:` joins the registry and leaves it again; `await mesh.serve()` inside of it offers
    the dispatcher's services to everyone. Of one event loop; the task that enters it must leave it.

    `partitions` is the cluster's. `service_name` is what this process is called when it calls others in its own name, and
    the start of its instance id. `credentials`, or on loopback a `token` of role SERVICE, prove to other processes who calls;
    without either it can only call itself. Where no key decides, calls stay in this process's `zone` (of its `region`).
    `pace` says how patient its streams are.
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
        region: str = "",
        zone: str = "",
        pace: Pace | None = None,
    ) -> None:
        self.partitions = partitions
        self.instance_id = f"{service_name}-{uuid4().hex[:12]}"
        self.dispatcher = dispatcher
        self._identity = Caller(Role.SERVICE, service=service_name)
        self._membership = Membership(registry, partitions, clock or SystemClock(), self._changed)
        self.ring_metrics = RingMetrics(self.instance_id)
        """What this process sees of the mesh; who runs the process shows it in its registry."""
        self._peers = Peers(token, credentials=credentials)
        self.stream_metrics = StreamMetrics()
        """What goes between this process and others; who runs the process shows it in its registry."""
        self._deliver_streams = DeliverStreams(self._peers, self.stream_metrics, pace or Pace())
        self._requesters = Requesters(self._peers, self.stream_metrics, pace or Pace())
        self._refresher = Refresher(self._refresh, self.stream_metrics.calls)
        self._outliers = Outliers()
        self._calls = Calls(
            self,
            dispatcher,
            self._requesters,
            self._refresher,
            outliers=self._outliers,
            chooser=Chooser(zone, region, self._outliers, self._requesters.outstanding),
            numbers=self.stream_metrics.calls,
        )
        self.stream_metrics.gauges.read(
            waiting=lambda: self._requesters.waiting,
            unacknowledged=lambda: self._deliver_streams.unacknowledged,
            ejected=lambda: len(self._outliers),
        )
        self._routes = {spec.path: Route(spec, compile_router(spec, partitions)) for spec in methods().values()}
        self._channel = RoutedChannel(self._call_as_self)
        self._version = version
        self._weight = weight
        self._region = region
        self._zone = zone
        self._load = load.Load()
        self._address = ""
        self._state = InstanceState.SERVING
        self._serving = False
        self._edges: dict[str, DeliverHandler] = {}
        self._owned: dict[str, frozenset[int]] = {}
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
            self._group.create_task(self._part_from_who_left(), name="mesh parting"),
            self._group.create_task(self._tell_load(), name="mesh load"),
        ]
        for owned in (self._deliver_streams, self._requesters, self._refresher):
            owned.own(self._group)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leaves the registry and hangs up. Raises what ended the mesh's own work, if something did."""
        for task in self._tasks:
            task.cancel()
        self._refresher.close()
        self._deliver_streams.close()
        try:
            await self._requesters.close()
        finally:
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
        await self._membership.put_all(InstanceState.DRAINING, self._load.told)

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

        What failed is tried again within the deadline where that can help, as discovery.calls says.
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
            return await self._calls.make(route, request, call)
        with span:
            return await self._calls.make(route, request, Call(method, caller, deadline_s, *span.trace))

    async def _call_as_self(self, method: str, request: Message, timeout_s: float | None) -> Message:
        outer = find_call()
        caller = self._identity
        if outer is not None and outer.caller.user_id:
            caller = Caller(Role.SERVICE, outer.caller.user_id, outer.caller.device_id, caller.service)
        timeout_s = DEFAULT_TIMEOUT_S if timeout_s is None else timeout_s
        return await self.call(method, request, caller=caller, timeout_s=timeout_s)

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

    async def _part_from_who_left(self) -> None:
        """Ends the streams and channels to peers that the registry has not named for a while, unless calls to them are open."""
        gone: dict[str, int] = {}
        gone_edges: dict[tuple[str, str], int] = {}
        while True:
            await asyncio.sleep(_PARTING_S)
            known = {one.address for service in self.view.services.values() for one in service.instances.values()}
            edges = {(one.address, name) for name, one in self.view.of(DELIVER_SERVICE).instances.items()}
            gone = {address: gone.get(address, 0) + 1 for address in self._peers.addresses - known}
            gone_edges = {edge: gone_edges.get(edge, 0) + 1 for edge in self._deliver_streams.edges - edges}
            for edge, looks in gone_edges.items():
                if looks > 1:
                    self._deliver_streams.part(*edge)
            for address, looks in gone.items():
                if looks > _LONGEST_PARTING or (looks > 1 and not self._requesters.outstanding(address)):
                    self._requesters.part(address)
                    self._peers.part(address)

    async def _put(self, service: str, instance_id: str) -> None:
        instance = Instance(
            service=service,
            instance_id=instance_id,
            address=self._address,
            region=self._region,
            zone=self._zone,
            weight=self._weight,
            version=self._version,
            state=self._state,
            load=self._load.told,
            partitions=self.partitions,
        )
        await self._membership.put(instance)

    async def _tell_load(self) -> None:
        """Registers this process's instances anew when it is noticeably more or less busy."""
        while True:
            await asyncio.sleep(load.EVERY_S)
            told = self._load.look(self.dispatcher.load)
            if told is not None and self._serving:
                with suppress(HitherError):  # the next renewal makes up for it
                    await self._membership.put_all(self._state, told)

    def _changed(self) -> None:
        self._owned.clear()
        self.ring_metrics.see(self.view, fenced=self._membership.fenced)
        self._outliers.keep({name for service in self.view.services.values() for name in service.instances})
        self._news.set()
        self._news = asyncio.Event()
