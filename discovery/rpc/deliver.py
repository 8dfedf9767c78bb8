"""Batches for the clients of an edge, between processes: one long-lived stream from each service process to each edge.

Batches are written in the order of the calls; those that gathered while the last was being written go as one. An answer
acknowledges all up to its number and names the targets that are gone. What is not acknowledged is kept and, when the stream breaks,
sent again on the next one; the edge (taking.py) drops what it has taken already. So while both processes live, and the stream
is open again in time, nothing is lost, doubled or out of order.
"""

import asyncio
from collections import deque
from collections.abc import Sequence
from contextvars import Context
from copy import copy
from dataclasses import dataclass
from typing import Final

from google.protobuf.message import DecodeError

from discovery.errors import HitherError, Internal, InvalidArgument, ResourceExhausted, Unavailable
from discovery.rpc.link import NEW_SESSION, SESSION_KEY, Link, Pace, PeerLost
from discovery.rpc.peers import Peers
from discovery.rpc.stream_metrics import StreamMetrics, StreamNumbers
from discovery.rpc.window import SendWindow
from hither.edge.v1 import deliver_pb2

EDGE_KEY: Final = "hither-edge"
"""Metadata of a deliver stream: the id of the edge that it is for, since a process may hold several."""

MAX_WAITING: Final = 256
"""Batches that wait for an answer from one edge."""
MAX_WAITING_BYTES: Final = 32 * 1024 * 1024
"""Of all of them together."""
MAX_BATCH_BYTES: Final = 12 * 1024 * 1024
"""Of one of them."""

_MAX_DELIVERIES: Final = 1024
_GATHERED_BYTES: Final = 1024 * 1024
_RETRY_AFTER_S: Final = 1.0


@dataclass(slots=True, eq=False)
class _Waiter:
    """A batch that waits for its turn, then for its answer."""

    batch: deliver_pb2.DeliverBatch
    message: bytes
    answer: "asyncio.Future[Sequence[int]]"

    def targets(self) -> set[int]:
        """The connections that it is about."""
        targets = {target.connection_id for delivery in self.batch.deliveries for target in delivery.targets}
        return targets.union(eviction.connection_id for eviction in self.batch.evictions)


class DeliveringEnd:
    """What one edge is brought, and what it says to it. See discovery.rpc.link.StreamEnd."""

    path = "/hither.edge.v1.DeliverService/Deliver"

    def __init__(self, edge_id: str, numbers: StreamNumbers) -> None:
        self._edge_id = edge_id
        self._numbers = numbers
        self._queue: deque[_Waiter] = deque()
        self._written: deque[tuple[int, list[_Waiter]]] = deque()
        self._waiting = 0
        self._waiting_bytes = 0
        self._session = ""
        self._window = SendWindow()
        self._again: deque[bytes] = deque()
        self._ping = False

    @property
    def unacknowledged(self) -> int:
        """Batches that were written and not answered."""
        return len(self._window)

    def bring(self, batch: deliver_pb2.DeliverBatch) -> _Waiter:
        """Puts a batch into the queue. Raises ResourceExhausted (OVERLOADED) if that is full, InvalidArgument for one beyond
        MAX_BATCH_BYTES.
        """
        message = batch.SerializeToString()
        if len(message) > MAX_BATCH_BYTES:
            raise InvalidArgument("the batch is too large to be sent")
        if self._waiting >= MAX_WAITING or self._waiting_bytes + len(message) > MAX_WAITING_BYTES:
            raise ResourceExhausted("the edge does not keep up", retry_after_s=_RETRY_AFTER_S)
        waiter = _Waiter(batch, message, asyncio.get_running_loop().create_future())
        self._queue.append(waiter)
        self._waiting += 1
        self._waiting_bytes += len(message)
        return waiter

    def give_up(self, waiter: _Waiter) -> None:
        """Nobody waits for the answer any more. What was written stays in its place, since what follows must not overtake it."""
        if waiter in self._queue:
            self._queue.remove(waiter)
            self._settled(waiter)

    # --- the stream ---

    @property
    def wanted(self) -> bool:
        """See StreamEnd."""
        return bool(self._queue or self._written)

    @property
    def busy(self) -> bool:
        """See StreamEnd."""
        return bool(self._written)

    @property
    def ready(self) -> bool:
        """See StreamEnd."""
        return False

    def metadata(self) -> tuple[tuple[str, str], ...]:
        """See StreamEnd."""
        return ((EDGE_KEY, self._edge_id), (SESSION_KEY, self._session or NEW_SESSION))

    def greet(self, message: bytes) -> bool:
        """See StreamEnd."""
        batch = _decoded(message)
        if batch.session and batch.session == self._session:
            self._settle(batch)
            self._again = deque(sent.message for sent in self._window)
            return True
        self._forget(PeerLost("the edge has forgotten the session", reason="OUTCOME_UNKNOWN"))
        self._session = batch.session
        return False

    def take(self, message: bytes) -> None:
        """See StreamEnd."""
        self._numbers.received(0, len(message))
        self._settle(_decoded(message))

    def give(self) -> bytes | None:
        """See StreamEnd."""
        if self._again:
            return self._again.popleft()
        if self._queue:
            return self._next_batch()
        if self._ping:
            self._ping = False
            return deliver_pb2.DeliverBatch(ping=True).SerializeToString()
        return None

    def tick(self, *, ping: bool) -> bool:
        """See StreamEnd."""
        self._ping = ping
        return ping

    def unreachable(self, error: PeerLost) -> None:
        """See StreamEnd. While a session may still be resumed, what was never written waits for that too."""
        if not self._written:
            self._fail_queue(error)

    def ended(self) -> None:
        """See StreamEnd."""
        error = PeerLost("the edge is draining", reason="DRAINING", retry_after_s=_RETRY_AFTER_S)
        self._forget(error)
        self._fail_queue(error)

    def lost(self, error: HitherError) -> None:
        """See StreamEnd. An edge that refuses a batch says why; the same is true of all that came after it."""
        self._forget(PeerLost(error.message, reason="OUTCOME_UNKNOWN") if isinstance(error, PeerLost) else error)
        self._fail_queue(error)

    def _next_batch(self) -> bytes:
        parts: list[_Waiter] = []
        deliveries = size_bytes = 0
        while self._queue:
            waiter = self._queue[0]
            deliveries += len(waiter.batch.deliveries)
            size_bytes += len(waiter.message)
            if parts and (deliveries > _MAX_DELIVERIES or size_bytes > _GATHERED_BYTES):
                break
            parts.append(self._queue.popleft())
            if waiter.batch.evictions:
                break  # what follows must not overtake them, and in a batch the deliveries come first
        seq = self._window.next_seq()
        # Serialised messages that are joined are one message: repeated fields are appended, of others the last counts.
        numbered = deliver_pb2.DeliverBatch(seq=seq).SerializeToString()
        message = b"".join([*(part.message for part in parts), numbered])
        self._written.append((seq, parts))
        self._window.keep(message)
        self._numbers.sent(sum(len(part.batch.deliveries) for part in parts), len(message))
        return message

    def _settle(self, answer: deliver_pb2.DeliverBatch) -> None:
        self._window.acknowledge(answer.ack)
        settled: list[_Waiter] = []
        while self._written and self._written[0][0] <= answer.ack:
            settled += self._written.popleft()[1]
        gone = tuple(answer.gone)
        for waiter in settled:
            self._settled(waiter)
            if waiter.answer.done():
                continue
            if not gone or len(settled) == 1:
                waiter.answer.set_result(gone)
            else:
                targets = waiter.targets()
                waiter.answer.set_result(tuple(target for target in gone if target in targets))

    def _settled(self, waiter: _Waiter) -> None:
        self._waiting -= 1
        self._waiting_bytes -= len(waiter.message)

    def _forget(self, error: HitherError) -> None:
        """The session is over; what was written fails."""
        if self._written:
            self._numbers.losses += 1
        for _, waiters in self._written:
            for waiter in waiters:
                self._fail(waiter, error)
        self._written.clear()
        self._again.clear()
        self._window.restart()
        self._session = ""

    def _fail_queue(self, error: HitherError) -> None:
        while self._queue:
            self._fail(self._queue.popleft(), error)

    def _fail(self, waiter: _Waiter, error: HitherError) -> None:
        self._settled(waiter)
        if not waiter.answer.done():
            waiter.answer.set_exception(copy(error))  # each caller adds its own traceback


class DeliverStreams:
    """The streams of this process to the edges of others, opened when first needed."""

    def __init__(self, peers: Peers, metrics: StreamMetrics, pace: Pace) -> None:
        self._peers = peers
        self._metrics = metrics
        self._pace = pace
        self._ends: dict[tuple[str, str], tuple[DeliveringEnd, Link, asyncio.Task[None]]] = {}
        self._group: asyncio.TaskGroup | None = None

    def own(self, group: asyncio.TaskGroup) -> None:
        """The group that owns the streams' tasks."""
        self._group = group

    @property
    def unacknowledged(self) -> int:
        """Batches that edges have not answered."""
        return sum(end.unacknowledged for end, _, _ in self._ends.values())

    def close(self) -> None:
        """Ends all streams."""
        self._group = None
        for address, edge_id in list(self._ends):
            self.part(address, edge_id)

    def part(self, address: str, edge_id: str) -> None:
        """The edge has left: ends its stream. What is still open fails."""
        found = self._ends.pop((address, edge_id), None)
        if found is not None:
            found[2].cancel()
            found[0].lost(PeerLost("the edge has left", reason="NO_OWNER"))

    @property
    def edges(self) -> frozenset[tuple[str, str]]:
        """Address and id of the edges that there are streams to."""
        return frozenset(self._ends)

    async def deliver(self, address: str, edge_id: str, batch: deliver_pb2.DeliverBatch) -> Sequence[int]:
        """Sends the batch; returns the connection ids that are gone. Raises Unavailable if the edge cannot be reached or ended
        the stream, what it refused the batch with, and ResourceExhausted (OVERLOADED) if 256 batches wait for it. Cancelling it
        takes a batch back that is not written yet, and else forgets the answer only.
        """
        end, link = self._to(address, edge_id)
        if link.down and not end.busy:
            raise PeerLost("the edge cannot be reached", reason="NO_OWNER", retry_after_s=_RETRY_AFTER_S)
        waiter = end.bring(batch)
        link.wake()
        try:
            return await waiter.answer
        except asyncio.CancelledError:
            end.give_up(waiter)
            raise

    def _to(self, address: str, edge_id: str) -> tuple[DeliveringEnd, Link]:
        found = self._ends.get((address, edge_id))
        if found is not None:
            return found[0], found[1]
        if self._group is None:
            raise Unavailable("this process is leaving the mesh", reason="DRAINING")
        end = DeliveringEnd(edge_id, self._metrics.deliver_out)
        link = Link(self._peers, address, end, self._pace, self._metrics.deliver_out)
        # Without the call that happens to come first: the stream outlives it.
        task = self._group.create_task(link.run(), name=f"deliver to {edge_id}", context=Context())
        self._ends[address, edge_id] = (end, link, task)
        return end, link


def _decoded(message: bytes) -> deliver_pb2.DeliverBatch:
    try:
        return deliver_pb2.DeliverBatch.FromString(message)
    except DecodeError:
        raise Internal("the edge sent no DeliverBatch") from None
