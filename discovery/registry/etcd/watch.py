"""The watch of a prefix: keeps Contents current, whatever becomes of the members of etcd.

A stream breaks when its member dies, loses its leader or compacts what was to come next; a member that is merely silent is
asked for a sign of life and left if it gives none. The watch then goes on at another member from the revision after the
last that it saw, or from a fresh read where that is gone. It ends with its task only.
"""

import asyncio
import random
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final

import grpc
import structlog
from etcd.api.etcdserverpb import rpc_pb2

from discovery.errors import HitherError, Unavailable
from discovery.registry.etcd.client import EtcdClient, hang_up
from discovery.registry.etcd.contents import Contents, Mark
from discovery.registry.metrics import RegistryMetrics

SILENCE_S: Final = 4.0
"""A stream without news for this long is asked for a sign of life, and given up if this long passes once more."""

_FIRST_PAUSE_S: Final = 0.05
_LAST_PAUSE_S: Final = 3.0
_READS: Final = 3
_SILENT: Final = "no sign of life"

log = structlog.get_logger(__name__)

WatchCall = grpc.aio.StreamStreamCall[rpc_pb2.WatchRequest, rpc_pb2.WatchResponse]


class PrefixWatch:
    """Calls `on_change` after whatever it brought into the contents; it must not raise."""

    def __init__(
        self,
        client: EtcdClient,
        prefix: bytes,
        contents: Contents,
        on_change: Callable[[], None],
        metrics: RegistryMetrics,
    ) -> None:
        self._client = client
        self._prefix = prefix
        self._end = end_of(prefix)
        self._contents = contents
        self._on_change = on_change
        self._metrics = metrics
        self._stale = True
        """The changes since the last revision cannot be had: only a read of everything helps."""

    async def read(self) -> None:
        """Reads everything into the contents. Raises Unavailable."""
        for _ in range(_READS):
            asked = self._contents.mark
            answer = await self._client.range(self._prefix, self._end)
            self._heard()
            if self._contents.replace(asked, answer):
                self._on_change()
                return
        raise Unavailable("etcd loses its data again and again")

    async def run(self) -> None:
        """Watches until cancelled."""
        pause_s = _FIRST_PAUSE_S
        while True:
            started_s = time.monotonic()
            try:
                await self._round()
            except _Ended as ended:
                log.warning("the watch of etcd ended", why=str(ended))
            except HitherError as error:
                log.warning("etcd is away: the last snapshot goes on routing", reason=error.reason)
            self._metrics.watch_restarts += 1
            if time.monotonic() - started_s > _LAST_PAUSE_S:
                pause_s = _FIRST_PAUSE_S
            await asyncio.sleep(pause_s * random.uniform(0.5, 1.0))  # noqa: S311 (spreads load, guards nothing)
            pause_s = min(_LAST_PAUSE_S, pause_s * 2)

    async def _round(self) -> None:
        """One stream, from its opening to its end."""
        if self._stale or not await self._store_is_the_same():
            await self.read()
            self._stale = False
        mark = self._contents.mark
        endpoint = self._client.endpoints.current
        try:
            metadata = await self._client.metadata(endpoint)
            call = endpoint.watch.Watch(metadata=metadata)
            try:
                await self._send(call, self._create(mark.revision + 1))
                await self._follow(call, mark)
            finally:
                await hang_up(call)
        except (grpc.aio.AioRpcError, _Ended) as error:
            if not self._stale:
                self._client.endpoints.failed(endpoint)
            raise _Ended(f"{endpoint.target}: {_why(error)}") from None

    async def _store_is_the_same(self) -> bool:
        """Whether etcd still has what was seen of it. Resuming would not tell: a watch from a revision that is to come is
        silent. (It also renews a token that a stream would be refused for.)
        """
        asked = self._contents.mark
        answer = await self._client.range(self._prefix, self._end, count_only=True)
        self._heard()
        return not asked.gone_back(answer.header)

    def _create(self, start_revision: int) -> rpc_pb2.WatchRequest:
        request = rpc_pb2.WatchCreateRequest(key=self._prefix, range_end=self._end, start_revision=start_revision)
        return rpc_pb2.WatchRequest(create_request=request)

    async def _send(self, call: WatchCall, request: rpc_pb2.WatchRequest) -> None:
        try:
            async with asyncio.timeout(SILENCE_S):
                await call.write(request)
        except TimeoutError:
            raise _Ended(_SILENT) from None
        except asyncio.InvalidStateError:
            pass  # It has ended; reading says why.

    async def _follow(self, call: WatchCall, mark: Mark) -> None:
        # Cancelling a read ends gRPC's call, so a read that brings nothing yet is kept while a sign of life is asked for.
        reading: asyncio.Task[object] | None = None
        asked = False
        try:
            while True:
                reading = reading or asyncio.ensure_future(call.read())
                done, _ = await asyncio.wait({reading}, timeout=SILENCE_S)
                if done:
                    answer, reading, asked = reading.result(), None, False
                    self._take(answer, mark)
                elif asked:
                    raise _Ended(_SILENT)
                else:
                    asked = True
                    await self._send(call, rpc_pb2.WatchRequest(progress_request=rpc_pb2.WatchProgressRequest()))
        finally:
            if reading is not None:
                await hang_up(call)
                with suppress(asyncio.CancelledError, grpc.aio.AioRpcError):
                    await reading

    def _take(self, answer: object, mark: Mark) -> None:
        if not isinstance(answer, rpc_pb2.WatchResponse):
            raise _Ended("etcd closed the stream")
        self._heard()
        if answer.canceled:
            self._stale = self._stale or answer.compact_revision > 0
            raise _Ended(answer.cancel_reason or "compacted")
        if not answer.events:
            return
        # The header's revision may be ahead of the events in some versions, so it is not taken for theirs.
        if not self._contents.apply(mark, answer.events[-1].kv.mod_revision, answer.events):
            raise _Ended("etcd lost data meanwhile")
        self._on_change()

    def _heard(self) -> None:
        self._metrics.contacted()


class _Ended(Exception):
    pass


def _why(error: grpc.aio.AioRpcError | _Ended) -> str:
    return f"{error.code().name} {error.details()}" if isinstance(error, grpc.aio.AioRpcError) else str(error)


def end_of(prefix: bytes) -> bytes:
    """The first key after all that begin with the prefix, which must not end with the greatest byte."""
    return prefix[:-1] + bytes([prefix[-1] + 1])
