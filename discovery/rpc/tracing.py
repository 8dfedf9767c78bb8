"""Spans: what became of a piece of work, for those traces that are sampled.

Where work enters (a client's frame, a request, a call without a trace) it is decided once whether its trace is sampled;
everything that follows from it, in whichever process, heeds that. With nothing exported, or for a trace that is not
sampled, no span is made: such work costs a look at a flag. Where spans go is decided in discovery/rpc/exporting.py.

Attributes follow OpenTelemetry's semantic conventions. They name methods, partitions, counts and ids of messages; never
what a message says, a token or a place.
"""

import random
import re
import time
from contextvars import ContextVar
from types import TracebackType
from typing import Final, NamedTuple, Protocol, Self

from google.rpc import code_pb2
from opentelemetry.context import Context
from opentelemetry.trace import (
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    Tracer,
    set_span_in_context,
)
from opentelemetry.util.types import AttributeValue

from discovery.errors import HitherError

MESSAGING_SYSTEM: Final = "hither"
"""`messaging.system` of spans about messages in the log and on their way to a client."""

ROOT_TRACE_ID: Final[ContextVar[int]] = ContextVar("hither_root_trace_id")
"""How the trace id that was decided for a trace reaches the first span that is made in it."""

_SAMPLED: Final = 1
_SERVER_ERRORS: Final = frozenset(
    ("UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS")
)
_PATTERN: Final = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")


class Traced(Protocol):
    """Whatever stands in a trace: a Trace, or a Call."""

    @property
    def trace_id(self) -> str:
        """W3C trace id: 32 hexadecimal digits."""

    @property
    def span_id(self) -> str:
        """The span that this comes out of, 16 hexadecimal digits; empty if there is none."""

    @property
    def sampled(self) -> bool:
        """Whether spans are wanted of the trace."""


class Trace(NamedTuple):
    """A place in a trace: W3C trace context, read."""

    trace_id: str
    span_id: str
    sampled: bool


class _Tracing(NamedTuple):
    tracer: Tracer
    ratio: float


_tracing: _Tracing | None = None
_around: ContextVar[Trace | None] = ContextVar("hither_trace", default=None)


def trace_with(tracer: Tracer | None, ratio: float = 0.0) -> None:
    """From now on this process makes spans with `tracer`, of the given share (0 to 1) of the traces that begin here and
    of all that come in sampled. None: it makes none.

    The tracer must sample whatever it is asked for, and give a root span the trace id in ROOT_TRACE_ID.
    """
    global _tracing
    _tracing = None if tracer is None else _Tracing(tracer, ratio)


# --- places in a trace ---


def new_trace_id() -> str:
    """A W3C trace id. Names a call in the logs; guards nothing."""
    return random.randbytes(16).hex()  # noqa: S311


def begin_trace() -> Trace:
    """A new trace; here it is decided whether it is sampled."""
    sampled = _tracing is not None and random.random() < _tracing.ratio  # noqa: S311 (guards nothing)
    return Trace(new_trace_id(), "", sampled)


def read_traceparent(value: str | bytes | None) -> Trace | None:
    """The place that a W3C `traceparent` names; None if there is none or it is malformed."""
    if not value:
        return None
    match = _PATTERN.fullmatch(value.decode("ascii", "replace") if isinstance(value, bytes) else value)
    if match is None:
        return None
    trace_id, span_id, flags, _ = match.groups()
    return Trace(trace_id, span_id, bool(int(flags, 16) & _SAMPLED))


def received_trace(value: str | bytes | None) -> Trace:
    """Where a call that came with this `traceparent` stands; in a new trace if that names no place."""
    return read_traceparent(value) or begin_trace()


def traceparent(place: Traced) -> str:
    """The W3C `traceparent` of what comes out of this place."""
    span_id = place.span_id or random.randbytes(8).hex()  # noqa: S311
    return f"00-{place.trace_id}-{span_id}-{'01' if place.sampled else '00'}"


def kept_traceparent(place: Traced) -> str:
    """As `traceparent`, for what is stored or sent in bulk: empty if the trace is not sampled."""
    return traceparent(place) if place.sampled else ""


def onward(span: "OpenSpan | None", place: Traced) -> str:
    """The kept `traceparent` of what comes out of the span, or out of the place itself where no span was made."""
    return kept_traceparent(place if span is None else span.trace)


def surrounding_trace() -> Trace | None:
    """The place that `surround` has set for the running task, if it did."""
    return _around.get()


def surround(place: Trace | None) -> None:
    """Makes this the place of the calls that the running task makes outside of a served call."""
    _around.set(place)


# --- spans ---

now_ns = time.time_ns
"""The time of spans, in nanoseconds since the epoch."""


class OpenSpan:
    """A span under way. Ends with its block, or with `end`; an exception that leaves the block makes it a failed one."""

    __slots__ = ("_span", "trace")

    def __init__(self, span: Span) -> None:
        context = span.get_span_context()
        self._span = span
        self.trace = Trace(f"{context.trace_id:032x}", f"{context.span_id:016x}", sampled=True)
        """The place of what comes out of it."""

    def note(self, name: str, value: AttributeValue) -> None:
        """Sets an attribute."""
        self._span.set_attribute(name, value)

    def rename(self, name: str) -> None:
        """What it is about is known better now."""
        self._span.update_name(name)

    def fail(self, kind: str) -> None:
        """What it is about has failed; `kind` says how, in a word from a small set."""
        self._span.set_attribute("error.type", kind)
        self._span.set_status(Status(StatusCode.ERROR, kind))

    def end(self, error: BaseException | None = None) -> None:
        """Ends it, now; as a failed one if there is an error."""
        if error is not None:
            self.fail(kind_of(error))
        self._span.end()

    def end_served(self, code: str, error: BaseException | None = None) -> None:
        """Ends the span of a call that was served and got the status of this name. What the caller did wrong is named, but is
        not a failure of who served it.
        """
        self._span.set_attribute("rpc.grpc.status_code", code_pb2.Code.Value(code))
        if error is not None and code not in _SERVER_ERRORS:
            self._span.set_attribute("error.type", kind_of(error))
            error = None
        self.end(error)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end(error)


def open_span(
    name: str, kind: SpanKind, parent: Traced, attributes: dict[str, AttributeValue], start_ns: int | None = None
) -> OpenSpan | None:
    """Begins a span, now or when it began (nanoseconds since the epoch); None if the trace is not sampled, or none is here."""
    if not parent.sampled or _tracing is None:
        return None
    if parent.span_id:
        place = SpanContext(int(parent.trace_id, 16), int(parent.span_id, 16), True, TraceFlags(TraceFlags.SAMPLED))
        context = set_span_in_context(NonRecordingSpan(place), Context())
    else:
        ROOT_TRACE_ID.set(int(parent.trace_id, 16))
        context = Context()
    return OpenSpan(_tracing.tracer.start_span(name, context, kind=kind, attributes=attributes, start_time=start_ns))


def open_call_span(method: str, kind: SpanKind, parent: Traced) -> OpenSpan | None:
    """As `open_span`, for a call of "/package.Service/Method"."""
    if not parent.sampled or _tracing is None:
        return None
    service, _, name = method[1:].rpartition("/")
    attributes: dict[str, AttributeValue] = {"rpc.system": "grpc", "rpc.service": service, "rpc.method": name}
    return open_span(f"{service}/{name}", kind, parent, attributes)


def kind_of(error: BaseException) -> str:
    """What to call an error in a span: its reason, or its class; never its text."""
    return error.reason if isinstance(error, HitherError) else type(error).__name__
