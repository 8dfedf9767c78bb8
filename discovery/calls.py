"""Routed calls: to the owner of the key or to who is fit, and again for as long as that helps and the deadline allows.

What is tried again, always after a growing, jittered pause of at most LONGEST_PAUSE_S and only while time is left:

- What proves that nothing was done, whether the method is idempotent or not: NOT_OWNER (after the registry was read anew, if the view
  is not newer than the refuser's), NO_OWNER, DRAINING, and a peer that could not be reached. So a partition that changes hands
  costs its callers time, not errors.
- OVERLOADED, if no key decides and another instance may have room.
- Every other Unavailable, if the method is idempotent; not ENGINE_DOWN, since an engine stays away for longer than the pauses last.

The last two ask for more of a mesh that may be ailing, so they are paid for from the retry budget; when that is used up, the
error is the caller's.
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, Protocol

from google.protobuf.message import Message

from discovery.budget import RetryBudget
from discovery.choosing import Chooser
from discovery.contract import MethodSpec
from discovery.errors import DeadlineExceeded, HitherError, NotOwner, ResourceExhausted, Unavailable
from discovery.fill import fill
from discovery.registry.port import Instance, InstanceState
from discovery.routing import Router
from discovery.rpc.call import Call
from discovery.rpc.dispatcher import Dispatcher
from discovery.rpc.link import PeerLost
from discovery.rpc.outlier import Outliers
from discovery.rpc.requesting import Requesters
from discovery.rpc.stream_metrics import CallNumbers
from discovery.view import View

FIRST_PAUSE_S: Final = 0.02
LONGEST_PAUSE_S: Final = 0.25
"""Before jitter, which takes up to half of it away."""

_NO_OWNER_RETRY_AFTER_S: Final = 1.0
_REFRESH_EVERY_S: Final = 0.1
_NOTHING_DONE: Final = frozenset({"NO_OWNER", "DRAINING"})


@dataclass(frozen=True, slots=True)
class Route:
    """A method and how its requests find their partition."""

    spec: MethodSpec
    router: Router | None


class Sight(Protocol):
    """What a process sees of the mesh."""

    @property
    def view(self) -> View:
        """The newest view."""

    @property
    def instance_id(self) -> str:
        """The process's own."""


class Calls:
    """Makes the routed calls of one process."""

    def __init__(
        self,
        sight: Sight,
        dispatcher: Dispatcher,
        requesters: Requesters,
        refresher: "Refresher",
        *,
        outliers: Outliers,
        chooser: Chooser,
        numbers: CallNumbers,
        budget: RetryBudget | None = None,
    ) -> None:
        self._sight = sight
        self._dispatcher = dispatcher
        self._requesters = requesters
        self._refresher = refresher
        self._outliers = outliers
        self._chooser = chooser
        self._numbers = numbers
        self.budget = budget or RetryBudget()

    async def make(self, route: Route, request: Message, call: Call) -> Message:
        """Makes the call, as often as it takes; see the module. Fills the request in place. Raises HitherError; never NotOwner."""
        self.budget.earn()
        attempt = 0
        while True:
            try:
                return await self._attempt(route, request, call)
            except (Unavailable, NotOwner, ResourceExhausted) as error:
                failed: HitherError = error
            attempt += 1
            if self._requesters.closed and not isinstance(failed, NotOwner):
                raise failed  # this process leaves the mesh, and has nobody to ask
            if isinstance(failed, NotOwner):
                revision = int(failed.metadata["revision"])
                failed = Unavailable(failed.message, reason="NO_OWNER", retry_after_s=_NO_OWNER_RETRY_AFTER_S)
                await self._pause(attempt, call, failed)
                if revision >= self._sight.view.revision:
                    await self._refresher.refresh(call.remaining_s())
                continue
            if not self._may_repeat(route, request, failed):
                raise failed
            await self._pause(attempt, call, failed)

    async def _attempt(self, route: Route, request: Message, call: Call) -> Message:
        instance = self._instance(route, request, call)
        if instance.instance_id == self._sight.instance_id:
            return await self._dispatcher.dispatch(route.spec.path, request, call)
        if not instance.address:
            raise Unavailable("the owner cannot be reached from another process", reason="NO_OWNER")
        try:
            answer = await self._requesters.call(instance.address, route.spec, request, call)
        except HitherError as error:
            self._learn(instance.instance_id, error)
            raise
        self._outliers.succeeded(instance.instance_id)
        return answer

    def _learn(self, instance_id: str, error: HitherError) -> None:
        if isinstance(error, PeerLost):
            if self._outliers.failed(instance_id):
                self._numbers.ejections += 1
        elif not isinstance(error, (DeadlineExceeded, ResourceExhausted)):  # these may be this process's own words
            self._outliers.succeeded(instance_id)

    def _instance(self, route: Route, request: Message, call: Call) -> Instance:
        partition = self._partition(route, request, call)
        view = self._sight.view
        service = view.of(route.spec.service)
        if partition is not None and service.owners:
            return service.owners[partition]
        if not service.serving:
            raise NotOwner("nobody serves this now", revision=view.revision)
        local = service.instances.get(self._sight.instance_id)
        if local is not None and local.state is InstanceState.SERVING:
            return local
        return self._chooser.choose(service.serving)

    def _partition(self, route: Route, request: Message, call: Call) -> int | None:
        if route.router is None:
            return None
        partition = route.router(request)
        if partition is None:
            fill(request, call.caller)
            partition = route.router(request)
        return partition

    def _may_repeat(self, route: Route, request: Message, error: HitherError) -> bool:
        if error.reason in _NOTHING_DONE:
            return True
        if isinstance(error, ResourceExhausted):
            serving = self._sight.view.of(route.spec.service).serving
            keyed = route.router is not None and route.router(request) is not None
            repeatable = error.reason == "OVERLOADED" and not keyed and len(serving) > 1
        else:
            repeatable = route.spec.idempotent and error.reason != "ENGINE_DOWN"
        if not repeatable:
            return False
        if not self.budget.spend():
            self._numbers.budget_refusals += 1
            return False
        return True

    async def _pause(self, attempt: int, call: Call, error: HitherError) -> None:
        """Waits before the next attempt. Raises the error if there is no time for one."""
        longest_s = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2 ** min(attempt - 1, 16))
        pause_s = longest_s * random.uniform(0.5, 1.0)  # noqa: S311 (spreads load)
        if pause_s >= call.remaining_s():
            raise error
        self._dispatcher.metrics.retries += 1
        await asyncio.sleep(pause_s)


class Refresher:
    """Reads the registry for many callers at once, and not more often than each 0.1 s. `read` does it, and may raise nothing."""

    def __init__(self, read: Callable[[], Awaitable[None]], numbers: CallNumbers) -> None:
        self._read = read
        self._numbers = numbers
        self._group: asyncio.TaskGroup | None = None
        self._reading: asyncio.Task[None] | None = None
        self._begun_s = 0.0

    def own(self, group: asyncio.TaskGroup) -> None:
        """The group that owns the reading."""
        self._group = group

    def close(self) -> None:
        """Reads no more."""
        self._group = None
        if self._reading is not None:
            self._reading.cancel()

    async def refresh(self, within_s: float) -> None:
        """Returns when the registry has been read, or the time is over. Calls that come meanwhile share the reading."""
        if self._reading is None or self._reading.done():
            if self._group is None:
                return
            self._reading = self._group.create_task(self._refresh(), name="mesh refresh")
        await asyncio.wait((self._reading,), timeout=max(0.0, within_s))

    async def _refresh(self) -> None:
        early_s = self._begun_s + _REFRESH_EVERY_S - time.monotonic()
        if early_s > 0:
            await asyncio.sleep(early_s)
        self._begun_s = time.monotonic()
        self._numbers.refreshes += 1
        await self._read()
