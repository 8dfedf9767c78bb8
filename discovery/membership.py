"""A process's place in the registry: its lease, what it registers under it, and what it sees of the others.

The newest snapshot keeps routing while the registry is away. A process whose lease has run out unrenewed owns nothing any
more: somebody else may own it already.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Final

import structlog

from discovery.clock import Clock
from discovery.errors import HitherError, Unavailable
from discovery.registry.port import Instance, InstanceState, Registry, Snapshot
from discovery.view import View, next_view

LEASE_S: Final = 10.0
"""Life of a process's lease without renewal, in seconds."""

_RENEWALS: Final = 3
_FIRST_PAUSE_S: Final = 0.1
_LAST_PAUSE_S: Final = 5.0

log = structlog.get_logger(__name__)


class LeaseLost(RuntimeError):
    """The lease ended and its instance number is another's now: ids that this process makes could be another's too."""


class Membership:
    """Keeps one lease, the instances that hang on it, and the newest view. `on_change` is called after each new view, and
    must not raise.
    """

    def __init__(self, registry: Registry, partitions: int, clock: Clock, on_change: Callable[[], None]) -> None:
        self.view = View()
        self.fenced = True
        """No lease is held: this process must not act as an owner."""
        self.number = -1
        """The instance number for Snowflakes, once joined."""
        self._registry = registry
        self._partitions = partitions
        self._clock = clock
        self._on_change = on_change
        self._lease = 0
        self._renewed_s = 0.0
        self._instances: dict[tuple[str, str], Instance] = {}

    @property
    def contact_age_s(self) -> float:
        """How long ago the lease was last renewed, in seconds."""
        return self._clock.monotonic_s() - self._renewed_s

    async def join(self) -> None:
        """Takes a lease and an instance number, and reads the first view. Raises HitherError if the registry refuses."""
        async with _within(LEASE_S):
            await self._take_lease()
            await self.refresh()

    async def put(self, instance: Instance) -> None:
        """Registers the instance (or replaces it) for as long as this process lives. Raises HitherError."""
        self._instances[instance.service, instance.instance_id] = instance
        async with _within(LEASE_S):
            if not await self._registry.put(instance, self._lease):
                await self._take_lease()
            await self.refresh()

    async def put_all(self, state: InstanceState, load: float) -> None:
        """Registers all instances anew with this state and load. Raises HitherError."""
        for instance in list(self._instances.values()):
            await self.put(replace(instance, state=state, load=load))

    async def refresh(self) -> None:
        """Reads the registry now. Raises HitherError."""
        async with _within(LEASE_S / _RENEWALS):
            self._see(await self._registry.snapshot())

    async def renew(self) -> None:
        """Keeps the lease alive, or takes a new one in place of one that has ended. Owns nothing once the lease must have
        run out. Raises LeaseLost; a registry that is away is no error.
        """
        try:
            async with _within(LEASE_S / _RENEWALS):
                if await self._registry.keep_alive(self._lease):
                    self._renewed_s = self._clock.monotonic_s()
                    self._fence(False)
                else:
                    log.warning("the lease had ended", lease=self._lease)
                    await self._take_lease()
        except HitherError as error:
            log.warning("the registry is away", reason=error.reason)
            if self._clock.monotonic_s() - self._renewed_s >= LEASE_S:
                self._fence(True)

    async def keep(self) -> None:
        """Renews the lease until cancelled."""
        while True:
            await asyncio.sleep(LEASE_S / _RENEWALS)
            await self.renew()

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
                log.warning("the watch of the registry ended", reason=error.reason)
                await asyncio.sleep(pause_s)
                pause_s = min(_LAST_PAUSE_S, pause_s * 2)
            else:
                return

    async def leave(self) -> None:
        """Gives the lease back. A registry that is away lets it run out."""
        self._fence(True)
        try:
            async with _within(LEASE_S / _RENEWALS):
                await self._registry.revoke(self._lease)
        except HitherError as error:
            log.warning("the lease could not be given back", reason=error.reason)

    async def _take_lease(self) -> None:
        lease = await self._registry.grant(LEASE_S)
        number = await self._registry.claim_number(lease)
        if number is None or (self.number >= 0 and number != self.number):
            raise LeaseLost(f"instance number {self.number} is held by another process")
        self._lease, self.number = lease, number
        for instance in self._instances.values():
            await self._registry.put(instance, lease)
        self._renewed_s = self._clock.monotonic_s()
        self._fence(False)

    def _fence(self, fenced: bool) -> None:
        if fenced is not self.fenced:
            self.fenced = fenced
            self._on_change()

    def _see(self, snapshot: Snapshot) -> None:
        if snapshot.revision <= self.view.revision:
            return
        self.view = next_view(self.view, snapshot, self._partitions)
        self._on_change()


class _within:  # noqa: N801 (reads as the statement it is)
    """A deadline on the registry, in seconds; running over it counts as the registry being away."""

    def __init__(self, seconds: float) -> None:
        self._timeout = asyncio.timeout(seconds)

    async def __aenter__(self) -> None:
        await self._timeout.__aenter__()

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        try:
            await self._timeout.__aexit__(kind, error, trace)  # type: ignore[arg-type] # passed on as it came
        except TimeoutError:
            raise Unavailable("the registry did not answer in time") from None
