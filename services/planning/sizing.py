"""What each kind of process and each engine needs for a workload: cores from the rates and the costs, then how many of what size.

Rules, the same for all: at the busiest time a core is at most 60% busy and a disk at most 60% full, so that one of several may
die; a process of Hither uses one core; there are two instances of everything, three of what votes. Sizes of servers are a choice
(`SHAPES`), not a measurement.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from services.planning.costs import Costs
from services.planning.workload import DAY_S, Workload

BUSY: Final = 0.6
FULL: Final = 0.6
EDGE_CONNECTIONS: Final = 50_000
"""Connections that an edge takes at most: `max_connections` of [edge]."""
GIB: Final = 2**30
TB: Final = 1e12

PROCESSES: Final = ("edge", "messaging", "sessions", "presence", "directory", "location")
ENGINES: Final = ("etcd", "kafka", "cassandra", "postgresql", "redis-cache", "redis-bus")

_ROOM: Final = 2.0
"""Memory of a process relative to what was measured: its caches fill with time."""
_PARTITIONS: Final = (256, 512, 1024, 2048, 4096, 8192, 16384)
_PARTITIONS_EACH: Final = 4
"""Partitions that an owner should have at least, so that they spread evenly."""


@dataclass(frozen=True, slots=True)
class Shape:
    """A server: cores, memory, and disk (zero where it needs little)."""

    cores: int
    memory_bytes: float
    disk_bytes: float = 0.0
    least: int = 2


SHAPES: Final = {
    "etcd": Shape(2, 8 * GIB, 0.05 * TB, 3),
    "kafka": Shape(8, 32 * GIB, 2 * TB, 3),
    "cassandra": Shape(16, 64 * GIB, 4 * TB, 3),
    "postgresql": Shape(32, 128 * GIB, 2 * TB, 1),
    "redis-cache": Shape(1, 32 * GIB, 0, 1),
    "redis-bus": Shape(1, 4 * GIB, 0, 1),
}
"""The servers that engines are counted in; of the last three each has a standby beside it."""
STANDBYS: Final = ("postgresql", "redis-cache", "redis-bus")


@dataclass(frozen=True, slots=True)
class Term:
    """A part of what something needs: so many a second, what each costs, and how often it is done."""

    what: str
    per_s: float
    cpu_us: float
    times: float = 1.0
    assumed: bool = False

    @property
    def cores(self) -> float:
        """Cores that do nothing else."""
        return self.per_s * self.cpu_us * self.times / 1e6


@dataclass(frozen=True, slots=True)
class Need:
    """What one kind of process or engine needs."""

    kind: str
    terms: tuple[Term, ...]
    instances: int
    standbys: int
    cores_each: int
    memory_bytes_each: float
    disk_bytes_each: float
    bound_by: str
    """What decides how many: "CPU", "memory", "disk", "connections" or "availability"."""

    @property
    def cores(self) -> float:
        """Cores that are busy at the peak."""
        return sum(term.cores for term in self.terms)

    @property
    def assumed(self) -> bool:
        """Whether it rests on a cost that nobody has measured."""
        return any(term.assumed for term in self.terms)


@dataclass(frozen=True, slots=True)
class Plan:
    """A workload and what it needs."""

    workload: Workload
    costs: Costs
    processes: tuple[Need, ...]
    engines: tuple[Need, ...]
    stored_bytes: dict[str, float]
    """Bytes at Cassandra, all copies, by what they are."""
    partitions: int
    """Of the cluster; they are for good."""

    @property
    def writes_per_partition(self) -> float:
        """Messages a second in one partition of the log at the busiest time, if they spread evenly."""
        return self.workload.peak_messages_per_s / self.partitions

    def need(self, kind: str) -> Need:
        """Of one kind. KeyError if there is none."""
        return {need.kind: need for need in (*self.processes, *self.engines)}[kind]


def plan(workload: Workload, costs: Costs) -> Plan:
    """What the workload needs."""
    processes = tuple(_process(kind, workload, costs) for kind in PROCESSES)
    listeners = {need.kind: need.instances for need in processes}
    stored = _stored(workload, costs)
    engines = tuple(_engine(kind, workload, costs, stored, listeners) for kind in ENGINES)
    owners = max(need.instances for need in processes if need.kind != "edge")
    partitions = next((count for count in _PARTITIONS if count >= owners * _PARTITIONS_EACH), _PARTITIONS[-1])
    return Plan(workload, costs, processes, engines, stored, partitions)


def _shared_terms(where: str, workload: Workload, costs: Costs, times: float = 1.0) -> list[Term]:
    """What messages, connects and connections cost there, as they were measured as a whole."""
    rates = (
        ("message", workload.peak_messages_per_s),
        ("connect", workload.peak_connects_per_s),
        ("connection_s", workload.connections),
    )
    found = [(what, per_s, costs.of(what, where)) for what, per_s in rates]
    return [Term(what, per_s, cost.cpu_us, times, cost.assumed) for what, per_s, cost in found if cost.cpu_us]


def _process(kind: str, workload: Workload, costs: Costs) -> Need:
    terms = _shared_terms(kind, workload, costs)
    update = costs.of("update", kind)
    if update.cpu_us:
        terms.append(Term("update", workload.peak_updates_per_s, update.cpu_us, 1.0, update.assumed))
    told = workload.connected_friends * workload.nearby_share
    shown = costs.of("shown", kind)
    if shown.cpu_us:
        terms.append(Term("shown", workload.peak_updates_per_s, shown.cpu_us, told, shown.assumed))
    connections = workload.connections
    counts = {"CPU": sum(term.cores for term in terms) / BUSY, "availability": 2.0}
    if kind == "edge":
        delivery = costs.of("delivery", kind)
        terms.append(Term("delivery", workload.peak_updates_per_s, delivery.cpu_us, told, delivery.assumed))
        counts["CPU"] = sum(term.cores for term in terms) / BUSY
        counts["connections"] = connections / EDGE_CONNECTIONS
    instances, bound_by = _most(counts)
    held = costs.of("connection_s", kind).memory_bytes * connections / instances
    memory = (costs.of("process", kind).memory_bytes + held) * _ROOM
    return Need(kind, tuple(terms), instances, 0, 1, memory, 0.0, bound_by)


def _engine(kind: str, workload: Workload, costs: Costs, stored: dict[str, float], listeners: dict[str, int]) -> Need:
    shape = SHAPES[kind]
    terms = _engine_terms(kind, workload, costs, listeners)
    disk, memory = _held(kind, workload, costs, stored)
    counts = {"CPU": sum(term.cores for term in terms) / shape.cores / BUSY, "availability": float(shape.least)}
    if disk:
        counts["disk"] = disk / shape.disk_bytes / FULL
    if memory:
        counts["memory"] = memory / shape.memory_bytes / FULL
    instances, bound_by = _most(counts)
    standbys = instances if kind in STANDBYS else 0
    disk_each = disk / instances / FULL if disk else shape.disk_bytes
    memory_each = max(GIB, memory / instances / FULL) if memory else shape.memory_bytes
    return Need(kind, tuple(terms), instances, standbys, shape.cores, memory_each, disk_each, bound_by)


def _engine_terms(kind: str, workload: Workload, costs: Costs, listeners: dict[str, int]) -> Sequence[Term]:
    updates, copies = workload.peak_updates_per_s, workload.replication
    if kind == "kafka":
        return _shared_terms("kafka", workload, costs, copies)
    if kind == "cassandra":
        row = costs.of("history_row", "cassandra")
        return [*_shared_terms("cassandra", workload, costs, copies), Term("history_row", updates, row.cpu_us, copies)]
    if kind == "postgresql":
        return _shared_terms("postgresql", workload, costs)
    if kind == "redis-cache":
        fix = costs.of("fix", "redis")
        return [*_shared_terms("redis", workload, costs), Term("fix", updates, fix.cpu_us, 1.0, fix.assumed)]
    if kind == "redis-bus":
        changes = 2 * workload.peak_connects_per_s
        publish, delivery = costs.of("publish", "redis"), costs.of("publish_delivery", "redis")
        hears = {name: min(workload.connected_friends, listeners[name]) for name in ("location", "presence")}
        return [
            Term("publish", updates + changes, publish.cpu_us),
            Term("publish_delivery", updates, delivery.cpu_us, hears["location"]),
            Term("publish_delivery", changes, delivery.cpu_us, hears["presence"]),
        ]
    return ()


def _held(kind: str, workload: Workload, costs: Costs, stored: dict[str, float]) -> tuple[float, float]:
    """Bytes on disk and in memory, over all instances but standbys. Zero where the shape alone says it."""
    if kind == "kafka":
        hours = workload.messages_per_s * workload.log_hours * 3600
        return hours * costs.of("message", "kafka").disk_bytes * workload.replication, 0.0
    if kind == "cassandra":
        return sum(stored.values()), 0.0
    if kind == "postgresql":
        return workload.daily_users * costs.of("connect", "postgresql").disk_bytes, 0.0
    if kind == "redis-cache":
        connections = workload.connections * costs.of("connection_s", "redis").memory_bytes
        return 0.0, connections + workload.sharing * costs.of("fix", "redis").memory_bytes
    return 0.0, 0.0


def _stored(workload: Workload, costs: Costs) -> dict[str, float]:
    messages = workload.messages_a_day * workload.message_days * costs.of("message", "cassandra").disk_bytes
    rows = workload.updates_per_s * DAY_S * workload.history_days
    return {
        "messages": messages * workload.replication,
        "history": rows * costs.of("history_row", "cassandra").disk_bytes * workload.replication,
    }


def _most(counts: dict[str, float]) -> tuple[int, str]:
    """How many, and what asks for that many."""
    bound_by = max(counts, key=lambda name: math.ceil(counts[name] - 1e-9))
    if math.ceil(counts[bound_by] - 1e-9) <= math.ceil(counts["availability"]):
        bound_by = "availability"
    return math.ceil(counts[bound_by] - 1e-9), bound_by
