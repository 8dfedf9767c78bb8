"""A collector of spans: what OpenTelemetry's exporter sends to, over real gRPC, and what tests ask of what came."""

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.proto.trace.v1 import trace_pb2


@dataclass(frozen=True)
class CollectedSpan:
    """A span as it came."""

    name: str
    trace_id: str
    span_id: str
    parent_id: str
    kind: str
    failed: bool
    status: str
    began_ns: int
    ended_ns: int
    attributes: dict[str, Any]
    service: str


@dataclass
class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """Keeps every span. `address` is where exporters find it."""

    address: str = ""
    spans: list[CollectedSpan] = field(default_factory=list)

    async def Export(
        self, request: trace_service_pb2.ExportTraceServiceRequest, context: object
    ) -> trace_service_pb2.ExportTraceServiceResponse:
        """See TraceService."""
        for resource in request.resource_spans:
            service = _values(resource.resource.attributes).get("service.name", "")
            for scope in resource.scope_spans:
                self.spans += [_collected(span, service) for span in scope.spans]
        return trace_service_pb2.ExportTraceServiceResponse()

    def trace(self, trace_id: str) -> "CollectedTrace":
        """The spans of one trace, so far."""
        return CollectedTrace([span for span in self.spans if span.trace_id == trace_id])

    def named(self, name: str) -> list[CollectedSpan]:
        """The spans of that name, so far."""
        return [span for span in self.spans if span.name == name]


@dataclass(frozen=True)
class CollectedTrace:
    """The spans of one trace."""

    spans: list[CollectedSpan]

    def one(self, name: str) -> CollectedSpan:
        """The only span of that name."""
        [span] = [span for span in self.spans if span.name == name]
        return span

    def named(self, name: str) -> list[CollectedSpan]:
        """The spans of that name, as they began."""
        return sorted((span for span in self.spans if span.name == name), key=lambda span: span.began_ns)

    def way(self, name: str) -> list[str]:
        """The names of the spans from the root down to the only span of that name."""
        by_id = {span.span_id: span for span in self.spans}
        span: CollectedSpan | None = self.one(name)
        names: list[str] = []
        while span is not None:
            names.append(span.name)
            span = by_id.get(span.parent_id)
        return names[::-1]


@asynccontextmanager
async def running_collector() -> AsyncIterator[Collector]:
    """A collector on a free port of loopback."""
    collector = Collector()
    server = grpc.aio.server()
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(collector, server)  # type: ignore[no-untyped-call]
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    collector.address = f"http://127.0.0.1:{port}"
    try:
        yield collector
    finally:
        await server.stop(grace=0)


def _collected(span: trace_pb2.Span, service: str) -> CollectedSpan:
    return CollectedSpan(
        name=span.name,
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent_id=span.parent_span_id.hex(),
        kind=trace_pb2.Span.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_"),
        failed=span.status.code == trace_pb2.Status.STATUS_CODE_ERROR,
        status=span.status.message,
        began_ns=span.start_time_unix_nano,
        ended_ns=span.end_time_unix_nano,
        attributes=_values(span.attributes),
        service=service,
    )


def _values(attributes: Iterable[Any]) -> dict[str, Any]:
    return {item.key: getattr(item.value, item.value.WhichOneof("value")) for item in attributes}
