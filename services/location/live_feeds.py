"""Events of live locations on their way to viewers: for each edge the newest of each kind, in batches.

While an edge takes a batch the next one gathers, and an event that waits gives way to a newer one of its slot, so what waits is
bounded by what there is to see. An edge that does not answer is offered the events a few times; then they are lost, and heal
when the viewer asks again.
"""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass

import structlog
from prometheus_client import Counter

from discovery.errors import HitherError
from discovery.mesh import Mesh
from hither.edge.v1.deliver_pb2 import DeliverBatch, Delivery
from services.location.live_settings import LiveSettings
from services.location.live_watchers import Watcher

_MOST_A_BATCH = 1_024

_targets = Counter("hither_live_targets", "Events of live locations handed to edges, counted for each viewer.")
_conflated = Counter(
    "hither_live_conflated", "Events of live locations that gave way to newer ones before an edge took them."
)
_dropped = Counter(
    "hither_live_dropped", "Events of live locations that an edge did not take, however often it was offered them."
)
_failures = Counter("hither_live_deliver_failures", "Batches of live locations that an edge did not take.")
_log = structlog.get_logger("hither.location")


@dataclass(slots=True)
class _Waiting:
    delivery: Delivery
    tries: int = 0


class LiveFeeds:
    """See the module. `gone` is told which connections of an edge are not there. run() delivers until cancelled."""

    def __init__(self, mesh: Mesh, gone: Callable[[str, Sequence[int]], None], settings: LiveSettings) -> None:
        self._mesh = mesh
        self._gone = gone
        self._settings = settings
        self._waiting: defaultdict[str, dict[Hashable, _Waiting]] = defaultdict(dict)
        self._busy: set[str] = set()
        self._wake = asyncio.Event()

    def tell(self, watchers: Iterable[Watcher], type_: str, payload: bytes, key: str, slot: Hashable = None) -> None:
        """Has the event told to the watchers soon, in the place of what waits under the same slot (by default the key).

        `type_` is a field of hither.edge.v1.Event, `payload` its message, `key` the conflation key at the edge.
        """
        deliveries: dict[str, Delivery] = {}
        for watcher in watchers:
            delivery = deliveries.get(watcher.edge_id)
            if delivery is None:
                delivery = deliveries[watcher.edge_id] = Delivery(type=type_, payload=payload, conflation_key=key)
            delivery.targets.add(connection_id=watcher.connection_id)
        for edge_id, delivery in deliveries.items():
            waiting = self._waiting[edge_id]
            if waiting.pop(slot or key, None) is not None:
                _conflated.inc()
            waiting[slot or key] = _Waiting(delivery)
        if deliveries:
            self._wake.set()

    async def run(self) -> None:
        """Delivers until cancelled: to edges beside each other, to each one batch at a time."""
        async with asyncio.TaskGroup() as group:
            while True:
                await self._wake.wait()
                self._wake.clear()
                for edge_id in [one for one in self._waiting if one not in self._busy]:
                    self._busy.add(edge_id)
                    group.create_task(self._serve(edge_id), name="live-feed")

    async def step(self) -> None:
        """Offers everything that waits now to its edge, once."""
        for edge_id in list(self._waiting):
            await self._offer(edge_id)

    async def _serve(self, edge_id: str) -> None:
        try:
            while edge_id in self._waiting:
                if not await self._offer(edge_id):
                    await asyncio.sleep(self._settings.deliver_retry_s)
        finally:
            self._busy.discard(edge_id)

    async def _offer(self, edge_id: str) -> bool:
        """Offers the edge what waits for it; tells whether it took it."""
        offered = self._waiting.pop(edge_id)
        slots = list(offered)
        for start in range(0, len(slots), _MOST_A_BATCH):
            part = [offered[slot].delivery for slot in slots[start : start + _MOST_A_BATCH]]
            try:
                gone = await self._mesh.deliver(edge_id, DeliverBatch(deliveries=part))
            except HitherError as error:
                _failures.inc()
                _log.warning("live.undelivered", edge_id=edge_id, reason=error.reason)
                self._put_back(edge_id, {slot: offered[slot] for slot in slots[start:]})
                return False
            _targets.inc(sum(len(delivery.targets) for delivery in part))
            if gone:
                self._gone(edge_id, gone)
        return True

    def _put_back(self, edge_id: str, offered: dict[Hashable, _Waiting]) -> None:
        """What has not been replaced meanwhile waits again, before what has come since."""
        newer = self._waiting.pop(edge_id, {})
        kept: dict[Hashable, _Waiting] = {}
        for slot, one in offered.items():
            one.tries += 1
            if slot in newer:
                continue
            if one.tries >= self._settings.deliver_tries:
                _dropped.inc()
            else:
                kept[slot] = one
        kept.update(newer)
        if kept:
            self._waiting[edge_id] = kept
