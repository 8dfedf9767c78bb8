"""What goes between this process and others on streams, as metrics: plain numbers, turned into metrics when they are read."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector


@dataclass(slots=True)
class StreamNumbers:
    """Of all streams of one kind. "Sent" and "received" are this process's."""

    open: int = 0
    resumes: int = 0
    """Breaks after which the session went on."""
    losses: int = 0
    """Sessions that could not be resumed while something was open in them."""
    sent_batches: int = 0
    sent_items: int = 0
    sent_bytes: int = 0
    received_batches: int = 0
    received_items: int = 0
    received_bytes: int = 0

    def sent(self, items: int, size_bytes: int) -> None:
        """Counts a batch that was written."""
        self.sent_batches += 1
        self.sent_items += items
        self.sent_bytes += size_bytes

    def received(self, items: int, size_bytes: int) -> None:
        """Counts a batch that came."""
        self.received_batches += 1
        self.received_items += items
        self.received_bytes += size_bytes


def _none() -> int:
    return 0


@dataclass(slots=True)
class _Gauges:
    waiting: Callable[[], int] = _none
    unacknowledged: Callable[[], int] = _none
    ejected: Callable[[], int] = _none

    def read(
        self, *, waiting: Callable[[], int], unacknowledged: Callable[[], int], ejected: Callable[[], int]
    ) -> None:
        """Where to read them: calls that wait for credit, deliver batches not acknowledged, ejected instances."""
        self.waiting, self.unacknowledged, self.ejected = waiting, unacknowledged, ejected


@dataclass(slots=True)
class CallNumbers:
    """Of the calls that this process makes."""

    budget_refusals: int = 0
    """Retries that were not made because the budget was used up."""
    refreshes: int = 0
    """Times that the registry was read because an instance said NOT_OWNER."""
    ejections: int = 0
    shed: int = 0
    """Calls that were refused because too many waited for the peer."""


@dataclass(eq=False)
class StreamMetrics(Collector):
    """The numbers of one process. Of one event loop; a reader in another thread may see a batch half counted."""

    relay_out: StreamNumbers = field(default_factory=StreamNumbers)
    """Streams on which this process calls."""
    relay_in: StreamNumbers = field(default_factory=StreamNumbers)
    """Streams on which it is called."""
    deliver_out: StreamNumbers = field(default_factory=StreamNumbers)
    """Streams to edges of other processes."""
    deliver_in: StreamNumbers = field(default_factory=StreamNumbers)
    """Streams to the edges of this one."""
    calls: CallNumbers = field(default_factory=CallNumbers)
    gauges: _Gauges = field(default_factory=_Gauges)
    """Read when the metrics are."""

    @contextmanager
    def shown_in(self, registry: CollectorRegistry) -> Iterator[None]:
        """Stands in the registry for the time of the block."""
        registry.register(self)
        try:
            yield
        finally:
            registry.unregister(self)

    def collect(self) -> Iterator[Metric]:
        """See prometheus_client."""
        kinds = {
            "relay_out": self.relay_out,
            "relay_in": self.relay_in,
            "deliver_out": self.deliver_out,
            "deliver_in": self.deliver_in,
        }
        yield _gauge("open", "Streams that are open.", {kind: numbers.open for kind, numbers in kinds.items()})
        for name, help_ in (
            ("resumes", "Broken streams whose session went on."),
            ("losses", "Sessions with something open in them that could not be resumed."),
        ):
            yield _counter(name, help_, {kind: getattr(numbers, name) for kind, numbers in kinds.items()})
        for name, help_ in (
            ("batches", "Batches"),
            ("items", "Requests, answers and deliveries in batches"),
            ("bytes", "Bytes of batches"),
        ):
            family = CounterMetricFamily(
                f"hither_stream_{name}", f"{help_}, by stream and direction.", labels=("stream", "direction")
            )
            for kind, numbers in kinds.items():
                for direction in ("sent", "received"):
                    family.add_metric((kind, direction), getattr(numbers, f"{direction}_{name}"))
            yield family
        yield from self._of_calls()

    def _of_calls(self) -> Iterator[Metric]:
        calls, gauges = self.calls, self.gauges
        yield GaugeMetricFamily(
            "hither_calls_waiting", "Calls that no peer has been given yet, for want of credit.", gauges.waiting()
        )
        yield GaugeMetricFamily(
            "hither_deliver_unacknowledged", "Batches that edges have not acknowledged.", gauges.unacknowledged()
        )
        yield GaugeMetricFamily(
            "hither_instances_ejected", "Instances that are spared calls for now.", gauges.ejected()
        )
        for name, help_, value in (
            ("call_budget_refusals", "Retries that were not made: the budget was used up.", calls.budget_refusals),
            ("call_refreshes", "Readings of the registry because an instance said NOT_OWNER.", calls.refreshes),
            ("calls_shed", "Calls refused because too many waited for their peer.", calls.shed),
            ("ejections", "Times that an instance was ejected.", calls.ejections),
        ):
            yield CounterMetricFamily(f"hither_{name}", help_, value)


def _gauge(name: str, help_: str, values: dict[str, int]) -> Metric:
    family = GaugeMetricFamily(f"hither_stream_{name}", help_, labels=("stream",))
    for kind, value in values.items():
        family.add_metric((kind,), value)
    return family


def _counter(name: str, help_: str, values: dict[str, int]) -> Metric:
    family = CounterMetricFamily(f"hither_stream_{name}", help_, labels=("stream",))
    for kind, value in values.items():
        family.add_metric((kind,), value)
    return family
