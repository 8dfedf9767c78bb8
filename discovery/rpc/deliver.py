"""Batches for the clients of an edge, between processes: one long-lived stream from each service process to each edge.

Batches are written in the order of the calls, and answered in that order: an answer acknowledges one batch and
names the targets that are gone.
"""

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Final

import grpc

from discovery.errors import HitherError, ResourceExhausted, Unavailable
from discovery.rpc.call import Call, Caller, Role
from discovery.rpc.peers import Peers
from discovery.rpc.status import from_grpc
from discovery.rpc.tracing import new_trace_id
from hither.edge.v1 import deliver_pb2
from hither.edge.v1.deliver_service_pb2_grpc import DeliverServiceStub

EDGE_KEY: Final = "hither-edge"
"""Metadata of a deliver stream: the id of the edge that it is for, since a process may hold several."""

MAX_WAITING: Final = 256
"""Batches that wait for an answer from one edge."""

_NEVER_S: Final = float("inf")


class _Stream:
    """A stream to one edge. Its reader task is owned by the mesh's task group."""

    def __init__(self) -> None:
        self.seq = 0
        self.waiting: deque[tuple[int, asyncio.Future[Sequence[int]]]] = deque()
        self.writing = asyncio.Lock()
        self.call: grpc.aio.StreamStreamCall[deliver_pb2.DeliverBatch, deliver_pb2.DeliverBatch] | None = None
        self.failed: HitherError | None = None

    async def read(self) -> None:
        """Settles the batches as their answers come, until the stream ends."""
        assert self.call is not None
        try:
            async for answer in self.call:
                self._settle(answer)
            self.fail(Unavailable("the edge ended the stream", reason="OUTCOME_UNKNOWN"))
        except grpc.aio.AioRpcError as error:
            self.fail(from_grpc(error))
        finally:
            self.fail(Unavailable("the stream to the edge ended", reason="OUTCOME_UNKNOWN"))
            self.call.cancel()

    def fail(self, error: HitherError) -> None:
        """Ends the stream for everyone who waits."""
        self.failed = self.failed or error
        while self.waiting:
            waiter = self.waiting.popleft()[1]
            if not waiter.done():
                waiter.set_exception(self.failed)

    def _settle(self, answer: deliver_pb2.DeliverBatch) -> None:
        gone = tuple(answer.gone)
        while self.waiting and self.waiting[0][0] <= answer.ack:
            seq, waiter = self.waiting.popleft()
            if not waiter.done():
                waiter.set_result(gone if seq == answer.ack else ())


class DeliverStreams:
    """The streams of this process to the edges of others, opened when first needed."""

    def __init__(self, peers: Peers) -> None:
        self._peers = peers
        self._streams: dict[str, _Stream] = {}
        self._group: asyncio.TaskGroup | None = None
        self._readers: set[asyncio.Task[None]] = set()

    def own(self, group: asyncio.TaskGroup) -> None:
        """The group that owns the reader tasks."""
        self._group = group

    def close(self) -> None:
        """Ends all streams."""
        self._group = None
        for reader in self._readers:
            reader.cancel()

    async def deliver(self, address: str, edge_id: str, batch: deliver_pb2.DeliverBatch) -> Sequence[int]:
        """Sends the batch; returns the connection ids that are gone. Raises Unavailable if the stream breaks, and
        ResourceExhausted (OVERLOADED) if 256 batches wait for that edge. Cancelling it forgets the answer only.
        """
        stream = self._streams.get(edge_id)
        if stream is None or stream.failed:
            stream = self._open(address, edge_id)
        if len(stream.waiting) >= MAX_WAITING:
            raise ResourceExhausted("the edge does not keep up", retry_after_s=1.0)
        waiter: asyncio.Future[Sequence[int]] = asyncio.get_running_loop().create_future()
        async with stream.writing:
            if stream.failed or stream.call is None:
                raise stream.failed or Unavailable("the stream to the edge ended")
            stream.seq += 1
            batch.seq = stream.seq
            stream.waiting.append((stream.seq, waiter))
            try:
                await stream.call.write(batch)
            except (grpc.aio.AioRpcError, asyncio.InvalidStateError) as error:
                stream.fail(
                    from_grpc(error) if isinstance(error, grpc.aio.AioRpcError) else Unavailable("stream ended")
                )
        return await waiter

    def _open(self, address: str, edge_id: str) -> _Stream:
        if self._group is None:
            raise Unavailable("this process is leaving the mesh", reason="DRAINING")
        stream = self._streams[edge_id] = _Stream()
        call = Call("", Caller(Role.SERVICE, service="mesh"), _NEVER_S, new_trace_id())
        metadata = (*self._peers.metadata(call), (EDGE_KEY, edge_id))
        stream.call = DeliverServiceStub(self._peers.channel(address)).Deliver(metadata=metadata)
        reader = self._group.create_task(stream.read(), name=f"deliver to {edge_id}")
        self._readers.add(reader)
        reader.add_done_callback(self._readers.discard)
        return stream
