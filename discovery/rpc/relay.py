"""The serving end of RelayService.Exchange: unary calls in batches, on one long-lived stream.

A batch that is written holds the answers that became ready while the last one was being written: no timer, no delay. What
one stream may have open is bounded by the credit that was given to it, so nothing here grows without limit.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final

from discovery.errors import HitherError, InvalidArgument, ResourceExhausted
from discovery.rpc.call import Call
from discovery.rpc.dispatcher import Dispatcher
from discovery.rpc.identity import PROCESS, Peer
from discovery.rpc.status import to_status
from discovery.rpc.tracing import received_trace
from hither.mesh.v1 import relay_pb2

MAX_ENVELOPES: Final = 256
"""Envelopes in a batch."""

CREDIT: Final = 1024
"""Requests that one stream may have open: begun, or answered but not yet written."""

_MAX_TIMEOUT_MS: Final = 600_000

Write = Callable[[relay_pb2.RelayBatch], Awaitable[None]]
"""Sends a batch; returns when the transport has taken it."""


class RelaySession:
    """One stream. Raises HitherError if the requester breaks the rules: a gap in the batches' numbers, more envelopes than
    a batch holds, an id that is still open, or more requests than it has credit for. `peer` is the requester: it may call in the
    name of those that it may speak for.
    """

    def __init__(self, dispatcher: Dispatcher, credit: int = CREDIT, *, peer: Peer = PROCESS) -> None:
        self._dispatcher = dispatcher
        self._peer = peer
        self._credit = credit
        self._open: set[int] = set()
        self._ready: list[relay_pb2.RelayEnvelope] = []
        self._granted = credit
        self._received = 0
        self._sent = 0
        self._ended = False
        self._news = asyncio.Event()

    async def serve(self, requests: AsyncIterator[relay_pb2.RelayBatch], write: Write) -> None:
        """Serves the stream until the requester has ended its half and has all answers. Cancelling it cancels what is open."""
        try:
            async with asyncio.TaskGroup() as group:
                reader = group.create_task(self._read(requests, group), name="relay reader")
                await self._write(write)
                reader.cancel()
        except* HitherError as failed:
            raise _first(failed) from None

    def drain(self) -> None:
        """Ends the stream as soon as nothing is open. A request that comes after is not begun; its requester sees the
        stream end and asks elsewhere.
        """
        self._end()

    async def _read(self, requests: AsyncIterator[relay_pb2.RelayBatch], group: asyncio.TaskGroup) -> None:
        async for batch in requests:
            if self._ended:
                return
            self._check(batch)
            for envelope in batch.envelopes:
                self._open.add(envelope.correlation_id)
                group.create_task(self._serve(envelope), name="relayed call")
        self._end()

    def _end(self) -> None:
        self._ended = True
        self._news.set()

    def _check(self, batch: relay_pb2.RelayBatch) -> None:
        if not batch.seq and not batch.envelopes:
            return
        if batch.seq != self._received + 1:
            raise InvalidArgument(f"batch {batch.seq} came after {self._received}")
        self._received = batch.seq
        if len(batch.envelopes) > MAX_ENVELOPES:
            raise InvalidArgument(f"a batch holds at most {MAX_ENVELOPES} envelopes")
        ids = {envelope.correlation_id for envelope in batch.envelopes}
        if len(ids) < len(batch.envelopes) or not ids.isdisjoint(self._open):
            raise InvalidArgument("a correlation id is still open")
        self._granted -= len(batch.envelopes)
        if self._granted < 0:
            raise ResourceExhausted("more requests than there was credit for", retry_after_s=1.0)

    async def _serve(self, envelope: relay_pb2.RelayEnvelope) -> None:
        answer = relay_pb2.RelayEnvelope(correlation_id=envelope.correlation_id)
        try:
            if envelope.WhichOneof("kind") != "request":
                raise InvalidArgument("only requests go this way")
            request = envelope.request
            call = _call(request, self._peer)
            answer.response = await self._dispatcher.dispatch_bytes(request.method, request.payload, call)
        except HitherError as error:
            answer.error.CopyFrom(to_status(error))
        self._ready.append(answer)
        self._news.set()

    async def _write(self, write: Write) -> None:
        await write(relay_pb2.RelayBatch(credit=self._credit))
        while True:
            await self._news.wait()
            self._news.clear()
            while self._ready:
                await write(self._next_batch())
            if self._ended and not self._open:
                return

    def _next_batch(self) -> relay_pb2.RelayBatch:
        envelopes, self._ready = self._ready[:MAX_ENVELOPES], self._ready[MAX_ENVELOPES:]
        self._open.difference_update(envelope.correlation_id for envelope in envelopes)
        self._granted += len(envelopes)
        self._sent += 1
        return relay_pb2.RelayBatch(seq=self._sent, envelopes=envelopes, ack=self._received, credit=len(envelopes))


def _call(request: relay_pb2.RelayRequest, peer: Peer) -> Call:
    timeout_ms = min(request.timeout_ms, _MAX_TIMEOUT_MS)
    deadline_s = time.monotonic() + timeout_ms / 1000
    return Call(request.method, peer.speak_for(request.caller), deadline_s, *received_trace(request.traceparent))


def _first(group: BaseExceptionGroup[HitherError]) -> HitherError:
    found: BaseException = group
    while isinstance(found, BaseExceptionGroup):
        found = found.exceptions[0]
    assert isinstance(found, HitherError)
    return found
