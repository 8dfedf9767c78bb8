"""What a process tells about itself: metrics of calls for Prometheus, and structured logs that name the trace of the call
that they come out of.
"""

import logging
import sys
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from itertools import accumulate
from typing import Final

import structlog
from prometheus_client import REGISTRY, CollectorRegistry
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from discovery.rpc.call import find_call
from discovery.rpc.tracing import Traced, surrounding_trace

BUCKETS_S: Final = (
    0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
)  # fmt: skip
"""Upper bounds of the latency histogram, in seconds."""


@dataclass(frozen=True, slots=True)
class TelemetrySettings:
    """Where a process shows itself. Raises ValueError for what cannot be meant."""

    otlp_endpoint: str = ""
    """Where spans go: the http:// or https:// address of an OTLP collector (gRPC). Empty: nowhere."""
    trace_ratio: float = 0.0
    """Share of the traces that begin here that are sampled, 0 to 1. A trace that comes in sampled always is."""
    metrics_host: str = "127.0.0.1"
    """Address of /metrics, /healthz and /readyz in a process that has no public port."""
    metrics_port: int = 0
    """Port of the same; 0 takes a free one."""

    def __post_init__(self) -> None:
        if not 0 <= self.trace_ratio <= 1:
            raise ValueError(f"trace_ratio is from 0 to 1, not {self.trace_ratio}")
        if self.otlp_endpoint and not self.otlp_endpoint.startswith(("http://", "https://")):
            raise ValueError("otlp_endpoint is an http:// or https:// address")
        if "@" in self.otlp_endpoint:
            raise ValueError("otlp_endpoint holds no credentials: settings are logged")


@dataclass(slots=True)
class MethodCalls:
    """What became of the calls of one method."""

    codes: dict[str, int] = field(default_factory=dict)
    total_s: float = 0.0
    buckets: list[int] = field(default_factory=lambda: [0] * (len(BUCKETS_S) + 1))

    def observe(self, code: str, seconds: float) -> None:
        """Counts a call that ended with the status code of this name ("OK", "NOT_FOUND", ...)."""
        self.codes[code] = self.codes.get(code, 0) + 1
        self.total_s += seconds
        self.buckets[bisect_left(BUCKETS_S, seconds)] += 1


class CallMetrics(Collector):
    """Served calls by method and code, their latency, and how many are being served.

    Plain numbers that become metrics only when they are read: counting costs a fraction of a microsecond. Belongs to one
    event loop; a reader in another thread may see a call half counted.
    """

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self.in_flight = 0
        self.retries = 0
        self._methods: dict[str, MethodCalls] = {}
        if registry is not None:
            registry.register(self)

    def of(self, method: str) -> MethodCalls:
        """The numbers of the method with that path."""
        return self._methods.setdefault(method, MethodCalls())

    def collect(self) -> Iterator[Metric]:
        """Called by prometheus_client when it is scraped."""
        calls = CounterMetricFamily(
            "hither_calls", "Calls served, by method and status code.", labels=("method", "code")
        )
        latency = HistogramMetricFamily("hither_call_seconds", "Time to serve a call, by method.", labels=("method",))
        for method, counted in sorted(self._methods.items()):
            for code, count in counted.codes.items():
                calls.add_metric((method, code), count)
            bounds = [*map(str, BUCKETS_S), "+Inf"]
            latency.add_metric((method,), list(zip(bounds, accumulate(counted.buckets), strict=True)), counted.total_s)
        yield calls
        yield latency
        yield GaugeMetricFamily("hither_calls_in_flight", "Calls that are being served.", self.in_flight)
        yield CounterMetricFamily("hither_call_retries", "Calls that the mesh tried once more.", self.retries)


@cache
def process_metrics() -> CallMetrics:
    """The metrics of this process, in Prometheus's default registry."""
    return CallMetrics(REGISTRY)


def add_trace(_logger: object, _method: str, event: structlog.types.EventDict) -> structlog.types.EventDict:
    """Adds `trace_id` and `span_id` of the call that a line is logged in, where the line does not name its own."""
    place: Traced | None = find_call() or surrounding_trace()
    if place is not None and event.setdefault("trace_id", place.trace_id) == place.trace_id and place.span_id:
        event.setdefault("span_id", place.span_id)
    return event


def configure_logging(level: str, json: bool) -> None:
    """Sends structured log lines of `level` ("debug", "info", "warning", "error") and above to standard error: JSON
    objects, one in a line, or text for people. Raises ValueError for an unknown level.
    """
    number = logging.getLevelNamesMapping().get(level.upper())
    if number is None:
        raise ValueError(f"no log level {level!r}")
    shared: list[structlog.types.Processor] = [
        structlog.contextvars.merge_contextvars,
        add_trace,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
    ]
    # Tracebacks without local variables: those hold messages, tokens and passwords.
    tracebacks = structlog.processors.ExceptionRenderer(
        structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
    )
    console = structlog.dev.ConsoleRenderer(
        colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
    )
    renderers: list[structlog.types.Processor] = (
        [tracebacks, structlog.processors.JSONRenderer()] if json else [console]
    )
    structlog.configure(
        processors=[*shared, *renderers],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared, processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderers]
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    logging.basicConfig(handlers=[handler], level=number, force=True)
