"""The registry of a cluster that is one process.

Leases end by the clock, and are found to have ended by the next call of any method: there is no timer, since whoever holds
a lease calls `keep_alive` several times in its life anyway.
"""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from discovery.clock import Clock, SystemClock
from discovery.errors import ResourceExhausted
from discovery.registry.port import INSTANCE_NUMBERS, Instance, Snapshot


@dataclass(slots=True)
class _Lease:
    ttl_s: float
    ends_s: float
    number: int | None = None
    names: set[tuple[str, str]] = field(default_factory=set)


class EmbeddedRegistry:
    """See discovery.registry.port.Registry. Of one event loop."""

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()
        self._leases: dict[int, _Lease] = {}
        self._instances: dict[tuple[str, str], Instance] = {}
        self._last_lease = 0
        self._snapshot = Snapshot(revision=1)
        self._changed = asyncio.Event()
        self._closed = False

    async def grant(self, ttl_s: float) -> int:
        """See Registry."""
        self._expire()
        self._last_lease += 1
        self._leases[self._last_lease] = _Lease(ttl_s, self._clock.monotonic_s() + ttl_s)
        return self._last_lease

    async def keep_alive(self, lease: int) -> bool:
        """See Registry."""
        held = self._live(lease)
        if held is None:
            return False
        held.ends_s = self._clock.monotonic_s() + held.ttl_s
        return True

    async def revoke(self, lease: int) -> None:
        """See Registry."""
        held = self._live(lease)
        if held is not None:
            self._end({lease: held})

    async def put(self, instance: Instance, lease: int) -> bool:
        """See Registry."""
        held = self._live(lease)
        if held is None:
            return False
        name = (instance.service, instance.instance_id)
        for other in self._leases.values():
            other.names.discard(name)
        held.names.add(name)
        if self._instances.get(name) != instance:
            self._instances[name] = instance
            self._publish()
        return True

    async def claim_number(self, lease: int, wanted: int | None = None) -> int | None:
        """See Registry."""
        held = self._live(lease)
        if held is None:
            return None
        if held.number is None:
            taken = {other.number for other in self._leases.values()}
            free = (number for number in range(INSTANCE_NUMBERS) if number not in taken)
            held.number = next(free, None) if wanted is None or wanted in taken else wanted
        if held.number is None:
            raise ResourceExhausted("all instance numbers are held", reason="QUOTA_EXCEEDED")
        return held.number

    async def snapshot(self) -> Snapshot:
        """See Registry."""
        self._expire()
        return self._snapshot

    async def watch(self) -> AsyncIterator[Snapshot]:
        """See Registry."""
        seen = 0
        self._expire()
        while not self._closed:
            if self._snapshot.revision > seen:
                seen = self._snapshot.revision
                yield self._snapshot
            else:
                await self._changed.wait()

    async def close(self) -> None:
        """See Registry."""
        self._closed = True
        self._wake()

    def _live(self, lease: int) -> _Lease | None:
        self._expire()
        return self._leases.get(lease)

    def _expire(self) -> None:
        now_s = self._clock.monotonic_s()
        self._end({lease: held for lease, held in self._leases.items() if held.ends_s <= now_s})

    def _end(self, ended: dict[int, _Lease]) -> None:
        names = [name for held in ended.values() for name in held.names]
        for lease in ended:
            del self._leases[lease]
        for name in names:
            del self._instances[name]
        if names:
            self._publish()

    def _publish(self) -> None:
        instances = tuple(self._instances[name] for name in sorted(self._instances))
        self._snapshot = Snapshot(self._snapshot.revision + 1, instances)
        self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
