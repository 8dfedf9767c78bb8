"""The edge's end of DeliverService.Deliver: takes each batch once, in order, whatever happens to the streams that bring them.

An answer is written when the last one is: it acknowledges all that was taken by then, and names the targets that were gone.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, Final

from google.protobuf.message import DecodeError

from discovery.errors import InvalidArgument
from discovery.rpc.identity import Peer
from discovery.rpc.stream_metrics import StreamNumbers
from hither.edge.v1 import deliver_pb2

MAX_UNACKNOWLEDGED: Final = 256
"""Batches that a sender has open at most, and thus whose gone targets are remembered."""

HandOver = Callable[[str, deliver_pb2.DeliverBatch], Sequence[int]]
"""Gives a batch to the edge of that id; returns the targets that are gone. Raises HitherError."""
Write = Callable[[bytes], Awaitable[None]]


class TakingSession:
    """What one sender brings. It can be resumed if it has a `session_id`."""

    def __init__(self, session_id: str, peer: Peer, hand_over: HandOver, numbers: StreamNumbers) -> None:
        self.session_id = session_id
        self.peer = peer
        self.over = False
        self._hand_over = hand_over
        self._numbers = numbers
        self._edge_id = ""
        self._last = 0
        self._gone: deque[tuple[int, Sequence[int]]] = deque()
        self._news = asyncio.Event()
        self._serving: tuple[asyncio.Task[Any], ...] = ()

    def close(self) -> None:
        """It is forgotten."""
        self.over = True

    async def serve(self, edge_id: str, requests: AsyncIterator[bytes], write: Write, draining: asyncio.Event) -> None:
        """Serves a stream until the sender has ended its half, the stream breaks, or this process drains; says at its end what
        was taken. Raises HitherError if the edge refuses a batch or there is a gap in their numbers: then the session is over.
        """
        if self._edge_id not in ("", edge_id):
            raise InvalidArgument("the session is for another edge")
        self._edge_id = edge_id
        for task in self._serving:
            task.cancel()
        answers = _Answers(self, write, self._numbers)
        self._news = answers.news
        if self.session_id:
            await answers.write(self.session_id)
        reader = asyncio.create_task(self._read(requests), name="deliver reader")
        drained = asyncio.create_task(draining.wait(), name="deliver drain")
        tasks = self._serving = (reader, drained, asyncio.create_task(answers.run(), name="deliver writer"))
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
        if all(task.cancelled() for task in tasks):
            return  # another stream has taken this one's place
        self.over = self.over or not drained.cancelled() or not reader.cancelled()
        await answers.write()
        for task in tasks:
            if not task.cancelled():
                task.result()

    @property
    def last(self) -> int:
        """The number of the last batch that was taken."""
        return self._last

    def gone_after(self, seq: int) -> list[int]:
        """Targets of the batches after this one that were gone."""
        return [target for of, targets in self._gone if of > seq for target in targets]

    async def _read(self, requests: AsyncIterator[bytes]) -> None:
        async for message in requests:
            batch = _decoded(message)
            self._take(batch, len(message))
            self._news.set()
        if self.session_id:
            # The stream has broken. gRPC says so by cancelling its handler, soon.
            await asyncio.Event().wait()

    def _take(self, batch: deliver_pb2.DeliverBatch, size_bytes: int) -> None:
        if batch.seq <= self._last:
            return  # taken already; or it has no number, and nothing in it that counts
        if batch.seq != self._last + 1:
            raise InvalidArgument(f"batch {batch.seq} came after {self._last}")
        self._numbers.received(len(batch.deliveries), size_bytes)
        gone = self._hand_over(self._edge_id, batch)
        self._last = batch.seq
        if gone:
            self._gone.append((batch.seq, tuple(gone)))
        while self._gone and self._gone[0][0] <= self._last - MAX_UNACKNOWLEDGED:
            self._gone.popleft()


class _Answers:
    """What one stream of a session is told."""

    def __init__(self, session: TakingSession, write: Write, numbers: StreamNumbers) -> None:
        self.news = asyncio.Event()
        self._session = session
        self._write = write
        self._numbers = numbers
        self._answered = 0

    async def run(self) -> None:
        """Answers whenever there is news."""
        while True:
            await self.news.wait()
            self.news.clear()
            await self.write()

    async def write(self, session_id: str = "") -> None:
        """Says what was taken until now, and what this stream has not been told to be gone."""
        last, gone = self._session.last, self._session.gone_after(self._answered)
        message = deliver_pb2.DeliverBatch(ack=last, gone=gone, session=session_id).SerializeToString()
        await self._write(message)
        self._answered = last
        self._numbers.sent(0, len(message))


def _decoded(message: bytes) -> deliver_pb2.DeliverBatch:
    try:
        return deliver_pb2.DeliverBatch.FromString(message)
    except DecodeError:
        raise InvalidArgument("no DeliverBatch", reason="MALFORMED_FRAME") from None
