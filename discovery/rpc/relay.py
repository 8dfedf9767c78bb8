"""The serving end of RelayService.Exchange: unary calls in batches, on one long-lived stream.

A batch that is written holds the answers that became ready while the last one was being written: no timer, no delay. What
one session may have open is bounded by the credit that was given to it, so nothing here grows without limit.

A session may outlive its stream. Then it keeps what is open, and the answers that the requester has not acknowledged, until it is
resumed on another stream; sessions.py says for how long.
"""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final

import structlog
from google.protobuf.message import DecodeError

from discovery.errors import Cancelled, HitherError, Internal, InvalidArgument, ResourceExhausted, Unavailable
from discovery.rpc.call import Call, Caller
from discovery.rpc.dispatcher import Dispatcher
from discovery.rpc.identity import PROCESS, Peer
from discovery.rpc.status import to_status
from discovery.rpc.stream_metrics import StreamNumbers
from discovery.rpc.tracing import received_trace
from discovery.rpc.window import SendWindow
from hither.mesh.v1 import relay_pb2

MAX_ENVELOPES: Final = 256
"""Envelopes in a batch."""
MAX_BATCH_BYTES: Final = 1024 * 1024
"""A batch takes no more envelopes once its payloads are this large together."""
MAX_PAYLOAD_BYTES: Final = 8 * 1024 * 1024
"""Of one request or answer."""

CREDIT: Final = 1024
"""Requests that one session may have open: begun, or answered but not yet written."""
MAX_KEPT_BYTES: Final = 4 * 1024 * 1024
"""Of answers that a session keeps for a requester that does not acknowledge them; beyond, it cannot be resumed any more."""

_CALLERS: Final = 1024
_MAX_TIMEOUT_MS: Final = 600_000
_RETRY_AFTER_S: Final = 1.0

log = structlog.get_logger(__name__)

Write = Callable[[bytes], Awaitable[None]]
"""Sends a serialised batch; returns when the transport has taken it."""


class RelaySession:
    """One requester's calls. `group` owns the tasks that serve them; `peer` is the requester, who may call in the name of those
    that it may speak for. With a `session_id` the session can be resumed: it lives until `close`. Without, it ends with its stream.
    """

    def __init__(
        self,
        dispatcher: Dispatcher,
        group: asyncio.TaskGroup,
        *,
        credit: int = CREDIT,
        peer: Peer = PROCESS,
        session_id: str = "",
        numbers: StreamNumbers | None = None,
    ) -> None:
        self.session_id = session_id
        self.peer = peer
        self.over = False
        """It cannot be resumed (any more)."""
        self._dispatcher = dispatcher
        self._group = group
        self._credit = credit
        self._granted = credit
        self._callers: dict[bytes, Caller] = {}
        self._numbers = numbers or StreamNumbers()
        self._open: dict[int, asyncio.Task[None]] = {}
        self._ready: deque[tuple[int, bytes | HitherError]] = deque()
        self._window = SendWindow()
        self._received = 0
        self._greeted = False
        self._pong = False
        self._ended = False
        self._draining = False
        self._news = asyncio.Event()
        self._serving: tuple[asyncio.Task[None], ...] = ()

    async def serve(self, requests: AsyncIterator[bytes], write: Write) -> None:
        """Serves a stream until the requester ends the session, the stream breaks, or another stream takes its place; or, when
        this process drains, until nothing is open. Raises HitherError if the requester breaks the rules: a gap in the
        batches' numbers, more envelopes than a batch holds, an id that is still open, or more requests than it has credit for.
        """
        for task in self._serving:
            task.cancel()
        reader = asyncio.create_task(self._read(requests), name="relay reader")
        writer = asyncio.create_task(self._write(write), name="relay writer")
        serving = self._serving = (reader, writer)
        try:
            await asyncio.wait(serving, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in serving:
                task.cancel()
            await asyncio.wait(serving)
            if self._serving is serving:
                self._serving = ()
                if not self.session_id:
                    self.close()
        for task in serving:
            if not task.cancelled():
                task.result()

    def drain(self) -> None:
        """Ends the session as soon as nothing is open. A request that comes after is answered with DRAINING."""
        self._draining = True
        self._news.set()

    def close(self) -> None:
        """Ends the session: cancels what is open, and keeps nothing."""
        self.over = True
        for task in self._open.values():
            task.cancel()
        self._open.clear()
        self._ready.clear()
        self._window.clear()

    # --- in ---

    async def _read(self, requests: AsyncIterator[bytes]) -> None:
        async for message in requests:
            if self._ended:
                return
            batch = _decoded(message)
            if batch.end:
                self.close()
                return
            self._window.acknowledge(batch.ack)
            self._take(batch, len(message))
        # A session that can be resumed ends with a batch that says so. Otherwise the stream has broken, and gRPC will cancel
        # its handler soon.
        if not self.session_id:
            self._ended = True
            self._news.set()
        await asyncio.Event().wait()

    def _take(self, batch: relay_pb2.RelayBatch, size_bytes: int) -> None:
        if batch.ping:
            self._pong = True
            self._news.set()
        if batch.seq <= self._received:
            return  # taken already; or it has no number, and nothing in it that counts
        if batch.seq != self._received + 1:
            raise InvalidArgument(f"batch {batch.seq} came after {self._received}")
        self._received = batch.seq
        if len(batch.envelopes) > MAX_ENVELOPES:
            raise InvalidArgument(f"a batch holds at most {MAX_ENVELOPES} envelopes")
        self._numbers.received(len(batch.envelopes), size_bytes)
        for envelope in batch.envelopes:
            kind = envelope.WhichOneof("kind")
            if kind == "request":
                self._begin(envelope)
            elif kind == "cancel":
                self._cancel(envelope.correlation_id)
            else:
                raise InvalidArgument("only requests and cancellations go this way")

    def _begin(self, envelope: relay_pb2.RelayEnvelope) -> None:
        number = envelope.correlation_id
        if number in self._open:
            raise InvalidArgument("a correlation id is still open")
        self._granted -= 1
        if self._granted < 0:
            raise ResourceExhausted("more requests than there was credit for", retry_after_s=_RETRY_AFTER_S)
        if self._draining:
            self._answer(number, Unavailable("the server is draining", reason="DRAINING", retry_after_s=_RETRY_AFTER_S))
            return
        self._open[number] = self._group.create_task(self._serve(number, envelope))

    def _cancel(self, number: int) -> None:
        task = self._open.pop(number, None)
        if task is not None:
            task.cancel()
            self._answer(number, Cancelled("the caller went away"))

    async def _serve(self, number: int, envelope: relay_pb2.RelayEnvelope) -> None:
        outcome: bytes | HitherError
        try:
            request = envelope.request
            call = self._call(request)
            outcome = await self._dispatcher.dispatch_bytes(call.method, request.payload, call)
            if len(outcome) > MAX_PAYLOAD_BYTES:
                log.error("an answer is too large to be sent", method=call.method, size_bytes=len(outcome))
                outcome = Internal("the answer is too large to be sent")
        except HitherError as error:
            outcome = error
        except asyncio.CancelledError:
            self._finish(number, Cancelled("the call was cancelled"))
            raise
        self._finish(number, outcome)

    def _call(self, request: relay_pb2.RelayRequest) -> Call:
        # Most calls come from a few callers, and making one from its message takes longer than finding it.
        named = request.caller.SerializeToString()
        caller = self._callers.get(named)
        if caller is None:
            caller = self.peer.speak_for(request.caller)
            if len(self._callers) >= _CALLERS:
                self._callers.clear()
            self._callers[named] = caller
        timeout_s = min(request.timeout_ms, _MAX_TIMEOUT_MS) / 1000
        return Call(request.method, caller, time.monotonic() + timeout_s, *received_trace(request.traceparent))

    def _finish(self, number: int, outcome: bytes | HitherError) -> None:
        if self._open.pop(number, None) is not None:
            self._answer(number, outcome)

    def _answer(self, number: int, outcome: bytes | HitherError) -> None:
        self._ready.append((number, outcome))
        self._news.set()

    # --- out ---

    async def _write(self, write: Write) -> None:
        credit = 0 if self._greeted else self._credit
        self._greeted = True
        again = deque(sent.message for sent in self._window)
        greeting = relay_pb2.RelayBatch(ack=self._received, credit=credit, session=self.session_id)
        await write(greeting.SerializeToString())
        while again:
            await write(again.popleft())
        while True:
            self._news.clear()
            while self._ready:
                await write(self._next_batch())
            if self._pong:
                self._pong = False
                await write(self._bare())
            if (self._ended or self._draining) and not self._open and not self._ready:
                break
            await self._news.wait()
        self._ended = self.over = True  # from here on nothing is taken
        if self._draining:
            await write(self._bare())

    def _bare(self) -> bytes:
        return relay_pb2.RelayBatch(ack=self._received).SerializeToString()

    def _next_batch(self) -> bytes:
        batch = relay_pb2.RelayBatch(seq=self._window.next_seq(), ack=self._received)
        add, ready = batch.envelopes.add, self._ready
        size_bytes = answers = 0
        while ready and answers < MAX_ENVELOPES and size_bytes < MAX_BATCH_BYTES:
            number, outcome = ready.popleft()
            answers += 1
            if isinstance(outcome, bytes):
                size_bytes += len(outcome)
                add(correlation_id=number, response=outcome)
            else:
                add(correlation_id=number, error=to_status(outcome))
        batch.credit = answers
        self._granted += answers
        message = batch.SerializeToString()
        self._numbers.sent(answers, len(message))
        self._keep(message)
        return message

    def _keep(self, message: bytes) -> None:
        if not self.session_id or self.over:
            return
        self._window.keep(message)
        if self._window.size_bytes > MAX_KEPT_BYTES:
            self.over = True
            self._window.clear()


def _decoded(message: bytes) -> relay_pb2.RelayBatch:
    try:
        return relay_pb2.RelayBatch.FromString(message)
    except DecodeError:
        raise InvalidArgument("no RelayBatch", reason="MALFORMED_FRAME") from None
