"""Where every call is served, whichever way it came: from the same process, over gRPC, or in a relay batch.

Access, filling, validation, ownership and deadline are checked here, once and for all servicers; what leaves is a response
or a HitherError, nothing else.
"""

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, Protocol

import structlog
from google.protobuf.message import DecodeError, Message
from opentelemetry.trace import SpanKind

from discovery.contract import MethodSpec, service_methods
from discovery.errors import (
    DeadlineExceeded,
    HitherError,
    Internal,
    InvalidArgument,
    NotOwner,
    PermissionDenied,
    ResourceExhausted,
    Unauthenticated,
    Unimplemented,
)
from discovery.fill import fill
from discovery.routing import Router, compile_router
from discovery.rpc.call import Call, Caller, Role, find_call, serve_call
from discovery.rpc.deadlines import Deadlines
from discovery.rpc.status import code_name
from discovery.rpc.telemetry import CallMetrics, MethodCalls, process_metrics
from discovery.rpc.tracing import open_call_span
from discovery.rpc.validation import validate
from hither.mesh.v1 import options_pb2

MAX_CALLS: Final = 10_000
"""Calls that a dispatcher serves at once, by default."""

_RETRY_AFTER_S: Final = 1.0

log = structlog.get_logger(__name__)


class Ownership(Protocol):
    """Who owns what, as this process sees it."""

    @property
    def partitions(self) -> int:
        """Partitions of the cluster."""

    @property
    def revision(self) -> int:
        """Revision of the registry's snapshot that the answers follow from."""

    def owns(self, service: str, partition: int) -> bool:
        """Whether this process's instance of the service owns the partition."""


@dataclass(slots=True)
class _Method:
    spec: MethodSpec
    handler: Callable[[Message, object], Awaitable[Message]]
    calls: MethodCalls
    router: Router | None


class Dispatcher:
    """The servicers of a process. Serves at most `max_calls` calls at once and sheds the rest; a call that a served call
    makes in turn is never shed, so that what was begun can be finished.
    """

    def __init__(self, *, max_calls: int = MAX_CALLS, metrics: CallMetrics | None = None) -> None:
        self._methods: dict[str, _Method] = {}
        self._services: set[str] = set()
        self._max_calls = max_calls
        self._in_flight = 0
        self._metrics = metrics or process_metrics()
        self._ownership: Ownership | None = None
        self._deadlines = Deadlines()

    @property
    def services(self) -> frozenset[str]:
        """Full names of the services that were added."""
        return frozenset(self._services)

    @property
    def load(self) -> float:
        """Share of the calls that may be served at once, 0 to 1."""
        return min(1.0, self._in_flight / self._max_calls)

    @property
    def metrics(self) -> CallMetrics:
        """Where the calls are counted."""
        return self._metrics

    def specs(self) -> tuple[MethodSpec, ...]:
        """The methods that are served."""
        return tuple(method.spec for method in self._methods.values())

    def find(self, method: str) -> MethodSpec | None:
        """The method of that path, if it is served here."""
        entry = self._methods.get(method)
        return None if entry is None else entry.spec

    async def dispatch_bytes(self, method: str, payload: bytes, call: Call) -> bytes:
        """As `dispatch`, for who has the messages serialised. Also raises InvalidArgument (MALFORMED_FRAME)."""
        entry = self._methods.get(method)
        if entry is None:
            raise Unimplemented(f"no method {method} here", reason="UNKNOWN_TYPE")
        try:
            request = entry.spec.request_type.FromString(payload)
        except DecodeError:
            raise InvalidArgument(f"no {entry.spec.request_type.__name__}", reason="MALFORMED_FRAME") from None
        return (await self.dispatch(method, request, call)).SerializeToString()

    def add(self, servicer: object, service: str) -> None:
        """Serves the unary RPCs of the service (full name) with the methods of that name of `servicer`.

        Raises TypeError if a method is missing or not async, or its contract says not who may call it; ValueError if
        there is no such service or it has been added already.
        """
        specs = [spec for spec in service_methods(service) if not spec.streaming]
        if not specs or service in self._services:
            raise ValueError(f"{service}: {'added twice' if specs else 'no such service with unary methods'}")
        added = {spec.path: self._method(servicer, spec) for spec in specs}
        self._methods.update(added)
        self._services.add(service)

    def guard(self, ownership: Ownership) -> None:
        """From now on refuses requests whose key this process does not own. Called by the mesh."""
        self._ownership = ownership
        for method in self._methods.values():
            method.router = compile_router(method.spec, ownership.partitions)

    async def dispatch(self, method: str, request: Message, call: Call) -> Message:
        """Serves the call: access, filling, validation, ownership, deadline, servicer. Fills the request in place.

        Raises HitherError only; what else a servicer raises is logged and becomes Internal. Cancelling it cancels the
        servicer's method.
        """
        entry = self._methods.get(method)
        if entry is None:
            raise Unimplemented(f"no method {method} here", reason="UNKNOWN_TYPE")
        outer = find_call()
        if self._in_flight >= self._max_calls and outer is None:
            entry.calls.observe("RESOURCE_EXHAUSTED", 0.0)
            raise ResourceExhausted("the server is overloaded", retry_after_s=_RETRY_AFTER_S)
        metrics = self._metrics
        self._in_flight += 1
        metrics.in_flight += 1
        started_s = time.monotonic()
        code = "OK"
        failed: BaseException | None = None
        span = open_call_span(method, SpanKind.SERVER, call) if call.sampled else None
        if span is not None:
            call = call._replace(span_id=span.trace.span_id)
        try:
            self._admit(entry, request, call)
            return await self._serve(entry, request, call, outer)
        except HitherError as error:
            code, failed = code_name(error), error
            raise
        except asyncio.CancelledError as error:
            code, failed = "CANCELLED", error
            raise
        except Exception as error:
            code, failed = "INTERNAL", error
            log.exception("a servicer failed", method=method, trace_id=call.trace_id)
            raise Internal(f"internal error, trace {call.trace_id}") from None
        finally:
            self._in_flight -= 1
            metrics.in_flight -= 1
            entry.calls.observe(code, time.monotonic() - started_s)
            if span is not None:
                span.end_served(code, failed)

    def _method(self, servicer: object, spec: MethodSpec) -> _Method:
        handler = getattr(servicer, spec.name, None)
        if not inspect.iscoroutinefunction(handler):
            raise TypeError(f"{type(servicer).__name__}.{spec.name} is missing or not async")
        if spec.access == options_pb2.ACCESS_UNSPECIFIED:
            raise TypeError(f"{spec.path}: the contract does not say who may call it")
        router = compile_router(spec, self._ownership.partitions) if self._ownership else None
        return _Method(spec, handler, self._metrics.of(spec.path), router)

    def _admit(self, entry: _Method, request: Message, call: Call) -> None:
        if call.remaining_s() <= 0:
            raise DeadlineExceeded("no time was left when the call came")
        check_access(entry.spec, call.caller)
        fill(request, call.caller)
        validate(request)
        if entry.router is None or self._ownership is None:
            return
        partition = entry.router(request)
        if partition is not None and not self._ownership.owns(entry.spec.service, partition):
            raise NotOwner(f"partition {partition} is not here", revision=self._ownership.revision)

    async def _serve(self, entry: _Method, request: Message, call: Call, outer: Call | None) -> Message:
        serve_call(call)
        deadline = self._deadlines.start(call.deadline_s)
        try:
            response = await entry.handler(request, None)
        except asyncio.CancelledError:
            if deadline.stop():
                raise DeadlineExceeded(f"{entry.spec.name} did not end in time") from None
            raise
        finally:
            deadline.stop()
            serve_call(outer)
        if type(response) is not entry.spec.response_type:
            raise TypeError(f"{entry.spec.name} answered with {type(response).__name__}")
        return response


def check_access(spec: MethodSpec, caller: Caller) -> None:
    """Whether the method is open to the caller: to its own role, to ADMIN, and to all if PUBLIC.

    Raises Unauthenticated (NO_CREDENTIALS) for an anonymous caller, PermissionDenied (ACCESS_DENIED) for another.
    """
    role = caller.role
    if role.value == spec.access or spec.access == options_pb2.ACCESS_PUBLIC or role is Role.ADMIN:
        return
    if role is Role.ANONYMOUS:
        raise Unauthenticated(f"{spec.name} needs credentials")
    raise PermissionDenied(f"{spec.name} is not open to this kind of caller")
