"""A small client of etcd's v3 API for asyncio: what the registry needs of it, and no more.

Every call has a deadline of its own and is tried at one endpoint after the other within it, so that a member that is gone,
paused or without a leader costs one try. What is called here may be done twice without harm: the first try may have had its
effect although no answer came. Whoever calls sees Unavailable (ENGINE_DOWN) or LeaseNotFound, never gRPC's errors.
"""

import asyncio
import itertools
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any, Final, TypeVar

import grpc
import structlog
from etcd.api.etcdserverpb import rpc_pb2

from discovery.errors import Unavailable
from discovery.registry.etcd.endpoints import Endpoint, Endpoints, EtcdTls

R = TypeVar("R")
Metadata = tuple[tuple[str, str], ...]

TRY_S: Final = 1.0
"""What one endpoint has to answer, in seconds: below the shortest interval at which anything is renewed."""
CALL_S: Final = 5.0
"""What a call has in all, in seconds: longer than an election takes."""

_FIRST_PAUSE_S: Final = 0.05
_LAST_PAUSE_S: Final = 0.5
_REQUIRE_LEADER: Final = ("hasleader", "true")
"""A member that has lost its leader refuses at once, and ends a stream, instead of going on without news."""

_UNKNOWN_LEASE: Final = "requested lease not found"
_NO_AUTH: Final = "authentication is not enabled"
_BAD_TOKEN: Final = ("invalid auth token", "user name is empty", "revision of auth store is old")

log = structlog.get_logger(__name__)


class LeaseNotFound(Exception):
    """The lease has ended, or never was. Stays inside this package."""


class _Failed(Exception):
    def __init__(self, code: str, details: str) -> None:
        super().__init__(code, details)
        self.code = code
        self.details = details


class EtcdClient:
    """See the module. Of one event loop. `user` and `password` are for an etcd with authentication."""

    def __init__(
        self, endpoints: Sequence[str], *, tls: EtcdTls | None = None, user: str = "", password: str = ""
    ) -> None:
        self.endpoints = Endpoints(endpoints, tls)
        self._user = user
        self._password = password
        self._token = ""
        self._closed = False

    async def range(self, key: bytes, end: bytes = b"", *, count_only: bool = False) -> rpc_pb2.RangeResponse:
        """The key, or all keys from `key` up to `end` (exclusive). Linearizable: everything done before is in it."""
        request = rpc_pb2.RangeRequest(key=key, range_end=end, count_only=count_only)
        return await self._call(lambda at, metadata: at.kv.Range(request, timeout=TRY_S, metadata=metadata))

    async def put(self, key: bytes, value: bytes, lease: int) -> rpc_pb2.PutResponse:
        """Sets the key and hangs it on the lease. Raises LeaseNotFound."""
        request = rpc_pb2.PutRequest(key=key, value=value, lease=lease)
        return await self._call(lambda at, metadata: at.kv.Put(request, timeout=TRY_S, metadata=metadata))

    async def txn(self, request: rpc_pb2.TxnRequest) -> rpc_pb2.TxnResponse:
        """The transaction, which must be harmless to repeat. Raises LeaseNotFound."""
        return await self._call(lambda at, metadata: at.kv.Txn(request, timeout=TRY_S, metadata=metadata))

    async def grant(self, ttl_s: int) -> int:
        """A new lease. etcd gives a longer life to one that is shorter than its elections may take."""
        request = rpc_pb2.LeaseGrantRequest(TTL=ttl_s)
        answer = await self._call(lambda at, metadata: at.lease.LeaseGrant(request, timeout=TRY_S, metadata=metadata))
        return answer.ID

    async def keep_alive(self, lease: int) -> int:
        """Renews the lease. Returns the seconds it has now. Raises LeaseNotFound."""
        ttl_s = await self._call(lambda at, metadata: _renew(at, metadata, lease))
        if ttl_s <= 0:
            raise LeaseNotFound
        return ttl_s

    async def revoke(self, lease: int) -> None:
        """Ends the lease and deletes what hangs on it. Raises LeaseNotFound."""
        request = rpc_pb2.LeaseRevokeRequest(ID=lease)
        await self._call(lambda at, metadata: at.lease.LeaseRevoke(request, timeout=TRY_S, metadata=metadata))

    async def metadata(self, endpoint: Endpoint) -> Metadata:
        """What a stream to the endpoint carries. Raises grpc.aio.AioRpcError if the endpoint gives no token."""
        if self._user and not self._token:
            await self._authenticate(endpoint)
        return (_REQUIRE_LEADER, ("token", self._token)) if self._token else (_REQUIRE_LEADER,)

    async def close(self) -> None:
        """Hangs up; calls under way end with Unavailable. May be called twice."""
        self._closed = True
        await self.endpoints.close()

    async def _call(self, ask: Callable[[Endpoint, Metadata], Awaitable[R]]) -> R:
        end_s = time.monotonic() + CALL_S
        pause_s = _FIRST_PAUSE_S
        for tries in itertools.count(1):
            if self._closed:
                raise Unavailable("this client of etcd is closed")
            try:
                return await self._try(ask, end_s - time.monotonic())
            except _Failed as failure:
                if time.monotonic() + pause_s >= end_s:
                    log.warning("etcd did not do what was asked", code=failure.code, details=failure.details)
                    break
            if tries % len(self.endpoints) == 0:
                await asyncio.sleep(pause_s * random.uniform(0.5, 1.0))  # noqa: S311 (spreads load, guards nothing)
                pause_s = min(_LAST_PAUSE_S, pause_s * 2)
        raise Unavailable("etcd did not do what was asked in time")

    async def _try(self, ask: Callable[[Endpoint, Metadata], Awaitable[R]], left_s: float) -> R:
        endpoint = self.endpoints.current
        try:
            # gRPC keeps the deadline of each call; this one is for all of them.
            async with asyncio.timeout(left_s):
                return await ask(endpoint, await self.metadata(endpoint))
        except grpc.aio.AioRpcError as error:
            code, details = error.code().name, error.details() or ""
            if _UNKNOWN_LEASE in details:
                raise LeaseNotFound from None
            if _is_bad_token(details):
                self._token = ""
            else:
                log.debug("an etcd endpoint failed", endpoint=endpoint.target, code=code, details=details)
                self.endpoints.failed(endpoint)
            raise _Failed(code, details) from None
        except _Failed:
            self.endpoints.failed(endpoint)
            raise
        except TimeoutError:
            self.endpoints.failed(endpoint)
            raise _Failed("DEADLINE_EXCEEDED", "no time was left") from None
        except asyncio.CancelledError:
            # A call whose channel is closed under it says that it was cancelled, though nobody cancelled its task.
            task = asyncio.current_task()
            if self._closed and task is not None and not task.cancelling():
                raise _Failed("CANCELLED", "closed") from None
            raise

    async def _authenticate(self, endpoint: Endpoint) -> None:
        request = rpc_pb2.AuthenticateRequest(name=self._user, password=self._password)
        try:
            answer = await endpoint.auth.Authenticate(request, timeout=TRY_S)
        except grpc.aio.AioRpcError as error:
            if _NO_AUTH not in (error.details() or ""):
                raise
            log.warning("this etcd asks nobody for a password", endpoint=endpoint.target)
        else:
            self._token = answer.token


async def _renew(endpoint: Endpoint, metadata: Metadata, lease: int) -> int:
    call = endpoint.lease.LeaseKeepAlive(timeout=TRY_S, metadata=metadata)
    try:
        # A call that has failed already takes no request, and says why when it is read.
        with suppress(asyncio.InvalidStateError):
            # Half-closing is left to hang_up: in a call that breaks, done_writing raises what no caller of gRPC can name.
            await call.write(rpc_pb2.LeaseKeepAliveRequest(ID=lease))
        answer = await call.read()
    finally:
        await hang_up(call)
    if not isinstance(answer, rpc_pb2.LeaseKeepAliveResponse):
        raise _Failed("UNAVAILABLE", "a renewal ended without an answer")
    return answer.TTL


async def hang_up(call: grpc.aio.StreamStreamCall[Any, Any]) -> None:
    """Ends the call, and waits until gRPC has done with it: what it has not, it would bring to a loop that is closed."""
    call.cancel()
    await call.code()


def _is_bad_token(details: str) -> bool:
    # Tokens end with the member that gave them, or after some minutes.
    return any(text in details for text in _BAD_TOKEN)
