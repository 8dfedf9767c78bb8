"""A mesh for tests of one service: stubs call the servicers that the test serves, edges remember what they were given."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar, cast

from google.protobuf.message import Message

from discovery.errors import Unavailable
from discovery.partitions import partition_of
from hither.edge.v1.deliver_pb2 import DeliverBatch, Delivery, Eviction

if TYPE_CHECKING:
    from discovery.mesh import Mesh

T = TypeVar("T")


class _Stub:
    """Finds the method in whatever servicer has it, at the time of the call."""

    def __init__(self, servicers: list[object]) -> None:
        self._servicers = servicers

    def __getattr__(self, method: str) -> Callable[..., Awaitable[Message]]:
        async def call(request: Message, *, timeout: float) -> Message:  # noqa: ASYNC109 - as the stubs have it
            assert timeout > 0
            for servicer in self._servicers:
                if hasattr(servicer, method):
                    return cast(Message, await getattr(servicer, method)(request, None))
            raise Unavailable(f"nobody serves {method}", reason="NO_OWNER")

        return call


@dataclass(slots=True)
class EdgeLog:
    """What one edge was given."""

    is_down: bool = False
    hangs: bool = False
    gone: set[int] = field(default_factory=set)
    batches: list[DeliverBatch] = field(default_factory=list)
    came: asyncio.Event = field(default_factory=asyncio.Event)

    def evictions(self) -> list[Eviction]:
        """All evictions so far."""
        return [eviction for batch in self.batches for eviction in batch.evictions]

    def deliveries(self) -> list[Delivery]:
        """All deliveries so far."""
        return [delivery for batch in self.batches for delivery in batch.deliveries]


class FakeMesh:
    """Stands in for discovery.mesh.Mesh; owns every partition until told otherwise."""

    partitions = 16

    def __init__(self) -> None:
        self.edges: defaultdict[str, EdgeLog] = defaultdict(EdgeLog)
        self._servicers: list[object] = []
        self._owned = frozenset(range(self.partitions))
        self._moved = asyncio.Event()
        self.heeded = asyncio.Event()
        """Set when who watches the ownership has done with what it was told."""

    @property
    def mesh(self) -> "Mesh":
        """This, as what it stands in for."""
        return cast("Mesh", self)

    def serve(self, servicer: object) -> None:
        """Lets stubs find the servicer's methods."""
        self._servicers.append(servicer)

    def move(self, owned: frozenset[int]) -> None:
        """Gives this process these partitions."""
        self._owned = owned
        self._moved.set()
        self._moved = asyncio.Event()

    def stub(self, make: Callable[..., T]) -> T:
        """See Mesh."""
        return cast(T, _Stub(self._servicers))

    def partition_of(self, key: str) -> int:
        """See Mesh."""
        return partition_of(key, self.partitions)

    async def watch_owned(self, service: str) -> AsyncIterator[frozenset[int]]:
        """See Mesh."""
        while True:
            moved = self._moved
            yield self._owned
            self.heeded.set()
            await moved.wait()

    async def deliver(self, edge_id: str, batch: DeliverBatch) -> Sequence[int]:
        """See Mesh."""
        edge = self.edges[edge_id]
        if edge.hangs:
            edge.came.set()
            await asyncio.Event().wait()
        if edge.is_down:
            edge.came.set()
            raise Unavailable(f"no edge {edge_id}", reason="NO_OWNER")
        edge.batches.append(batch)
        edge.came.set()
        targets = {target.connection_id for delivery in batch.deliveries for target in delivery.targets}
        return sorted(targets & edge.gone)
