"""The mesh at one revision, pure: which instances there are, and what the ring gives to each."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import groupby
from operator import attrgetter

from discovery.registry.port import Instance, InstanceState, Snapshot
from discovery.ring import assign


@dataclass(frozen=True, slots=True)
class ServiceView:
    """One service: its instances by id, those of them that serve, and the owner of each partition (none if none serves)."""

    instances: Mapping[str, Instance]
    serving: tuple[Instance, ...]
    owners: tuple[Instance, ...]

    def partitions_of(self, instance_id: str) -> frozenset[int]:
        """The partitions that the instance owns."""
        return frozenset(number for number, owner in enumerate(self.owners) if owner.instance_id == instance_id)


NO_SERVICE = ServiceView({}, (), ())


@dataclass(frozen=True, slots=True)
class View:
    """All services at one revision of the registry."""

    revision: int = 0
    services: Mapping[str, ServiceView] = field(default_factory=dict)

    def of(self, service: str) -> ServiceView:
        """The service of that full name, empty if nobody serves it."""
        return self.services.get(service, NO_SERVICE)


def next_view(previous: View, snapshot: Snapshot, partitions: int) -> View:
    """The view that follows from the snapshot. A service whose instances have not changed keeps its ring."""
    services = {}
    for service, members in groupby(snapshot.instances, key=attrgetter("service")):
        services[service] = _service(previous.of(service), members, partitions)
    return View(snapshot.revision, services)


def _service(previous: ServiceView, members: Iterable[Instance], partitions: int) -> ServiceView:
    instances = {instance.instance_id: instance for instance in members}
    if instances == previous.instances:
        return previous
    serving = {name: instance for name, instance in instances.items() if instance.state is InstanceState.SERVING}
    weights = {name: instance.weight for name, instance in serving.items()}
    if weights == {instance.instance_id: instance.weight for instance in previous.serving}:
        names: Iterable[str] = (owner.instance_id for owner in previous.owners)
    else:
        names = assign(weights, partitions)
    return ServiceView(instances, tuple(serving.values()), tuple(serving[name] for name in names))
