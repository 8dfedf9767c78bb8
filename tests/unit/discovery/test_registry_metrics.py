from prometheus_client import CollectorRegistry, generate_latest

from discovery.registry.metrics import RegistryMetrics


def test_registry_numbers_become_metrics() -> None:
    registry = CollectorRegistry()
    metrics = RegistryMetrics(registry)
    metrics.watch_restarts, metrics.snapshots, metrics.lease_losses, metrics.failures = 1, 2, 3, 4
    metrics.fenced = False
    metrics.contacted()

    text = generate_latest(registry).decode()

    assert "hither_registry_watch_restarts_total 1.0" in text
    assert "hither_registry_snapshots_total 2.0" in text
    assert "hither_registry_lease_losses_total 3.0" in text
    assert "hither_registry_failures_total 4.0" in text
    assert "hither_registry_fenced 0.0" in text
    assert "hither_registry_silent_seconds " in text
