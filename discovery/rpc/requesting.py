"""The requesting end of RelayService.Exchange: all calls of this process to another, in batches on one long-lived stream.

A batch holds what gathered while the last one was being written: no timer, no delay. Requests begin at the peer in the order
of the calls. A call that is given up, for its deadline or because its caller went away, is cancelled at the peer.

Nothing here is unbounded: the peer's credit bounds what is open, MAX_WAITING and MAX_WAITING_BYTES what waits for credit; a call
beyond that is refused with OVERLOADED. What is written is kept until the peer acknowledges it, so that a session survives a
broken stream (link.py): a batch that the peer has not taken is sent again, one that it has is not.
"""

import asyncio
import time
from collections import OrderedDict, deque
from contextvars import Context
from copy import copy
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import count
from typing import Final

import structlog
from google.protobuf.message import DecodeError, Message

from discovery.contract import MethodSpec
from discovery.errors import DeadlineExceeded, HitherError, Internal, InvalidArgument, ResourceExhausted, Unavailable
from discovery.rpc.call import Call, Caller
from discovery.rpc.deadlines import Deadlines
from discovery.rpc.identity import to_caller_message
from discovery.rpc.link import NEW_SESSION, SESSION_KEY, Link, Pace, PeerLost
from discovery.rpc.peers import Peers
from discovery.rpc.relay import MAX_BATCH_BYTES, MAX_ENVELOPES, MAX_PAYLOAD_BYTES
from discovery.rpc.status import from_status
from discovery.rpc.stream_metrics import StreamMetrics, StreamNumbers
from discovery.rpc.tracing import traceparent
from discovery.rpc.window import SendWindow
from hither.mesh.v1 import relay_pb2

MAX_WAITING: Final = 4096
"""Calls to one peer that wait for its credit."""
MAX_WAITING_BYTES: Final = 16 * 1024 * 1024
"""Of the requests of those calls."""

log = structlog.get_logger(__name__)

_RETRY_AFTER_S: Final = 1.0
_HEADS: Final = 4096
_END_S: Final = 0.5


@dataclass(slots=True, eq=False)
class _Waiter:
    """A call that waits for its turn, then for its answer."""

    number: int
    call: Call
    payload: bytes
    answer: "asyncio.Future[bytes]"
    written: bool = False


@dataclass(slots=True)
class _Farewell:
    """The last words to a peer: `said` is set once they are written."""

    begun: bool = False
    said: asyncio.Event = field(default_factory=asyncio.Event)


class RequestingEnd:
    """What one peer is asked, and what it answers. See discovery.rpc.link.StreamEnd."""

    path = "/hither.mesh.v1.RelayService/Exchange"

    def __init__(self, numbers: StreamNumbers) -> None:
        self._numbers = numbers
        self._next_number = count(1)
        self._queue: OrderedDict[int, _Waiter] = OrderedDict()
        self._queue_bytes = 0
        self._open: dict[int, _Waiter] = {}
        self._cancels: list[int] = []
        self._session = ""
        self._window = SendWindow()
        self._again: deque[bytes] = deque()
        self._credit = 0
        self._taken = 0
        self._unacknowledged_bytes = 0
        self._due = False
        self._ping = False
        self._farewell: _Farewell | None = None

    # --- calls ---

    @property
    def outstanding(self) -> int:
        """Calls that are not answered yet."""
        return len(self._open) + len(self._queue)

    @property
    def waiting(self) -> int:
        """Calls that are not written yet."""
        return len(self._queue)

    def ask(self, call: Call, payload: bytes) -> _Waiter:
        """Puts a call into the queue. Raises ResourceExhausted (OVERLOADED) if that is full, InvalidArgument for a request
        beyond MAX_PAYLOAD_BYTES.
        """
        if len(payload) > MAX_PAYLOAD_BYTES:
            raise InvalidArgument("the request is too large to be sent")
        if len(self._queue) >= MAX_WAITING or self._queue_bytes + len(payload) > MAX_WAITING_BYTES:
            raise ResourceExhausted("too many calls wait for the peer", retry_after_s=_RETRY_AFTER_S)
        answer = asyncio.get_running_loop().create_future()
        waiter = _Waiter(next(self._next_number), call, payload, answer)
        self._queue[waiter.number] = waiter
        self._queue_bytes += len(payload)
        return waiter

    def give_up(self, waiter: _Waiter) -> bool:
        """Nobody waits for the answer any more. True: there is something to write now."""
        if self._queue.pop(waiter.number, None) is not None:
            self._queue_bytes -= len(waiter.payload)
            return False
        if self._open.pop(waiter.number, None) is None:
            return False
        self._cancels.append(waiter.number)
        return True

    def say_farewell(self) -> asyncio.Event:
        """Tells the peer that nothing follows; set once it is written."""
        self._farewell = self._farewell or _Farewell()
        return self._farewell.said

    # --- the stream ---

    @property
    def wanted(self) -> bool:
        """See StreamEnd."""
        return bool(self._queue or self._open)

    @property
    def busy(self) -> bool:
        """See StreamEnd."""
        return bool(self._open or len(self._window))

    def metadata(self) -> tuple[tuple[str, str], ...]:
        """See StreamEnd."""
        return ((SESSION_KEY, self._session or NEW_SESSION),)

    def greet(self, message: bytes) -> bool:
        """See StreamEnd."""
        batch = _decoded(message)
        if batch.session and batch.session == self._session:
            self._window.acknowledge(batch.ack)
            self._again = deque(sent.message for sent in self._window)
            return True
        self._forget(PeerLost("the peer has forgotten the session", reason="OUTCOME_UNKNOWN"))
        self._session, self._credit, self._taken = batch.session, batch.credit, 0
        return False

    def take(self, message: bytes) -> None:
        """See StreamEnd."""
        batch = _decoded(message)
        self._window.acknowledge(batch.ack)
        if batch.seq <= self._taken:
            return  # taken already; or it has no number, and nothing in it that counts
        if batch.seq != self._taken + 1:
            raise Internal(f"the peer's batch {batch.seq} came after {self._taken}")
        self._taken = batch.seq
        self._credit += batch.credit
        self._unacknowledged_bytes += len(message)
        self._due = self._due or self._unacknowledged_bytes > MAX_BATCH_BYTES
        self._numbers.received(len(batch.envelopes), len(message))
        for envelope in batch.envelopes:
            waiter = self._open.pop(envelope.correlation_id, None)
            if waiter is None or waiter.answer.done():
                continue
            if envelope.WhichOneof("kind") == "response":
                waiter.answer.set_result(envelope.response)
            else:
                waiter.answer.set_exception(from_status(envelope.error))

    @property
    def ready(self) -> bool:
        """See StreamEnd."""
        return self._has_news or self._due

    @property
    def _has_news(self) -> bool:
        return bool(self._cancels or self._again or (self._queue and self._credit > 0))

    def give(self) -> bytes | None:
        """See StreamEnd."""
        if self._again:
            return self._again.popleft()
        if self._has_news:
            return self._next_batch()
        if self._farewell is not None:
            return self._last_words(self._farewell)
        if not self._due:
            return None
        batch = relay_pb2.RelayBatch(ack=self._taken, ping=self._ping)
        self._due = self._ping = False
        self._unacknowledged_bytes = 0
        return batch.SerializeToString()

    def tick(self, *, ping: bool) -> bool:
        """See StreamEnd."""
        self._ping = ping
        self._due = ping or self._unacknowledged_bytes > 0
        return self._due

    def unreachable(self, error: PeerLost) -> None:
        """See StreamEnd."""
        queue, self._queue, self._queue_bytes = self._queue, OrderedDict(), 0
        for waiter in queue.values():
            _fail(waiter, error)

    def ended(self) -> None:
        """See StreamEnd."""
        error = PeerLost("the peer is draining", reason="DRAINING", retry_after_s=_RETRY_AFTER_S)
        for sent in self._window:
            for number in sent.about:
                waiter = self._open.pop(number, None)
                if waiter is not None:
                    _fail(waiter, error)
        self._forget(PeerLost("the peer ended without an answer", reason="OUTCOME_UNKNOWN"))
        self.unreachable(error)

    def lost(self, error: HitherError) -> None:
        """See StreamEnd."""
        self._forget(PeerLost(error.message, reason="OUTCOME_UNKNOWN"))
        queue, self._queue, self._queue_bytes = self._queue, OrderedDict(), 0
        for waiter in queue.values():
            _fail(waiter, error)

    def _forget(self, error: PeerLost) -> None:
        """The session is over; what was written fails."""
        if self._open:
            self._numbers.losses += 1
        lost, self._open = self._open, {}
        for waiter in lost.values():
            _fail(waiter, error)
        self._cancels.clear()
        self._again.clear()
        self._window.restart()
        self._session, self._credit = "", 0

    def _next_batch(self) -> bytes:
        batch = relay_pb2.RelayBatch(seq=self._window.next_seq(), ack=self._taken)
        add = batch.envelopes.add
        cancels, self._cancels = self._cancels[:MAX_ENVELOPES], self._cancels[MAX_ENVELOPES:]
        for number in cancels:
            add(correlation_id=number, cancel=True)
        room = min(self._credit, MAX_ENVELOPES - len(cancels))
        about: list[int] = []
        size_bytes, now_s = 0, time.monotonic()
        queue, opened = self._queue, self._open
        while queue and room > 0 and size_bytes < MAX_BATCH_BYTES:
            number, waiter = queue.popitem(last=False)
            call, payload = waiter.call, waiter.payload
            size_bytes += len(payload)
            request = add(correlation_id=number).request
            request.CopyFrom(_head(call.method, call.caller))
            request.payload = payload
            request.timeout_ms = max(1, int((call.deadline_s - now_s) * 1000))
            request.traceparent = traceparent(call)
            waiter.written = True
            opened[number] = waiter
            about.append(number)
            room -= 1
        self._queue_bytes -= size_bytes
        self._credit -= len(about)
        self._unacknowledged_bytes, self._due = 0, self._ping
        message = batch.SerializeToString()
        self._window.keep(message, tuple(about))
        self._numbers.sent(len(about), len(message))
        return message

    def _last_words(self, farewell: _Farewell) -> bytes | None:
        if farewell.begun:
            farewell.said.set()
            return None
        farewell.begun = True
        return relay_pb2.RelayBatch(ack=self._taken, end=True).SerializeToString()


class Requesters:
    """The requesting ends of this process by peer, made when first needed. A peer that has left is hung up on by `part`."""

    def __init__(self, peers: Peers, metrics: StreamMetrics, pace: Pace) -> None:
        self._peers = peers
        self._metrics = metrics
        self._pace = pace
        self._group: asyncio.TaskGroup | None = None
        self.closed = False
        """This process leaves the mesh."""
        self._ends: dict[str, tuple[RequestingEnd, Link, asyncio.Task[None]]] = {}
        self._deadlines = Deadlines()

    def own(self, group: asyncio.TaskGroup) -> None:
        """The group that owns the streams' tasks."""
        self._group = group

    @property
    def waiting(self) -> int:
        """Calls that no peer has been given yet."""
        return sum(end.waiting for end, _, _ in self._ends.values())

    def outstanding(self, address: str) -> int:
        """Calls to the peer that are not answered yet."""
        found = self._ends.get(address)
        return found[0].outstanding if found is not None else 0

    async def call(self, address: str, spec: MethodSpec, request: Message, call: Call) -> Message:
        """Calls the peer at host:port. Raises the HitherError that it answered with, DeadlineExceeded, ResourceExhausted
        (OVERLOADED) if too many calls wait for it, and PeerLost, whose reason tells whether anything may have been done.
        """
        end, link = self._to(address)
        if link.down:
            raise PeerLost("the peer cannot be reached", reason="NO_OWNER", retry_after_s=_RETRY_AFTER_S)
        if call.remaining_s() <= 0:
            raise DeadlineExceeded("no time was left for the call")
        try:
            waiter = end.ask(call, request.SerializeToString())
        except ResourceExhausted:
            self._metrics.calls.shed += 1
            raise
        link.wake()
        deadline = self._deadlines.start(call.deadline_s)
        try:
            payload = await waiter.answer
        except asyncio.CancelledError:
            if end.give_up(waiter):
                link.wake()
            if deadline.stop():
                raise DeadlineExceeded(f"{spec.name} was not answered in time") from None
            raise
        finally:
            deadline.stop()
        try:
            return spec.response_type.FromString(payload)
        except DecodeError:
            raise Internal(f"the peer's answer is no {spec.response_type.__name__}") from None

    def part(self, address: str) -> None:
        """The peer has left: ends its stream. What is still open fails."""
        found = self._ends.pop(address, None)
        if found is not None:
            end, _, task = found
            task.cancel()
            end.lost(PeerLost("the peer has left", reason="NO_OWNER", retry_after_s=_RETRY_AFTER_S))

    async def close(self) -> None:
        """Says farewell to the peers, within half a second, and ends all streams."""
        self._group, self.closed = None, True
        said = []
        for end, link, _ in self._ends.values():
            if link.open:
                said.append(end.say_farewell())
                link.wake()
        try:
            async with asyncio.timeout(_END_S):
                for word in said:
                    await word.wait()
        except TimeoutError:
            log.warning("a peer was not told that this process leaves it")
        finally:
            for address in list(self._ends):
                self.part(address)

    def _to(self, address: str) -> tuple[RequestingEnd, Link]:
        found = self._ends.get(address)
        if found is not None:
            return found[0], found[1]
        if self._group is None:
            raise Unavailable("this process is leaving the mesh", reason="DRAINING")
        end = RequestingEnd(self._metrics.relay_out)
        link = Link(self._peers, address, end, self._pace, self._metrics.relay_out)
        # Without the call that happens to come first: the stream outlives it.
        task = self._group.create_task(link.run(), name=f"relay to {address}", context=Context())
        self._ends[address] = (end, link, task)
        return end, link


@lru_cache(_HEADS)
def _head(method: str, caller: Caller) -> relay_pb2.RelayRequest:
    """What the calls of one caller to one method have in common. Copying it costs half of what filling it in does."""
    return relay_pb2.RelayRequest(method=method, caller=to_caller_message(caller))


def _fail(waiter: _Waiter, error: HitherError) -> None:
    if not waiter.answer.done():
        waiter.answer.set_exception(copy(error))  # each caller adds its own traceback


def _decoded(message: bytes) -> relay_pb2.RelayBatch:
    try:
        return relay_pb2.RelayBatch.FromString(message)
    except DecodeError:
        raise Internal("the peer sent no RelayBatch") from None
