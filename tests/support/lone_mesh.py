"""A mesh of one process for tests of what services build on it: owned partitions, scripted peers, edges that remember."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import TypeVar, cast

import grpc
from google.protobuf.message import Message

from discovery.channels import RoutedChannel
from discovery.errors import Unavailable, Unimplemented
from discovery.mesh import Mesh
from discovery.partitions import partition_of
from hither.directory.v1 import directory_service_pb2
from hither.edge.v1 import deliver_pb2
from hither.sessions.v1 import sessions_pb2, sessions_service_pb2

T = TypeVar("T")


class LoneMesh:
    """Answers calls from `members`, `connections` and `cursors`; `failing` names methods that are away."""

    def __init__(self, partitions: int = 4) -> None:
        self.partitions = partitions
        self.owned_now = frozenset(range(partitions))
        self.members: dict[str, list[str]] = {}
        self.refusals: dict[tuple[str, str], Exception] = {}
        self.connections: list[sessions_pb2.Connection] = []
        self.removed: list[sessions_pb2.Connection] = []
        self.cursors: dict[tuple[str, str], int] = {}
        self.calls: list[str] = []
        self.failing: set[str] = set()
        self.delivered: list[tuple[str, deliver_pb2.DeliverBatch]] = []
        self.dead_edges: set[str] = set()
        self.gone: set[int] = set()
        self.changed = asyncio.Event()
        self._news = asyncio.Event()

    def as_mesh(self) -> Mesh:
        """This, where a Mesh is asked for."""
        return cast(Mesh, self)

    def connect(self, user_id: str, connection_id: int, edge_id: str = "edge", device_id: str = "phone") -> None:
        """The user has a live connection."""
        self.connections.append(
            sessions_pb2.Connection(user_id=user_id, device_id=device_id, edge_id=edge_id, connection_id=connection_id)
        )

    def own(self, *partitions: int) -> None:
        """From now on this process owns these."""
        self.owned_now = frozenset(partitions)
        self._news.set()
        self._news = asyncio.Event()

    async def until(self, true: Callable[[], bool]) -> None:
        """Returns when the condition holds; it is looked at after each call and each delivery."""
        async with asyncio.timeout(30):
            while not true():
                await self.changed.wait()

    def received(self, connection_id: int) -> list[tuple[str, int]]:
        """What a connection was sent, as (type, pos)."""
        return [
            (delivery.type, target.pos)
            for _, batch in self.delivered
            for delivery in batch.deliveries
            for target in delivery.targets
            if target.connection_id == connection_id
        ]

    def partition_of(self, key: str) -> int:
        return partition_of(key, self.partitions)

    def owned(self, service: str) -> frozenset[int]:
        return self.owned_now

    async def watch_owned(self, service: str) -> AsyncIterator[frozenset[int]]:
        while True:
            news = self._news
            yield self.owned_now
            await news.wait()

    def stub(self, make: Callable[[grpc.aio.Channel], T]) -> T:
        return make(cast(grpc.aio.Channel, RoutedChannel(self._call)))

    async def deliver(self, edge_id: str, batch: deliver_pb2.DeliverBatch) -> Sequence[int]:
        if edge_id in self.dead_edges:
            raise Unavailable(reason="NO_OWNER")
        self.delivered.append((edge_id, batch))
        self._touch()
        targets = {target.connection_id for delivery in batch.deliveries for target in delivery.targets}
        return sorted(targets & self.gone)

    def _touch(self) -> None:
        self.changed.set()
        self.changed = asyncio.Event()

    async def _call(self, method: str, request: Message, timeout_s: float | None) -> Message:
        name = method.rsplit("/", 1)[-1]
        self.calls.append(name)
        self._touch()
        await asyncio.sleep(0)
        if name in self.failing:
            raise Unavailable(f"{name} is away")
        handlers: dict[str, Callable[[Message], Awaitable[Message]]] = {
            "ResolveConversation": self._resolve,
            "LookupConnections": self._lookup,
            "RemoveConnections": self._remove,
            "AdvanceCursors": self._advance,
        }
        if name not in handlers:
            raise Unimplemented(name)
        return await handlers[name](request)

    async def _resolve(self, request: Message) -> Message:
        assert isinstance(request, directory_service_pb2.ResolveConversationRequest)
        refusal = self.refusals.get((request.conversation_id, request.sender_id))
        if refusal is not None:
            raise refusal
        members = self.members.get(request.conversation_id, [request.sender_id, request.peer_id or "ben"])
        return directory_service_pb2.ResolveConversationResponse(member_ids=members)

    async def _lookup(self, request: Message) -> Message:
        assert isinstance(request, sessions_service_pb2.LookupConnectionsRequest)
        assert len({self.partition_of(user_id) for user_id in request.user_ids}) == 1
        users = set(request.user_ids)
        found = [connection for connection in self.connections if connection.user_id in users]
        return sessions_service_pb2.LookupConnectionsResponse(connections=found)

    async def _remove(self, request: Message) -> Message:
        assert isinstance(request, sessions_service_pb2.RemoveConnectionsRequest)
        self.removed += request.connections
        return sessions_service_pb2.RemoveConnectionsResponse()

    async def _advance(self, request: Message) -> Message:
        assert isinstance(request, sessions_service_pb2.AdvanceCursorsRequest)
        assert len({self.partition_of(advance.user_id) for advance in request.advances}) == 1
        previous = []
        for advance in request.advances:
            device = (advance.user_id, advance.device_id)
            previous.append(self.cursors.get(device, 0))
            self.cursors[device] = max(advance.pos, previous[-1])
        self._touch()
        return sessions_service_pb2.AdvanceCursorsResponse(previous=previous)
