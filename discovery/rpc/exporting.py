"""Where spans go: to an OpenTelemetry collector, in batches, from a thread of their own.

What waits to be sent is bounded; at the limit the oldest spans are dropped, and a collector that is away costs nothing but
spans. Nothing here is loaded by a process that exports none until it asks for it.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

import structlog
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from prometheus_client import Counter

from discovery.rpc.telemetry import TelemetrySettings
from discovery.rpc.tracing import ROOT_TRACE_ID, trace_with

MAX_WAITING_SPANS: Final = 4096
"""Spans that wait to be sent; beyond it the oldest are dropped."""

_BATCH_SPANS: Final = 512
_PAUSE_MS: Final = 1000.0
_EXPORT_TIMEOUT_S: Final = 3.0
_FLUSH_S: Final = 5.0
_SECURE: Final = "https://"

_exported = Counter("hither_trace_spans", "Spans that were handed to the collector, or could not be.", ["outcome"])
_sent, _failed = _exported.labels("sent"), _exported.labels("failed")

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Origin:
    """Who makes the spans: the process's service name, its instance id and its version."""

    service: str
    instance_id: str
    version: str


@asynccontextmanager
async def exporting_spans(settings: TelemetrySettings, origin: Origin) -> AsyncIterator[None]:
    """Makes spans and sends them to the settings' collector while the block runs; does nothing without one. What waits at
    the end is still sent, for 5 s at most.
    """
    if not settings.otlp_endpoint:
        yield
        return
    exporter = OTLPSpanExporter(
        endpoint=settings.otlp_endpoint,
        insecure=not settings.otlp_endpoint.startswith(_SECURE),
        timeout=_EXPORT_TIMEOUT_S,
    )
    processor = BatchSpanProcessor(
        _Counting(exporter),
        max_queue_size=MAX_WAITING_SPANS,
        schedule_delay_millis=_PAUSE_MS,
        max_export_batch_size=_BATCH_SPANS,
    )
    trace_with_processor(processor, settings.trace_ratio, origin)
    log.info("tracing", endpoint=settings.otlp_endpoint, ratio=settings.trace_ratio)
    try:
        yield
    finally:
        trace_with(None)
        await _flush(processor, exporter)


def trace_with_processor(processor: SpanProcessor, ratio: float, origin: Origin) -> None:
    """Makes spans from now on, and gives them to the processor. `trace_with(None)` ends it."""
    resource = Resource(
        {
            "service.namespace": "hither",
            "service.name": origin.service,
            "service.instance.id": origin.instance_id,
            "service.version": origin.version,
        }
    )
    provider = TracerProvider(sampler=ALWAYS_ON, resource=resource, shutdown_on_exit=False, id_generator=_Ids())
    provider.add_span_processor(processor)
    trace_with(provider.get_tracer("hither", origin.version), ratio)


async def _flush(processor: BatchSpanProcessor, exporter: OTLPSpanExporter) -> None:
    """Sends what waits, in a thread. When the time is over the exporter gives up, which ends the thread."""
    ending = asyncio.ensure_future(asyncio.to_thread(processor.shutdown))
    done, _ = await asyncio.wait((ending,), timeout=_FLUSH_S)
    if not done:
        log.warning("spans were dropped: the collector does not take them")
        exporter.shutdown()
    await ending


class _Ids(RandomIdGenerator):
    """Takes the trace id of a root span from who makes it."""

    def generate_trace_id(self) -> int:
        """See IdGenerator."""
        return ROOT_TRACE_ID.get()


class _Counting(SpanExporter):
    """Counts what becomes of spans."""

    def __init__(self, exporter: SpanExporter) -> None:
        self._exporter = exporter

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """See SpanExporter."""
        result = self._exporter.export(spans)
        (_sent if result is SpanExportResult.SUCCESS else _failed).inc(len(spans))
        return result

    def shutdown(self) -> None:
        """See SpanExporter."""
        self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        """See SpanExporter."""
        return self._exporter.force_flush(timeout_millis)
