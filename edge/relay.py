"""Carries the calls of sessions to their owners and brings the answers back. Owns the tasks; decides nothing."""

import asyncio
from collections.abc import Callable

import structlog
from google.protobuf.message import Message
from opentelemetry.trace import SpanKind
from opentelemetry.util.types import AttributeValue

from discovery.errors import Cancelled, HitherError, Internal, ResourceExhausted, Unavailable
from discovery.rpc.status import code_name
from discovery.rpc.tracing import OpenSpan, Trace, begin_trace, open_span, surround
from edge.gateway import Gateway
from edge.session import Call, Purpose

log = structlog.get_logger(__name__)

Settle = Callable[[Call, Message | HitherError], None]
"""Takes what became of a call."""

_RETRY_AFTER_S = 1.0


class Relay:
    """Starts calls in the order in which they are given; answers come as they are ready. At most `most` at once."""

    def __init__(self, gateway: Gateway, most: int) -> None:
        self._gateway = gateway
        self._most = most
        self._group: asyncio.TaskGroup | None = None
        self._in_flight = 0

    @property
    def in_flight(self) -> int:
        """Calls that are under way."""
        return self._in_flight

    async def run(self) -> None:
        """Takes calls until cancelled; calls that are then under way are cancelled and never settled."""
        async with asyncio.TaskGroup() as group:
            self._group = group
            try:
                await asyncio.get_running_loop().create_future()
            finally:
                self._group = None

    def start(self, call: Call, settle: Settle, place: Trace | None = None) -> asyncio.Task[None] | None:
        """Starts a call, at this place of a trace or in a new one. `settle` is called once, perhaps before this returns; not for a
        call whose task, which this returns where there is one, is cancelled before.
        """
        if self._group is None:
            settle(call, Unavailable("the server is not serving", reason="DRAINING", retry_after_s=_RETRY_AFTER_S))
            return None
        if self._in_flight >= self._most:
            settle(call, ResourceExhausted("the edge has too many calls under way", retry_after_s=_RETRY_AFTER_S))
            return None
        self._in_flight += 1
        place = place or begin_trace()
        span = _open_span(call, place) if place.sampled else None
        task = self._group.create_task(self._carry(call, settle, place if span is None else span.trace, span))
        task.add_done_callback(self._has_ended)
        return task

    def _has_ended(self, _task: asyncio.Task[None]) -> None:
        self._in_flight -= 1

    async def _carry(self, call: Call, settle: Settle, place: Trace, span: OpenSpan | None) -> None:
        outcome: Message | HitherError
        surround(place)
        try:
            outcome = await self._gateway.call(call.spec, call.request, call.caller)
        except HitherError as error:
            outcome = error
        except Exception:  # a bug in one call must not end the connections of others
            log.exception("call.bug", method=call.spec.path)
            outcome = Internal("a bug; the server's log tells more")
        except asyncio.CancelledError:
            if span is not None:
                span.end_served("CANCELLED", Cancelled("the client is gone"))
            raise
        try:
            settle(call, outcome)
        except Exception:
            log.exception("answer.bug", method=call.spec.path)
        if span is not None:
            failed = outcome if isinstance(outcome, HitherError) else None
            span.end_served("OK" if failed is None else code_name(failed), failed)


def _open_span(call: Call, place: Trace) -> OpenSpan | None:
    spec = call.spec
    name = f"frame {spec.frame}" if call.purpose is Purpose.REQUEST else f"connection {spec.name}"
    attributes: dict[str, AttributeValue] = {
        "rpc.system": "hither.websocket",
        "rpc.service": spec.service,
        "rpc.method": spec.name,
    }
    return open_span(name, SpanKind.SERVER, place, attributes)
