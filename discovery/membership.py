"""A process's place in the registry: its leases, what it registers under them, and what it sees of the others.

Two leases, since two different things must not outlive their process by different times. What the process registers hangs on
one of 10 s, so that others take over soon from a process that died. Its instance number hangs on one of 600 s: two
processes with one number could make the same id twice, so a number must not go to another while its holder is merely
paused or cut off.

Who owns what follows from the newest snapshot, and a registry that is away changes nothing in that: the last snapshot goes on
routing and owning, as it does in all other processes, and correctness never depends on the ring. A process stops owning
("is fenced") only

- when the registry says that a lease has ended, until it has a new one and is registered again, which it tries at once;
- when it could not renew its number for nearly that lease's life, until it has: the number could be another's by then;
- when it leaves.

If the number has gone to another process meanwhile, nothing helps but to end: LeaseLost.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Final

import structlog

from discovery.clock import Clock
from discovery.errors import HitherError, Unavailable
from discovery.registry.metrics import RegistryMetrics, process_registry_metrics
from discovery.registry.port import Instance, InstanceState, Registry, Snapshot
from discovery.view import View, next_view

LEASE_S: Final = 10.0
"""Life of what a process registers without renewal, in seconds."""
NUMBER_LEASE_S: Final = 600.0
"""Life of a process's instance number without renewal, in seconds."""
RENEWAL_S: Final = 3.0
"""Longest time from one renewal to the next, in seconds, and what a renewal may take."""

_NUMBER_RENEWAL_S: Final = 30.0
_FENCE_AFTER_S: Final = NUMBER_LEASE_S - LEASE_S
_RETRY_S: Final = 0.5
_SPREAD_S: Final = 0.2
_FIRST_PAUSE_S: Final = 0.1
_LAST_PAUSE_S: Final = 5.0

_Name = tuple[str, str]

log = structlog.get_logger(__name__)


class LeaseLost(RuntimeError):
    """The instance number is another process's now: ids that this process makes could be the other's too."""


class OtherPartitions(RuntimeError):
    """The cluster's processes were told another number of partitions: this one would look for keys in the wrong places."""


class Membership:
    """Keeps the leases, the instances that hang on them, and the newest view. `on_change` is called after each new view and
    whenever `fenced` changes, and must not raise.
    """

    def __init__(
        self,
        registry: Registry,
        partitions: int,
        clock: Clock,
        on_change: Callable[[], None],
        metrics: RegistryMetrics | None = None,
    ) -> None:
        self.view = View()
        self.fenced = True
        """This process must not act as an owner; see the module."""
        self.number = -1
        """The instance number for Snowflakes, once joined; the same until the end."""
        self._registry = registry
        self._partitions = partitions
        self._clock = clock
        self._on_change = on_change
        self._metrics = metrics or process_registry_metrics()
        self._lease = 0
        self._number_lease = 0
        self._number_renewed_s = 0.0
        self._claim_lease = 0
        self._claim_asked_s = 0.0
        self._instances: dict[_Name, Instance] = {}
        self._registered: set[_Name] = set()
        """Those of them that the registry has, as far as is known."""
        self._lock = asyncio.Lock()
        self._hurry = asyncio.Event()

    async def join(self) -> None:
        """Takes the leases and an instance number, and reads the first view. Raises HitherError if the registry refuses, and
        OtherPartitions.
        """
        async with self._turn(LEASE_S):
            await self._register()
        others = (one for service in self.view.services.values() for one in service.instances.values())
        for other in others:
            if other.partitions not in (0, self._partitions):
                await self.leave()
                raise OtherPartitions(
                    f"{other.instance_id} runs with {other.partitions} partitions, this process with {self._partitions}"
                )

    async def put(self, instance: Instance) -> None:
        """Registers the instance (or replaces it) for as long as this process lives. Raises HitherError if that could not
        be done now; it is done with the next renewal then.
        """
        await self._put([instance])

    async def put_all(self, state: InstanceState, load: float) -> None:
        """Registers all instances anew with this state and load. Raises HitherError as `put` does."""
        await self._put([replace(instance, state=state, load=load) for instance in self._instances.values()])

    async def refresh(self) -> None:
        """Reads the registry now. Raises HitherError."""
        async with _within(RENEWAL_S):
            await self._read()

    async def renew(self) -> bool:
        """Keeps the leases alive, takes new ones in place of those that have ended, and registers what is not registered.
        False: the registry is away, and nothing has changed by that, unless for nearly NUMBER_LEASE_S. Raises LeaseLost.
        """
        self._fence_if_cut_off()
        try:
            async with self._turn(RENEWAL_S):
                if self._lease and not await self._registry.keep_alive(self._lease):
                    self._lost(self._lease)
                if not self._number_lease or self._clock.monotonic_s() - self._number_renewed_s >= _NUMBER_RENEWAL_S:
                    await self._secure_number()
                await self._register_missing()
                self._fence(False)
        except HitherError as error:
            self._metrics.failures += 1
            log.warning("the registry is away", reason=error.reason, fenced=self.fenced)
            self._fence_if_cut_off()
            return False
        return True

    async def keep(self) -> None:
        """Renews the leases until cancelled: in time for three tries within LEASE_S, sooner after one that failed, and at
        once when a snapshot shows that this process has fallen out of the registry. Raises LeaseLost.
        """
        answered = True
        while True:
            pause_s = RENEWAL_S * random.uniform(0.8, 1.0) if answered else _RETRY_S  # noqa: S311 (spreads load)
            try:
                async with asyncio.timeout(pause_s):
                    await self._hurry.wait()
            except TimeoutError:
                pass
            else:
                # When all processes fell out of it at once, the registry is not to hear of all of them at once.
                self._hurry.clear()
                await asyncio.sleep(random.uniform(0.0, _SPREAD_S))  # noqa: S311 (spreads load)
            answered = await self.renew()

    async def follow(self) -> None:
        """Takes over what the registry reports, until cancelled or the registry is closed."""
        pause_s = _FIRST_PAUSE_S
        while True:
            try:
                snapshots: AsyncIterator[Snapshot] = self._registry.watch()
                async for snapshot in snapshots:
                    pause_s = _FIRST_PAUSE_S
                    self._see(snapshot)
            except HitherError as error:
                self._metrics.watch_restarts += 1
                log.warning("the watch of the registry ended", reason=error.reason)
                await asyncio.sleep(pause_s)
                pause_s = min(_LAST_PAUSE_S, pause_s * 2)
            else:
                return

    async def leave(self) -> None:
        """Owns nothing any more, and gives the leases back. A registry that is away lets them run out."""
        self._fence(True)
        try:
            async with self._turn(RENEWAL_S):
                for lease in (self._lease, self._number_lease, self._claim_lease):
                    if lease:
                        await self._registry.revoke(lease)
                self._lease = self._number_lease = self._claim_lease = 0
        except HitherError as error:
            log.warning("the leases could not be given back", reason=error.reason)

    async def _put(self, instances: list[Instance]) -> None:
        for instance in instances:
            self._instances[_name(instance)] = instance
            self._registered.discard(_name(instance))
        async with self._turn(LEASE_S):
            await self._register_missing()

    def _lost(self, lease: int) -> None:
        """The registry has said that the lease has ended."""
        log.warning("a lease has ended", lease=lease, of="number" if lease == self._number_lease else "instances")
        self._metrics.lease_losses += 1
        if lease == self._number_lease:
            self._number_lease = 0
        else:
            self._lease = 0
            self._registered.clear()
        self._fence(True)

    async def _secure_number(self) -> None:
        """Renews the number's lease, or takes a new one with the same number. Raises LeaseLost."""
        asked_s = self._clock.monotonic_s()
        if self._number_lease and await self._registry.keep_alive(self._number_lease):
            self._number_renewed_s = asked_s
            return
        if self._number_lease:
            ended = self._number_lease
            self._lost(ended)
            # Should the registry be wrong about that, the old lease must not stand in the new one's way.
            await self._registry.revoke(ended)
        await self._take_number()

    async def _take_number(self) -> None:
        # A claim whose answer was lost may have been granted: it is repeated with the same lease, which then has it already.
        if not self._claim_lease:
            self._claim_asked_s = self._clock.monotonic_s()
            self._claim_lease = await self._registry.grant(NUMBER_LEASE_S)
        wanted = self.number if self.number >= 0 else None
        number = await self._registry.claim_number(self._claim_lease, wanted)
        lease, self._claim_lease = self._claim_lease, 0
        if number is None:
            raise Unavailable("the lease for the instance number ended while the number was claimed")
        if wanted is not None and number != wanted:
            await self._registry.revoke(lease)
            raise LeaseLost(f"instance number {wanted} is held by another process")
        self._number_lease, self.number, self._number_renewed_s = lease, number, self._claim_asked_s

    async def _register_missing(self) -> None:
        missing = [instance for name, instance in self._instances.items() if name not in self._registered]
        for instance in missing if self._lease else ():
            if not await self._registry.put(instance, self._lease):
                self._lost(self._lease)
                break
            self._mark(instance)
        if not self._lease:
            await self._register()
        elif missing:
            await self._read()

    async def _register(self) -> None:
        """Takes a new lease, hangs all instances on it, and owns what the ring says from now on."""
        await self._secure_number()
        # Known from here on, so that it is given back although this task may be cancelled before all hangs on it.
        self._lease = await self._registry.grant(LEASE_S)
        for instance in list(self._instances.values()):
            if not await self._registry.put(instance, self._lease):
                self._lost(self._lease)
                raise Unavailable("the registry ended a lease that it had just given")
            self._mark(instance)
        await self._read()
        self._fence(False)

    def _mark(self, instance: Instance) -> None:
        # Another task may have replaced it while the registry was being told of this one.
        if self._instances[_name(instance)] is instance:
            self._registered.add(_name(instance))

    async def _read(self) -> None:
        self._see(await self._registry.snapshot())
        self._metrics.contacted()

    def _see(self, snapshot: Snapshot) -> None:
        if snapshot.revision <= self.view.revision:
            return
        self.view = next_view(self.view, snapshot, self._partitions)
        self._metrics.snapshots += 1
        self._metrics.contacted()
        gone = {name for name in self._registered if name[1] not in self.view.of(name[0]).instances}
        if gone:
            self._registered -= gone
            self._hurry.set()
        self._on_change()

    def _fence_if_cut_off(self) -> None:
        silent_s = self._clock.monotonic_s() - self._number_renewed_s
        if silent_s >= _FENCE_AFTER_S and not self.fenced:
            log.error("the registry is away for too long to be sure of the instance number", silent_s=silent_s)
            self._fence(True)

    def _fence(self, fenced: bool) -> None:
        self._metrics.fenced = fenced
        if fenced is not self.fenced:
            self.fenced = fenced
            self._on_change()

    @asynccontextmanager
    async def _turn(self, seconds: float) -> AsyncIterator[None]:
        """One at a time asks for leases; waiting for the turn counts."""
        async with _within(seconds), self._lock:
            yield
            self._metrics.contacted()


def _name(instance: Instance) -> _Name:
    return instance.service, instance.instance_id


@asynccontextmanager
async def _within(seconds: float) -> AsyncIterator[None]:
    """A deadline on the registry, in seconds; running over it counts as the registry being away."""
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError:
        raise Unavailable("the registry did not answer in time") from None
