"""The registry: which instances of which services there are, as everyone in the cluster sees it."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from enum import Enum
from typing import Final, Protocol

from hither.mesh.v1 import instance_pb2

INSTANCE_NUMBERS: Final = 1024
"""Instance numbers for Snowflakes are 0 to this less one."""


class InstanceState(Enum):
    """Whether an instance takes new work."""

    SERVING = instance_pb2.INSTANCE_STATE_SERVING
    DRAINING = instance_pb2.INSTANCE_STATE_DRAINING


@dataclass(frozen=True, slots=True)
class Instance:
    """One process that serves one service. (service, instance_id) names it."""

    service: str
    """Full name, such as "hither.messaging.v1.MessagingService"."""
    instance_id: str
    """Unique among the instances of the service."""
    address: str = ""
    """host:port of its gRPC server. Empty: reachable only inside its own process."""
    region: str = ""
    zone: str = ""
    weight: int = 100
    """Relative share of partitions, 1 to 1000."""
    version: str = ""
    state: InstanceState = InstanceState.SERVING
    load: float = 0.0
    """Share of its capacity in use, 0 to 1."""
    partitions: int = 0
    """Partitions of the cluster, as the instance was told; 0: not said."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All instances at one moment, in order of service and instance id."""

    revision: int
    """Grows with every change; equal revisions mean equal instances."""
    instances: tuple[Instance, ...] = field(default=())


class Registry(Protocol):
    """Instances and numbers, held by leases.

    A lease lives for its `ttl_s` seconds from when it was granted or last kept alive; when it ends, all that hangs on
    it goes in one change. Every change makes a new revision, and everyone sees the changes in the same order. Raises
    discovery.errors.Unavailable (ENGINE_DOWN) when the engine is away.
    """

    async def grant(self, ttl_s: float) -> int:
        """A new lease; never zero, never the same twice."""

    async def keep_alive(self, lease: int) -> bool:
        """Begins the lease's time anew. False: it has ended, and nothing brings it back."""

    async def revoke(self, lease: int) -> None:
        """Ends the lease now; one that has ended already is no error."""

    async def put(self, instance: Instance, lease: int) -> bool:
        """Registers the instance, or replaces the one of that name (also another lease's), and hangs it on the lease.
        False, and nothing done: the lease has ended.
        """

    async def claim_number(self, lease: int, wanted: int | None = None) -> int | None:
        """The lowest instance number that no live lease holds, 0 to 1023 (`wanted` instead, if that is free), held by this
        lease until it ends. A lease that holds one gets the same again. None: the lease has ended. Raises
        ResourceExhausted (QUOTA_EXCEEDED) if all are held.
        """

    async def snapshot(self) -> Snapshot:
        """The present state: what was put before is in it."""

    def watch(self) -> AsyncIterator[Snapshot]:
        """The present state, then the newest one after every change: revisions ascend, and a slow reader misses what lay
        between. Ends when the registry is closed.
        """

    async def close(self) -> None:
        """Ends the watches and lets the engine go. Leases run out by themselves. May be called twice."""
