"""Spans on their way to a collector, over real gRPC."""

from opentelemetry.trace import SpanKind
from prometheus_client import REGISTRY

from discovery.rpc.exporting import Origin, exporting_spans
from discovery.rpc.telemetry import TelemetrySettings
from discovery.rpc.tracing import begin_trace, open_span
from tests.support.otlp import running_collector
from tests.support.servers.process import free_port

ORIGIN = Origin("hither", "hither-1", "1.2.3")


def work() -> None:
    span = open_span("work", SpanKind.INTERNAL, begin_trace(), {})
    assert span is not None
    span.end()


def counted(outcome: str) -> float:
    return REGISTRY.get_sample_value("hither_trace_spans_total", {"outcome": outcome}) or 0.0


async def test_what_waits_at_the_end_is_still_sent_and_says_where_it_is_from() -> None:
    before = counted("sent")
    async with running_collector() as collector:
        async with exporting_spans(TelemetrySettings(collector.address, 1.0), ORIGIN):
            for _ in range(3):
                work()

        assert [(span.name, span.service) for span in collector.spans] == [("work", "hither")] * 3
    assert counted("sent") - before == 3


async def test_a_collector_that_is_away_costs_spans_and_nothing_else() -> None:
    before = counted("failed")
    async with exporting_spans(TelemetrySettings(f"http://127.0.0.1:{free_port()}", 1.0), ORIGIN):
        work()

    assert counted("failed") - before == 1


async def test_without_a_collector_nothing_is_sampled() -> None:
    async with exporting_spans(TelemetrySettings(trace_ratio=1.0), ORIGIN):
        assert not begin_trace().sampled


async def test_after_it_no_span_is_made() -> None:
    async with running_collector() as collector:
        async with exporting_spans(TelemetrySettings(collector.address, 1.0), ORIGIN):
            pass
        assert not begin_trace().sampled
