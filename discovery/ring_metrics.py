"""What a process sees of the mesh, as metrics: the ring's revision, who serves what, and how partitions move.

Fed by the mesh whenever its view changes; turned into metrics when they are read. Decides nothing.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from discovery.view import View


class RingMetrics(Collector):
    """The numbers of one process. `instance_id` is what it registers its services as."""

    def __init__(self, instance_id: str) -> None:
        self._instance_id = instance_id
        self._view = View()
        self._owned: dict[str, frozenset[int]] = {}
        self._gained: Counter[str] = Counter()
        self._lost: Counter[str] = Counter()

    def see(self, view: View, *, fenced: bool) -> None:
        """The view is this now; `fenced`: no lease is held, so nothing is owned whatever the ring says."""
        self._view = view
        owned = {
            service: frozenset() if fenced else seen.partitions_of(self._instance_id)
            for service, seen in view.services.items()
            if self._instance_id in seen.instances
        }
        for service in owned.keys() | self._owned.keys():
            before, after = self._owned.get(service, frozenset()), owned.get(service, frozenset())
            self._gained[service] += len(after - before)
            self._lost[service] += len(before - after)
        self._owned = owned

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
        yield GaugeMetricFamily(
            "hither_ring_revision",
            "Revision of the registry's snapshot that the ring follows from.",
            self._view.revision,
        )
        instances = GaugeMetricFamily(
            "hither_ring_instances", "Instances in the registry, by service and state.", labels=("service", "state")
        )
        for service, seen in self._view.services.items():
            states = Counter(instance.state.name for instance in seen.instances.values())
            for state, count in states.items():
                instances.add_metric((service, state), count)
        yield instances
        partitions = GaugeMetricFamily(
            "hither_ring_partitions", "Partitions that this process owns.", labels=("service",)
        )
        for service, owned in self._owned.items():
            partitions.add_metric((service,), len(owned))
        yield partitions
        yield _counted("gained", "Partitions that came to this process.", self._gained)
        yield _counted("lost", "Partitions that left this process.", self._lost)


def _counted(what: str, help_: str, counts: Counter[str]) -> Metric:
    family = CounterMetricFamily(f"hither_ring_partitions_{what}", help_, labels=("service",))
    for service, count in counts.items():
        family.add_metric((service,), count)
    return family
