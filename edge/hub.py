"""The connections of this edge: who is here, what the mesh has for them, whose time has come, and one write for each of them
in a turn of the loop. A bug that one connection meets ends that connection, not the edge.
"""

import asyncio
import heapq
from collections.abc import Iterator, Mapping, Sequence
from typing import Final, NamedTuple, Protocol

import structlog
from google.protobuf.message import DecodeError, Message
from opentelemetry.trace import SpanKind
from opentelemetry.util.types import AttributeValue

from discovery.clock import Clock
from discovery.rpc.tracing import MESSAGING_SYSTEM, OpenSpan, open_span, read_traceparent
from edge.codec.frames import Codec, SharedEvent, event_types
from edge.metrics import Backlog, EdgeMetrics
from edge.session import CloseCode, Session
from edge.settings import EdgeSettings
from hither.edge.v1 import deliver_pb2
from hither.sessions.v1 import sessions_pb2

log = structlog.get_logger(__name__)

_ID_SHIFT: Final = 20
_CLOSE_CODES: Final = range(4000, 4200)
_WRITE: Final[dict[str, AttributeValue]] = {
    "messaging.system": MESSAGING_SYSTEM,
    "messaging.operation.name": "write",
    "messaging.operation.type": "process",
}


class Member(Protocol):
    """A connection, as the hub needs it."""

    session: Session
    due_s: float
    """When the hub is to call `tick`; the hub keeps it."""
    flushing: bool
    """It is going to be flushed at the end of this turn of the loop."""

    def pump(self) -> None:
        """Carries out what the session has decided."""

    def flush(self) -> None:
        """Writes what waits, as far as the transport takes it."""

    def abort(self) -> None:
        """Drops the connection at once."""


class _Write(NamedTuple):
    """A sampled event on its way to sockets. `durable`: who is being caught up gets it in its place in the inbox."""

    span: OpenSpan
    members: list[Member]
    durable: bool


class Hub:
    """See the module. Of one event loop."""

    def __init__(self, settings: EdgeSettings, metrics: EdgeMetrics, clock: Clock) -> None:
        self._tick_s = settings.tick_s
        self._metrics = metrics
        self._clock = clock
        self._members: dict[int, Member] = {}
        self._last_id = 0
        self._due: list[tuple[float, int]] = []
        self._dirty: list[Member] = []
        self._writes: list[_Write] = []
        """What this turn of the loop will have written, of sampled traces."""
        metrics.connections = self._members.__len__
        metrics.backlog = self._backlog

    # --- who is here ---

    def next_id(self) -> int:
        """A number for a connection that begins now: higher than all of this edge before, also before a restart, as long as its clock
        does not go back further than it was down. See Connection in the contract.
        """
        self._last_id = max(self._last_id + 1, self._clock.now_ms() << _ID_SHIFT)
        return self._last_id

    def add(self, member: Member) -> None:
        """The connection can be delivered to from now on."""
        self._members[member.session.connection_id] = member
        self.reschedule(member)

    def remove(self, member: Member) -> None:
        """The connection is gone."""
        self._members.pop(member.session.connection_id, None)

    @property
    def members(self) -> Sequence[Member]:
        """All connections."""
        return list(self._members.values())

    def open_connections(self) -> Iterator[sessions_pb2.Connection]:
        """The connections whose users are known, as the registry knows them."""
        for member in self.members:
            if member.session.is_open and (connection := member.session.connection) is not None:
                yield connection

    def late(self, connection_id: int) -> None:
        """The registry knows the connection only now: what came into the inbox before was told to nobody."""
        member = self._members.get(connection_id)
        if member is not None:
            member.session.look_again(self._clock.monotonic_s())
            member.pump()
            self.reschedule(member)

    def evict(self, connection_id: int, code: int, reason: str) -> None:
        """Closes a connection, if it is here."""
        member = self._members.get(connection_id)
        if member is not None:
            member.session.evict(code, reason)
            member.pump()

    # --- what the mesh has for them ---

    def deliver(self, batch: deliver_pb2.DeliverBatch) -> Sequence[int]:
        """Queues the events of a batch; returns the targets that are not here. Never blocks, never raises."""
        gone: list[int] = []
        now_s = self._clock.monotonic_s()
        for delivery in batch.deliveries:
            self._deliver(delivery, gone, now_s)
        for eviction in batch.evictions:
            code = eviction.close_code if eviction.close_code in _CLOSE_CODES else CloseCode.TRY_LATER
            if eviction.connection_id in self._members:
                self.evict(eviction.connection_id, code, eviction.reason)
            else:
                gone.append(eviction.connection_id)
        return gone

    def _deliver(self, delivery: deliver_pb2.Delivery, gone: list[int], now_s: float) -> None:
        message: Message | None = None
        encoded: dict[Codec, SharedEvent] = {}
        key = delivery.conflation_key
        members = self._members
        if delivery.type in _types:
            self._metrics.frames_out[delivery.type] += len(delivery.targets)
        for target in delivery.targets:
            member = members.get(target.connection_id)
            if member is None or member.session.closing is not None:
                gone.append(target.connection_id)
                continue
            session = member.session
            event = encoded.get(session.codec)
            if event is None:
                message = message or _event_message(delivery)
                if message is None:
                    return
                event = encoded[session.codec] = session.codec.event(delivery.type, message)
            try:
                session.deliver(event, target.pos, key, now_s)
                if not member.flushing or session.calls:
                    member.pump()
            except Exception:
                log.exception("connection.bug", connection_id=member.session.connection_id)
                member.abort()
        if delivery.traceparent:
            self._trace(delivery)

    def _trace(self, delivery: deliver_pb2.Delivery) -> None:
        """Begins a span that ends when what was queued has been written."""
        place = read_traceparent(delivery.traceparent)
        span = None if place is None else open_span(f"write {delivery.type}", SpanKind.CONSUMER, place, _WRITE)
        if span is None:
            return
        targets = delivery.targets
        members = [self._members[target.connection_id] for target in targets if target.connection_id in self._members]
        span.note("hither.targets", len(targets))
        span.note("hither.targets.gone", len(targets) - len(members))
        self._writes.append(_Write(span, members, any(target.pos for target in targets)))
        if not self._dirty:
            self._end_writes()

    # --- writing ---

    def wants_flush(self, member: Member) -> None:
        """The connection has something to write: it is asked to once, at the end of this turn of the loop."""
        if not self._dirty:
            asyncio.get_running_loop().call_soon(self._flush)
        self._dirty.append(member)

    def _flush(self) -> None:
        dirty, self._dirty = self._dirty, []
        for member in dirty:
            try:
                member.flush()
            except Exception:
                log.exception("connection.bug", connection_id=member.session.connection_id)
                member.abort()
        if self._writes:
            self._end_writes()

    def _end_writes(self) -> None:
        """Ends the spans. Clients that read slowly, or are being caught up, get what was queued some time later."""
        writes, self._writes = self._writes, []
        for write in writes:
            sessions = [member.session for member in write.members]
            late = [session for session in sessions if session.outbox or (write.durable and not session.caught_up)]
            write.span.note("hither.targets.late", len(late))
            write.span.end()

    def _backlog(self) -> Backlog:
        waiting = [member.session.outbox for member in self._members.values() if member.session.outbox]
        return Backlog(
            bytes=sum(outbox.waiting_bytes for outbox in waiting),
            frames=sum(map(len, waiting)),
            connections=len(waiting),
        )

    # --- time ---

    def reschedule(self, member: Member) -> None:
        """The session's deadline may have come nearer."""
        deadline_s = max(member.session.deadline_s(), self._clock.monotonic_s() + self._tick_s)
        if deadline_s < member.due_s:
            member.due_s = deadline_s
            heapq.heappush(self._due, (deadline_s, member.session.connection_id))

    async def run(self) -> None:
        """Ticks sessions when their time has come, until cancelled."""
        while True:
            await asyncio.sleep(self._tick_s)
            self.tick()

    def tick(self) -> None:
        """Ticks the sessions whose deadline has passed."""
        now_s = self._clock.monotonic_s()
        due = self._due
        while due and due[0][0] <= now_s:
            due_s, connection_id = heapq.heappop(due)
            member = self._members.get(connection_id)
            if member is None or member.due_s != due_s:
                continue  # gone, or scheduled for an earlier time since
            member.due_s = float("inf")
            try:
                member.session.tick(now_s)
                member.pump()
            except Exception:
                log.exception("connection.bug", connection_id=member.session.connection_id)
                member.abort()
            self.reschedule(member)


def _event_message(delivery: deliver_pb2.Delivery) -> Message | None:
    message_type = _types.get(delivery.type)
    if message_type is not None:
        message = message_type()
        try:
            message.ParseFromString(delivery.payload)
        except DecodeError:
            pass
        else:
            return message
    log.error("delivery.unreadable", type=delivery.type, bytes=len(delivery.payload))
    return None


_types: Final[Mapping[str, type[Message]]] = event_types()
