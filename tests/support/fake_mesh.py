"""A mesh for tests of the edge: it answers like the services would, from memory, and can be told to fail or to wait."""

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import grpc
from google.protobuf.message import Message

from discovery.contract import methods
from discovery.errors import Unavailable
from discovery.mesh import DeliverHandler, Mesh
from discovery.rpc.call import Caller, Role
from hither.edge.v1 import deliver_pb2
from hither.messaging.v1 import messaging_pb2, messaging_service_pb2
from hither.sessions.v1 import sessions_service_pb2

T = TypeVar("T")
Handler = Callable[[Any, Caller], Awaitable[Message]]

_PARTITIONS = 16


@dataclass(frozen=True, slots=True)
class Made:
    """A call that was made."""

    method: str
    request: Any
    caller: Caller


class FakeMesh:
    """See discovery.mesh.Mesh; only what the edge uses."""

    partitions = _PARTITIONS

    def __init__(self) -> None:
        self.calls: list[Made] = []
        self.cursors: dict[str, int] = {}
        """Device id to the cursor that RegisterConnection answers."""
        self.inboxes: defaultdict[str, list[messaging_pb2.InboxEvent]] = defaultdict(list)
        self.handlers: dict[str, Handler] = {
            "RegisterConnection": self._register,
            "SyncInbox": self._sync,
            "SendMessage": self._send,
        }
        self._edges: dict[str, DeliverHandler] = {}
        self._news = asyncio.Condition()

    def as_mesh(self) -> Mesh:
        """This, for those who ask for a Mesh."""
        return cast(Mesh, self)

    def made(self, method: str) -> list[Made]:
        """The calls of a method so far, in order."""
        return [call for call in self.calls if call.method == method]

    async def until(self, method: str, count: int = 1) -> list[Made]:
        """Waits until a method was called so often."""
        async with asyncio.timeout(30), self._news:
            await self._news.wait_for(lambda: len(self.made(method)) >= count)
        return self.made(method)

    def fail(self, method: str, error: Exception) -> None:
        """The method fails from now on."""

        async def failing(request: Any, caller: Caller) -> Message:
            raise error

        self.handlers[method] = failing

    def hold(self, method: str) -> asyncio.Event:
        """The method answers only once the event is set."""
        gate, answer = asyncio.Event(), self.handlers.get(method)

        async def waiting(request: Any, caller: Caller) -> Message:
            await gate.wait()
            return await answer(request, caller) if answer is not None else methods_by_name()[method]()

        self.handlers[method] = waiting
        return gate

    # --- discovery.mesh.Mesh ---

    async def call(self, method: str, request: Message, *, caller: Caller, timeout_s: float) -> Message:
        """See Mesh."""
        name = method.rpartition("/")[2]
        async with self._news:
            self.calls.append(Made(name, request, caller))
            self._news.notify_all()
        async with asyncio.timeout(timeout_s):
            handler = self.handlers.get(name)
            return await handler(request, caller) if handler is not None else methods()[method].response_type()

    def stub(self, make: Callable[[grpc.aio.Channel], T]) -> T:
        """See Mesh."""
        return make(cast(grpc.aio.Channel, _FakeChannel(self)))

    def partition_of(self, key: str) -> int:
        """See Mesh."""
        return sum(key.encode()) % _PARTITIONS

    def attach_edge(self, edge_id: str, handler: DeliverHandler) -> None:
        """See Mesh."""
        self._edges[edge_id] = handler

    def detach_edge(self, edge_id: str) -> None:
        """See Mesh."""
        self._edges.pop(edge_id, None)

    async def deliver(self, edge_id: str, batch: deliver_pb2.DeliverBatch) -> Sequence[int]:
        """See Mesh."""
        if edge_id not in self._edges:
            raise Unavailable(f"no edge {edge_id}", reason="NO_OWNER")
        return self._edges[edge_id](batch)

    # --- how the services answer ---

    async def _register(
        self, request: sessions_service_pb2.RegisterConnectionRequest, caller: Caller
    ) -> sessions_service_pb2.RegisterConnectionResponse:
        cursor = self.cursors.get(request.connection.device_id, 0)
        return sessions_service_pb2.RegisterConnectionResponse(cursor=cursor)

    async def _sync(
        self, request: messaging_service_pb2.SyncInboxRequest, caller: Caller
    ) -> messaging_service_pb2.SyncInboxResponse:
        limit = request.limit or 100
        missed = [event for event in self.inboxes[caller.user_id] if event.pos > request.pos]
        page = missed[:limit]
        return messaging_service_pb2.SyncInboxResponse(
            events=page, next_pos=page[-1].pos if page else request.pos, more=len(missed) > limit
        )

    async def _send(
        self, request: messaging_service_pb2.SendMessageRequest, caller: Caller
    ) -> messaging_service_pb2.SendMessageResponse:
        return messaging_service_pb2.SendMessageResponse(
            client_id=request.client_id,
            message_id=1 << 40,
            conversation_id=request.conversation_id,
            seq=len(self.made("SendMessage")),
            status=messaging_pb2.MESSAGE_STATUS_SENT,
        )


def methods_by_name() -> dict[str, type[Message]]:
    """Response type of each method of the contract, by its bare name."""
    return {spec.name: spec.response_type for spec in methods().values()}


def inbox_message(pos: int, text: str = "hello") -> messaging_pb2.InboxEvent:
    """A message at a place of an inbox."""
    message = messaging_pb2.Message(
        message_id=pos, conversation_id="d.x", seq=pos, sender_id="bob", client_id=f"c{pos}", text=text
    )
    return messaging_pb2.InboxEvent(pos=pos, message=messaging_pb2.MessageEvent(message=message))


class _FakeChannel:
    """What generated stubs need of a channel."""

    def __init__(self, mesh: FakeMesh) -> None:
        self._mesh = mesh

    def unary_unary(self, method: str, *_: object, **__: object) -> Callable[..., Awaitable[Message]]:
        """See grpc.aio.Channel."""

        async def call(request: Message, timeout: float = 5.0) -> Message:  # noqa: ASYNC109 (gRPC's own name)
            return await self._mesh.call(
                method, request, caller=Caller(Role.SERVICE, service="edge"), timeout_s=timeout
            )

        return call

    stream_stream = unary_unary
    unary_stream = unary_unary
    stream_unary = unary_unary
