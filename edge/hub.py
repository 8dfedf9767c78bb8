"""The connections of this edge: who is here, what the mesh has for them, whose time has come, and one write for each of them
in a turn of the loop. A bug that one connection meets ends that connection, not the edge.
"""

import asyncio
import heapq
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Final, Protocol

import structlog
from google.protobuf.message import DecodeError, Message

from discovery.clock import Clock
from edge.codec.frames import Codec, SharedEvent, event_types
from edge.metrics import EdgeMetrics
from edge.session import CloseCode, Session
from edge.settings import EdgeSettings
from hither.edge.v1 import deliver_pb2
from hither.sessions.v1 import sessions_pb2

log = structlog.get_logger(__name__)

_ID_SHIFT: Final = 20
_CLOSE_CODES: Final = range(4000, 4200)


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


class Hub:
    """See the module. Of one event loop."""

    def __init__(self, settings: EdgeSettings, metrics: EdgeMetrics, clock: Clock) -> None:
        self._tick_s = settings.tick_s
        self._metrics = metrics
        self._clock = clock
        self._members: dict[int, Member] = {}
        self._ids = itertools.count(clock.now_ms() << _ID_SHIFT)
        self._due: list[tuple[float, int]] = []
        self._dirty: list[Member] = []
        metrics.connections = self._members.__len__

    # --- who is here ---

    def next_id(self) -> int:
        """A connection id that no connection of this edge has had, also before a restart."""
        return next(self._ids)

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
