"""Telling users who are connected: finds their connections in `sessions` and hands each edge one batch.

What goes this way may be lost (a client heals by its cursor, or the event is of the latest-wins kind), so nothing
here raises for an edge or a registry that is away: the users concerned count as not reached, and the failure is
counted. Order: two calls that are awaited one after the other reach a connection in that order, and so do the
events of one call.
"""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence, Set
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TypeVar

import structlog
from opentelemetry.trace import SpanKind
from prometheus_client import Counter

from discovery.errors import HitherError
from discovery.mesh import Mesh
from discovery.rpc.tracing import MESSAGING_SYSTEM, onward, open_span, read_traceparent
from hither.edge.v1 import deliver_pb2
from hither.sessions.v1 import sessions_pb2, sessions_service_pb2
from hither.sessions.v1.sessions_service_pb2_grpc import SessionsServiceStub

_MOST_USERS_A_LOOKUP = 1000
_MOST_DELIVERIES_A_BATCH = 1024
_LOOKUP_TIMEOUT_S = 1.0
_REMOVE_TIMEOUT_S = 1.0

_failures = Counter("hither_delivery_failures", "Calls that failed while users were told something.", ["step"])
_targets = Counter("hither_delivery_targets", "Events handed to edges, counted for each connection.")
_gone = Counter("hither_delivery_gone", "Connections that an edge said are gone.")
_log = structlog.get_logger("hither.delivery")

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class UserEvent:
    """An event for all live connections of a user.

    `type` is a field of hither.edge.v1.Event and `payload` the serialised message of that field. `pos` is the place in
    the user's inbox, zero if it has none. An event with a `conflation_key` may be replaced by a later one of that key.
    `traceparent` is the W3C trace context that it comes out of, empty if that is not sampled; of equal events for one edge
    the first one's counts. Only the connections of `device_ids` get it, where they are given.
    """

    user_id: str
    type: str
    payload: bytes
    pos: int = 0
    conflation_key: str = ""
    traceparent: str = ""
    device_ids: frozenset[str] | None = None


@dataclass(slots=True)
class _EdgeBatch:
    """What one edge gets, and how it is put together so that no connection sees events out of order."""

    deliveries: list[deliver_pb2.Delivery] = field(default_factory=list)
    places: dict[tuple[str, bytes, str], int] = field(default_factory=dict)
    last_places: dict[int, int] = field(default_factory=dict)
    connections: dict[int, sessions_pb2.Connection] = field(default_factory=dict)

    def add(self, event: UserEvent, connection: sessions_pb2.Connection) -> None:
        """Adds the connection to the event's delivery; to a new one where the old would overtake what it already gets."""
        key = (event.type, event.payload, event.conflation_key)
        number = connection.connection_id
        place = self.places.get(key, -1)
        if place < self.last_places.get(number, 0):
            place = self.places[key] = len(self.deliveries)
            self.deliveries.append(
                deliver_pb2.Delivery(
                    type=event.type,
                    payload=event.payload,
                    conflation_key=event.conflation_key,
                    traceparent=event.traceparent,
                )
            )
        self.deliveries[place].targets.add(connection_id=number, pos=event.pos)
        self.last_places[number] = place
        self.connections[number] = connection

    def split(self, numbers: Set[int]) -> tuple[list[sessions_pb2.Connection], list[sessions_pb2.Connection]]:
        """The connections of these numbers, and the others."""
        chosen = [self.connections[number] for number in numbers if number in self.connections]
        return chosen, [connection for number, connection in self.connections.items() if number not in numbers]


@dataclass(frozen=True, slots=True)
class _Outcome:
    """What became of a batch: the connections that took all of theirs, those that are gone, and those of which nothing is known."""

    taken: Sequence[sessions_pb2.Connection] = ()
    gone: Sequence[sessions_pb2.Connection] = ()
    unsure: Sequence[sessions_pb2.Connection] = ()


class Delivery:
    """Tells connected users something, through the edges that hold their connections. Safe to use from many tasks.

    `unsure` is given the newest event with a place of each user who may be connected and may not have been told: the
    connections could not be looked up, or an edge did not take its batch.
    """

    def __init__(self, mesh: Mesh, unsure: Callable[[UserEvent], None] = lambda _: None) -> None:
        self._mesh = mesh
        self._unsure = unsure
        self._sessions = mesh.stub(SessionsServiceStub)

    async def to_users(self, events: Sequence[UserEvent]) -> frozenset[str]:
        """Hands each event to the live connections of its user; returns the users whom none took.

        An edge that does not answer within 2 s, or a registry within 1 s, counts as none. Never raises HitherError.
        """
        if not events:
            return frozenset()
        users = {event.user_id for event in events}
        connections, unsure = await self._lookup(users)
        reached, gone, unanswered = await self._to_edges(events, connections)
        unsure.update(unanswered)
        if gone:
            await self._forget(gone)
        if unsure:
            newest = {event.user_id: event for event in events if event.pos and event.user_id in unsure}
            for event in newest.values():
                self._unsure(event)
        return frozenset(users - reached)

    async def to_connections(
        self, events: Sequence[UserEvent], connections: Mapping[str, Sequence[sessions_pb2.Connection]]
    ) -> frozenset[str]:
        """As to_users(), for who knows the live connections by user, and learns elsewhere of those that are gone; needs no registry,
        and no device ids unless events have them. `unsure` is not asked.
        """
        reached, _, _ = await self._to_edges(events, connections)
        return frozenset(event.user_id for event in events) - reached

    async def _to_edges(
        self, events: Sequence[UserEvent], connections: Mapping[str, Sequence[sessions_pb2.Connection]]
    ) -> tuple[set[str], list[sessions_pb2.Connection], set[str]]:
        """Who was reached, which connections are gone, and whose edge did not answer."""
        batches: defaultdict[str, _EdgeBatch] = defaultdict(_EdgeBatch)
        for event in events:
            for connection in connections.get(event.user_id, ()):
                if event.device_ids is not None and connection.device_id not in event.device_ids:
                    continue
                batches[connection.edge_id].add(event, connection)
        reached: set[str] = set()
        gone: list[sessions_pb2.Connection] = []
        unanswered: set[str] = set()
        for outcome in await _gather(self._to_edge(edge_id, batch) for edge_id, batch in batches.items()):
            reached.update(connection.user_id for connection in outcome.taken)
            gone.extend(outcome.gone)
            unanswered.update(connection.user_id for connection in outcome.unsure)
        if gone:
            _gone.inc(len(gone))
        return reached, gone, unanswered

    async def evict(self, connection: sessions_pb2.Connection, close_code: int, reason: str) -> None:
        """Has the connection's edge close it. Does nothing if the edge or the connection is gone."""
        eviction = deliver_pb2.Eviction(connection_id=connection.connection_id, close_code=close_code, reason=reason)
        try:
            await self._mesh.deliver(connection.edge_id, deliver_pb2.DeliverBatch(evictions=[eviction]))
        except HitherError as error:
            _failed("evict", error)

    async def _lookup(self, users: Iterable[str]) -> tuple[Mapping[str, list[sessions_pb2.Connection]], set[str]]:
        """The live connections by user, and the users whose connections could not be had."""
        groups: defaultdict[int, list[str]] = defaultdict(list)
        for user_id in users:
            groups[self._mesh.partition_of(user_id)].append(user_id)
        found: defaultdict[str, list[sessions_pb2.Connection]] = defaultdict(list)
        chunks = [
            group[start : start + _MOST_USERS_A_LOOKUP]
            for group in groups.values()
            for start in range(0, len(group), _MOST_USERS_A_LOOKUP)
        ]
        unknown: set[str] = set()
        answers = await _gather(self._lookup_chunk(chunk) for chunk in chunks)
        for chunk, connections in zip(chunks, answers, strict=True):
            if connections is None:
                unknown.update(chunk)
            for connection in connections or ():
                found[connection.user_id].append(connection)
        return found, unknown

    async def _lookup_chunk(self, user_ids: Sequence[str]) -> Sequence[sessions_pb2.Connection] | None:
        request = sessions_service_pb2.LookupConnectionsRequest(user_ids=user_ids)
        try:
            response = await self._sessions.LookupConnections(request, timeout=_LOOKUP_TIMEOUT_S)
        except HitherError as error:
            _failed("lookup", error)
            return None
        return response.connections

    async def _to_edge(self, edge_id: str, batch: _EdgeBatch) -> "_Outcome":
        """Hands an edge its batch, in parts that fit."""
        gone: set[int] = set()
        try:
            for start in range(0, len(batch.deliveries), _MOST_DELIVERIES_A_BATCH):
                part = deliver_pb2.DeliverBatch(deliveries=batch.deliveries[start : start + _MOST_DELIVERIES_A_BATCH])
                with ExitStack() as spans:
                    _open_spans(part, edge_id, spans)
                    gone.update(await self._mesh.deliver(edge_id, part))
                _targets.inc(sum(len(delivery.targets) for delivery in part.deliveries))
        except HitherError as error:
            _failed("deliver", error)
            lost, others = batch.split(gone)
            return _Outcome(gone=lost, unsure=others)
        lost, taken = batch.split(gone)
        return _Outcome(taken=taken, gone=lost)

    async def _forget(self, connections: Sequence[sessions_pb2.Connection]) -> None:
        groups: defaultdict[int, list[sessions_pb2.Connection]] = defaultdict(list)
        for connection in connections:
            groups[self._mesh.partition_of(connection.user_id)].append(connection)
        await _gather(
            self._forget_chunk(group[start : start + _MOST_USERS_A_LOOKUP])
            for group in groups.values()
            for start in range(0, len(group), _MOST_USERS_A_LOOKUP)
        )

    async def _forget_chunk(self, connections: Sequence[sessions_pb2.Connection]) -> None:
        request = sessions_service_pb2.RemoveConnectionsRequest(connections=connections)
        try:
            await self._sessions.RemoveConnections(request, timeout=_REMOVE_TIMEOUT_S)
        except HitherError as error:  # the record runs out by itself after 65 s
            _failed("forget", error)


def _open_spans(batch: deliver_pb2.DeliverBatch, edge_id: str, spans: ExitStack) -> None:
    """Begins a span for each delivery whose trace is sampled, and has the edge go on from there."""
    for delivery in batch.deliveries:
        place = read_traceparent(delivery.traceparent)
        if place is None:
            continue
        span = open_span(
            f"deliver {delivery.type}",
            SpanKind.PRODUCER,
            place,
            {
                "messaging.system": MESSAGING_SYSTEM,
                "messaging.operation.name": "deliver",
                "messaging.operation.type": "send",
                "messaging.destination.name": edge_id,
                "messaging.batch.message_count": len(batch.deliveries),
                "hither.targets": len(delivery.targets),
            },
        )
        delivery.traceparent = onward(span, place)
        if span is not None:
            spans.enter_context(span)


def _failed(step: str, error: HitherError) -> None:
    _failures.labels(step).inc()
    _log.warning("delivery.failed", step=step, reason=error.reason, error=error.message)


async def _gather(calls: Iterable[Coroutine[None, None, T]]) -> list[T]:
    """Runs the calls beside each other; the results in their order. One call costs no task."""
    waiting = list(calls)
    if len(waiting) == 1:
        return [await waiting[0]]
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(call) for call in waiting]
    return [task.result() for task in tasks]
