"""What a process tells of the mesh that it sees."""

from prometheus_client import CollectorRegistry

from discovery.registry.embedded import EmbeddedRegistry
from discovery.registry.port import Instance, InstanceState, Snapshot
from discovery.ring_metrics import RingMetrics
from discovery.view import View, next_view
from tests.support.cluster import MESSAGING, PARTITIONS, Keys, running_process


def instance(name: str, state: InstanceState = InstanceState.SERVING) -> Instance:
    return Instance(service=MESSAGING, instance_id=name, address="", weight=100, version="", state=state, load=0.0)


def view(revision: int, *instances: Instance) -> View:
    return next_view(View(), Snapshot(revision, instances), PARTITIONS)


class Seen:
    """The metrics of the process `one`."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self.metrics = RingMetrics("one")
        self._registry.register(self.metrics)

    def __getitem__(self, name: str) -> float | None:
        return self._registry.get_sample_value(f"hither_{name}", {"service": MESSAGING})

    def plain(self, name: str, **labels: str) -> float | None:
        return self._registry.get_sample_value(f"hither_{name}", labels)


def test_partitions_that_come_and_go_are_counted() -> None:
    seen = Seen()

    seen.metrics.see(view(1, instance("one")), fenced=False)
    alone = seen["ring_partitions"]
    seen.metrics.see(view(2, instance("one"), instance("two")), fenced=False)
    shared = seen["ring_partitions"]

    assert alone == PARTITIONS
    assert shared is not None
    assert 0 < shared < PARTITIONS
    assert seen["ring_partitions_gained_total"] == PARTITIONS
    assert seen["ring_partitions_lost_total"] == PARTITIONS - shared
    assert seen.plain("ring_revision") == 2


def test_without_a_lease_a_process_owns_nothing_whatever_the_ring_says() -> None:
    seen = Seen()
    seen.metrics.see(view(1, instance("one")), fenced=False)

    seen.metrics.see(view(1, instance("one")), fenced=True)

    assert (seen["ring_partitions"], seen["ring_partitions_lost_total"]) == (0, PARTITIONS)


def test_instances_are_counted_by_state() -> None:
    seen = Seen()

    seen.metrics.see(view(1, instance("one"), instance("two"), instance("old", InstanceState.DRAINING)), fenced=False)

    assert seen.plain("ring_instances", service=MESSAGING, state="SERVING") == 2
    assert seen.plain("ring_instances", service=MESSAGING, state="DRAINING") == 1


async def test_a_mesh_feeds_its_metrics() -> None:
    registry, keys, shown = EmbeddedRegistry(), Keys(), CollectorRegistry()
    async with running_process(registry, keys, "one") as one:
        with one.mesh.ring_metrics.shown_in(shown):
            assert shown.get_sample_value("hither_ring_partitions", {"service": MESSAGING}) == PARTITIONS
    assert not list(shown.collect())
