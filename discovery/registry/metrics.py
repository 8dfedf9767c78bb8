"""What a process's registry work comes to, for Prometheus. Plain numbers that become metrics only when they are read."""

import time
from collections.abc import Iterator
from functools import cache

from prometheus_client import REGISTRY, CollectorRegistry
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector


class RegistryMetrics(Collector):
    """Counts since the process began. Belongs to one event loop."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self.watch_restarts = 0
        """Watches that broke and began anew."""
        self.snapshots = 0
        """Snapshots with something new that this process took over."""
        self.lease_losses = 0
        """Leases that the registry said had ended under this process."""
        self.failures = 0
        """Renewals that the registry did not answer."""
        self.fenced = True
        """This process owns nothing, whatever the ring says."""
        self._contact_s = time.monotonic()
        if registry is not None:
            registry.register(self)

    def contacted(self) -> None:
        """The registry has just answered."""
        self._contact_s = time.monotonic()

    def collect(self) -> Iterator[Metric]:
        """Called by prometheus_client when it is scraped."""
        silent_s = time.monotonic() - self._contact_s
        yield CounterMetricFamily(
            "hither_registry_watch_restarts", "Watches of the registry that broke and began anew.", self.watch_restarts
        )
        yield CounterMetricFamily("hither_registry_snapshots", "New snapshots of the registry.", self.snapshots)
        yield CounterMetricFamily(
            "hither_registry_lease_losses", "Leases that had ended when they were to be renewed.", self.lease_losses
        )
        yield CounterMetricFamily(
            "hither_registry_failures", "Renewals that the registry did not answer.", self.failures
        )
        yield GaugeMetricFamily("hither_registry_fenced", "1 if this process owns nothing.", int(self.fenced))
        yield GaugeMetricFamily(
            "hither_registry_silent_seconds", "Time since the registry last answered this process.", silent_s
        )


@cache
def process_registry_metrics() -> RegistryMetrics:
    """The metrics of this process, in Prometheus's default registry."""
    return RegistryMetrics(REGISTRY)
