"""The registry of another process of this machine, over loopback gRPC.

What the other process holds in memory starts over when it starts anew: revisions, leases and numbers. A snapshot names the
epoch it belongs to, and here revisions go on ascending across epochs; a lease of an epoch that is past has ended.
"""

import asyncio
import random
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Final, TypeVar

import grpc
import structlog

from discovery.errors import (
    HitherError,
    InvalidArgument,
    PermissionDenied,
    ResourceExhausted,
    Unauthenticated,
    Unavailable,
)
from discovery.registry.messages import from_message, to_message
from discovery.registry.port import Instance, Snapshot
from discovery.rpc.identity import AUTHORIZATION
from discovery.rpc.peers import MAX_MESSAGE_BYTES
from discovery.rpc.status import from_grpc
from discovery.rpc.tls import Credentials, open_channel
from hither.mesh.v1 import registry_pb2
from hither.mesh.v1 import registry_service_pb2 as pb
from hither.mesh.v1.registry_service_pb2_grpc import RegistryServiceStub

CALL_TIMEOUT_S: Final = 3.0
"""Deadline of a call, and of a watch's first snapshot, in seconds: a lease can be renewed three times in its life."""

_FIRST_PAUSE_S: Final = 0.05
_LAST_PAUSE_S: Final = 2.0
_PAST_EPOCHS: Final = 16
_OPTIONS: Final = (
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 500),
    ("grpc.use_local_subchannel_pool", 1),
)
_EPOCH_BITS: Final = 64
_NUMBER_MASK: Final = (1 << _EPOCH_BITS) - 1

T = TypeVar("T")
_Watch = grpc.aio.UnaryStreamCall[pb.WatchSnapshotsRequest, pb.WatchSnapshotsResponse]

log = structlog.get_logger(__name__)


class RemoteRegistry:
    """See discovery.registry.port.Registry. Of one event loop, which must run when it is made.

    `address` is the host:port of a process that serves its registry; who calls is proved by the credentials' certificate, or
    without any by `token`, which gives a SERVICE token of the cluster. Nothing is
    sent before the first call. A watch survives a restart of the other process: it is taken up again with growing, jittered
    pauses of up to 2 s, for as long as it takes. Beside the port's errors, raises Unauthenticated and PermissionDenied if the
    other process does not take the token.
    """

    def __init__(
        self, address: str, token: Callable[[], str] | None, *, credentials: Credentials | None = None
    ) -> None:
        self._token = token
        self._channel = open_channel(credentials, address, _OPTIONS)
        self._stub = RegistryServiceStub(self._channel)
        self._epochs = Epochs()
        self._closed = asyncio.Event()

    async def grant(self, ttl_s: float) -> int:
        """See Registry. `ttl_s` is 0.1 to 3600."""
        answer = await self._call(self._stub.Grant, pb.GrantRequest(ttl_ms=round(ttl_s * 1000)))
        return answer.lease.epoch << _EPOCH_BITS | answer.lease.number

    async def keep_alive(self, lease: int) -> bool:
        """See Registry."""
        if not lease:
            return False
        return (await self._call(self._stub.KeepAlive, pb.KeepAliveRequest(lease=_lease(lease)))).alive

    async def revoke(self, lease: int) -> None:
        """See Registry."""
        if lease:
            await self._call(self._stub.Revoke, pb.RevokeRequest(lease=_lease(lease)))

    async def put(self, instance: Instance, lease: int) -> bool:
        """See Registry."""
        if not lease:
            return False
        request = pb.PutInstanceRequest(lease=_lease(lease), instance=to_message(instance))
        return (await self._call(self._stub.PutInstance, request)).alive

    async def claim_number(self, lease: int, wanted: int | None = None) -> int | None:
        """See Registry."""
        if not lease:
            return None
        answer = await self._call(self._stub.ClaimNumber, pb.ClaimNumberRequest(lease=_lease(lease), wanted=wanted))
        return answer.number if answer.HasField("number") else None

    async def snapshot(self) -> Snapshot:
        """See Registry."""
        answer = await self._call(self._stub.GetSnapshot, pb.GetSnapshotRequest())
        snapshot = self._epochs.take(answer.snapshot)
        if snapshot is None:
            raise Unavailable("the answer is of a registry that has started anew since")
        return snapshot

    async def watch(self) -> AsyncIterator[Snapshot]:
        """See Registry."""
        seen, pause_s = 0, _FIRST_PAUSE_S
        while not self._closed.is_set():
            try:
                async with aclosing(self._watch_once()) as snapshots:
                    async for snapshot in snapshots:
                        pause_s = _FIRST_PAUSE_S
                        if snapshot.revision > seen:
                            seen = snapshot.revision
                            yield snapshot
            except Unavailable as error:
                log.warning("the watch of the registry broke off", reason=error.reason, error=error.message)
            await self._pause(pause_s * random.uniform(0.5, 1.0))  # noqa: S311 (spreads load, guards nothing)
            pause_s = min(_LAST_PAUSE_S, pause_s * 2)

    async def close(self) -> None:
        """See Registry."""
        self._closed.set()
        await self._channel.close()

    # --- inside ---

    async def _call(self, method: Callable[..., Awaitable[T]], request: object) -> T:
        if self._closed.is_set():
            raise Unavailable("the registry is closed")
        try:
            return await method(request, timeout=CALL_TIMEOUT_S, metadata=self._metadata())
        except grpc.aio.AioRpcError as error:
            raise _domain_error(error) from None

    async def _watch_once(self) -> AsyncGenerator[Snapshot, None]:
        """What one stream brings. Ends with the stream, and when this registry is closed. Raises HitherError."""
        call: _Watch = self._stub.WatchSnapshots(pb.WatchSnapshotsRequest(), metadata=self._metadata())
        timeout_s: float | None = CALL_TIMEOUT_S
        try:
            while (answer := await self._read(call, timeout_s)) is not None:
                timeout_s = None
                snapshot = self._epochs.take(answer.snapshot)
                if snapshot is not None:
                    yield snapshot
        except grpc.aio.AioRpcError as error:
            raise _domain_error(error) from None
        finally:
            call.cancel()

    async def _read(self, call: _Watch, timeout_s: float | None) -> pb.WatchSnapshotsResponse | None:
        """The next answer; None at the end of the stream, and once this registry is closed."""
        reading = asyncio.ensure_future(call.read())
        closing = asyncio.ensure_future(self._closed.wait())
        try:
            await asyncio.wait((reading, closing), timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
            if self._closed.is_set():
                return None
            if not reading.done():
                raise Unavailable("the registry sent no snapshot in time")
            answer = reading.result()
            return answer if isinstance(answer, pb.WatchSnapshotsResponse) else None
        finally:
            reading.cancel()
            closing.cancel()
            await asyncio.gather(reading, closing, return_exceptions=True)

    async def _pause(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._closed.wait()
        except TimeoutError:
            return

    def _metadata(self) -> tuple[tuple[str, str], ...]:
        return ((AUTHORIZATION, f"Bearer {self._token()}"),) if self._token else ()


class Epochs:
    """Revisions that ascend across the epochs of a registry, each of which counts from 1. The newest epoch is the one that
    was met last; what comes late from one before it is not taken.
    """

    def __init__(self) -> None:
        self._epoch = 0
        self._past: deque[int] = deque(maxlen=_PAST_EPOCHS)
        self._before = 0
        self._newest = 0

    def take(self, message: registry_pb2.RegistrySnapshot) -> Snapshot | None:
        """The snapshot, with a revision above those of all epochs before; None if its epoch is past."""
        if message.epoch in self._past:
            return None
        if message.epoch != self._epoch:
            if self._epoch:
                self._past.append(self._epoch)
            self._epoch, self._before = message.epoch, self._newest
        revision = self._before + message.revision
        self._newest = max(self._newest, revision)
        return Snapshot(revision, tuple(map(from_message, message.instances)))


def _lease(lease: int) -> registry_pb2.Lease:
    return registry_pb2.Lease(epoch=lease >> _EPOCH_BITS, number=lease & _NUMBER_MASK)


def _domain_error(error: grpc.aio.AioRpcError) -> HitherError:
    """What the port promises: whatever keeps the registry from answering means that it is away."""
    answered = from_grpc(error)
    if isinstance(answered, Unauthenticated | PermissionDenied | InvalidArgument):
        return answered
    if isinstance(answered, ResourceExhausted) and answered.reason == "QUOTA_EXCEEDED":
        return answered
    return Unavailable(f"the registry is away: {answered.message}", retry_after_s=answered.retry_after_s)
