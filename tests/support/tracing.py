"""Spans that stay in the process, for tests of what makes them."""

from collections.abc import Iterator
from contextlib import contextmanager

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from discovery.rpc.exporting import Origin, trace_with_processor
from discovery.rpc.tracing import Trace, trace_with


class Recorded:
    """The spans that have ended since the recording began."""

    def __init__(self, exporter: InMemorySpanExporter) -> None:
        self._exporter = exporter

    @property
    def spans(self) -> list[ReadableSpan]:
        """All of them, in the order in which they began."""
        return sorted(self._exporter.get_finished_spans(), key=lambda span: span.start_time or 0)

    @property
    def names(self) -> list[str]:
        """Their names."""
        return [span.name for span in self.spans]

    def named(self, name: str) -> list[ReadableSpan]:
        """Those of that name."""
        return [span for span in self.spans if span.name == name]


@contextmanager
def recording(ratio: float = 1.0) -> Iterator[Recorded]:
    """Keeps the spans that are made while the block runs, of that share of the traces that begin in it."""
    exporter = InMemorySpanExporter()
    trace_with_processor(SimpleSpanProcessor(exporter), ratio, Origin("test", "test-1", "0"))
    try:
        yield Recorded(exporter)
    finally:
        trace_with(None)


def place_of(span: ReadableSpan) -> Trace:
    """The place of what comes out of the span."""
    context = span.get_span_context()
    assert context is not None
    return Trace(f"{context.trace_id:032x}", f"{context.span_id:016x}", bool(context.trace_flags.sampled))


def parent_of(span: ReadableSpan) -> str:
    """The id of the span that it came out of; empty for a root."""
    return f"{span.parent.span_id:016x}" if span.parent is not None else ""
