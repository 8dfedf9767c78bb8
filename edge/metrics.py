"""What an edge counts. Plain numbers on the hot path; Prometheus reads them when it asks."""

from collections import Counter
from collections.abc import Callable, Iterator
from typing import NamedTuple

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector


class Backlog(NamedTuple):
    """What waits to be sent to all clients together."""

    bytes: int = 0
    frames: int = 0
    connections: int = 0


class EdgeMetrics(Collector):
    """The numbers of one edge. Labels come from the contract and from our own close codes, never from clients."""

    def __init__(self) -> None:
        self.frames_in: Counter[str] = Counter()
        """By frame type; "unknown" for types that the contract does not have."""
        self.frames_out: Counter[str] = Counter()
        """By frame type."""
        self.closes: Counter[int] = Counter()
        """By close code; 1006 where the connection broke without one."""
        self.registry_failures: Counter[str] = Counter()
        """Calls to the session registry and to presence that failed, by method."""
        self.call_errors: Counter[str] = Counter()
        """Clients' calls that failed, by reason."""
        self.bytes_in = 0
        self.bytes_out = 0
        self.refused = 0
        """Frames beyond a connection's rate."""
        self.rejected = 0
        """Connections beyond `max_connections`, or while draining."""
        self.conflated = 0
        self.dropped = 0
        """Events that may be lost and found no room."""
        self.recoveries = 0
        """Recoveries of connections that were live: a gap in what was delivered."""
        self.connections: Callable[[], int] = int
        self.calls_in_flight: Callable[[], int] = int
        self.backlog: Callable[[], Backlog] = Backlog

    def collect(self) -> Iterator[Metric]:
        """See prometheus_client."""
        yield GaugeMetricFamily("hither_edge_connections", "Open WebSocket connections.", self.connections())
        yield GaugeMetricFamily("hither_edge_calls_in_flight", "Calls that clients wait for.", self.calls_in_flight())
        backlog = self.backlog()
        yield GaugeMetricFamily("hither_edge_outbox_bytes", "Bytes that wait to be sent to clients.", backlog.bytes)
        yield GaugeMetricFamily("hither_edge_outbox_frames", "Frames that wait to be sent to clients.", backlog.frames)
        yield GaugeMetricFamily(
            "hither_edge_connections_waiting", "Connections that frames wait for.", backlog.connections
        )
        yield _labelled("hither_edge_frames_in", "Frames from clients.", "type", self.frames_in)
        yield _labelled("hither_edge_frames_out", "Frames to clients.", "type", self.frames_out)
        yield _labelled("hither_edge_closes", "Closed connections, by close code.", "code", self.closes)
        yield _labelled("hither_edge_call_errors", "Clients' calls that failed.", "reason", self.call_errors)
        yield _labelled(
            "hither_edge_registry_failures",
            "Calls to sessions and presence that failed.",
            "method",
            self.registry_failures,
        )
        for name, help_, value in (
            ("bytes_in", "Bytes of clients' messages.", self.bytes_in),
            ("bytes_out", "Bytes of frames to clients.", self.bytes_out),
            ("frames_refused", "Frames beyond a connection's rate.", self.refused),
            ("connections_rejected", "Connections that were not taken.", self.rejected),
            ("frames_conflated", "Events replaced by newer ones before they were sent.", self.conflated),
            ("frames_dropped", "Events that may be lost and found no room.", self.dropped),
            ("recoveries", "Recoveries of live connections.", self.recoveries),
        ):
            yield CounterMetricFamily(f"hither_edge_{name}", help_, value)


def _labelled(name: str, help_: str, label: str, values: Counter[str] | Counter[int]) -> Metric:
    family = CounterMetricFamily(name, help_, labels=[label])
    for key, value in list(values.items()):
        family.add_metric([str(key)], value)
    return family
