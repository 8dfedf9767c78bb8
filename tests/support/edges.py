"""A real edge on a fake mesh, and clients that speak its frames."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import jwt
import websockets
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from prometheus_client import CollectorRegistry
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from websockets.asyncio.client import ClientConnection, connect
from websockets.typing import Subprotocol

from discovery.clock import SystemClock
from discovery.rpc.call import Caller, Role
from discovery.rpc.tokens import ResumeTokens, TokenVerifier
from edge.gateway import Gateway
from edge.server import EdgeServer
from edge.settings import EdgeSettings
from hither.edge.v1 import deliver_pb2
from hither.messaging.v1 import messaging_pb2
from tests.support.fake_mesh import FakeMesh

CLUSTER = "test"
EDGE_ID = "edge-1"
WAIT_S = 30.0
_key = Ed25519PrivateKey.generate()
_clock = SystemClock()


def token(user_id: str = "alice", device_id: str = "phone", *, cluster: str = CLUSTER, ttl_s: int = 60) -> str:
    """An access token as the directory would sign it."""
    now_s = _clock.now_ms() // 1000
    claims = {"iss": "hither", "aud": cluster, "sub": user_id, "dev": device_id, "rol": "user", "iat": now_s}
    return jwt.encode({**claims, "exp": now_s + ttl_s, "jti": "1"}, _key, algorithm="EdDSA")


def gateway(mesh: FakeMesh, settings: EdgeSettings) -> Gateway:
    """A gateway that takes the tokens of `token`."""
    public = _key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    verifier = TokenVerifier(public, CLUSTER, _clock)
    resume = ResumeTokens(b"r" * 32, CLUSTER, _clock)
    return Gateway(mesh.as_mesh(), verifier, resume, EDGE_ID, settings, _clock)


async def _echo(request: Request) -> PlainTextResponse:
    return PlainTextResponse(await request.body() or b"http")


@dataclass(slots=True)
class RunningEdge:
    """An edge that serves."""

    server: EdgeServer
    mesh: FakeMesh

    @property
    def websocket_url(self) -> str:
        """Where WebSockets connect, without a query."""
        return f"ws://{self.server.address}/ws"

    @property
    def http_url(self) -> str:
        """Where HTTP requests go."""
        return f"http://{self.server.address}"

    async def deliver(self, *targets: tuple[int, int], type_: str, payload: bytes, key: str = "") -> list[int]:
        """Delivers an event to (connection id, pos) each; returns who is gone."""
        delivery = deliver_pb2.Delivery(type=type_, payload=payload, conflation_key=key)
        for connection_id, pos in targets:
            delivery.targets.add(connection_id=connection_id, pos=pos)
        return list(await self.mesh.deliver(EDGE_ID, deliver_pb2.DeliverBatch(deliveries=[delivery])))

    async def deliver_message(self, event: messaging_pb2.InboxEvent, *connection_ids: int) -> list[int]:
        """Delivers a message of an inbox."""
        targets = [(connection_id, event.pos) for connection_id in connection_ids]
        return await self.deliver(*targets, type_="message", payload=event.message.SerializeToString())

    async def connection_ids(self, count: int = 1) -> list[int]:
        """The ids of the connections so far, in the order in which they registered."""
        return [made.request.connection.connection_id for made in await self.mesh.until("RegisterConnection", count)]


@asynccontextmanager
async def running_edge(
    settings: EdgeSettings | None = None, mesh: FakeMesh | None = None
) -> AsyncIterator[RunningEdge]:
    """An edge on a free port of loopback."""
    mesh = mesh or FakeMesh()
    app = Starlette(routes=[Route("/{path:path}", _echo, methods=["GET", "POST"])])
    server = EdgeServer(
        gateway(mesh, settings or EdgeSettings(max_connections=100)),
        app,
        host="127.0.0.1",
        port=0,
        registry=CollectorRegistry(),
    )
    async with server, asyncio.TaskGroup() as group:
        running = group.create_task(server.run())
        async with asyncio.timeout(WAIT_S):
            await server.serving.wait()
        try:
            yield RunningEdge(server, mesh)
        finally:
            running.cancel()


class JsonClient:
    """A connection that speaks JSON frames."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket

    async def send(self, type_: str, **fields: object) -> None:
        """Sends a frame."""
        await self.socket.send(json.dumps({"type": type_, **fields}))

    async def next(self) -> dict[str, Any]:
        """The next frame."""
        async with asyncio.timeout(WAIT_S):
            frame: dict[str, Any] = json.loads(await self.socket.recv())
            return frame

    async def until(self, type_: str) -> dict[str, Any]:
        """The next frame of a type; those before it are passed over."""
        while (frame := await self.next())["type"] != type_:
            pass
        return frame

    async def closed(self) -> tuple[int, str]:
        """Close code and reason, once the server has closed."""
        async with asyncio.timeout(WAIT_S):
            try:
                while True:
                    await self.socket.recv()
            except websockets.ConnectionClosed:
                return self.socket.close_code or 0, self.socket.close_reason or ""


@asynccontextmanager
async def json_client(
    edge: RunningEdge, user_id: str = "alice", device_id: str = "phone", *, query: str = ""
) -> AsyncIterator[JsonClient]:
    """A connection that has caught up."""
    url = f"{edge.websocket_url}?token={token(user_id, device_id)}{query}"
    async with connect(url, subprotocols=[Subprotocol("hither.v1.json")], ping_interval=None) as socket:
        client = JsonClient(socket)
        await client.until("synced")
        yield client


def caller(user_id: str = "alice", device_id: str = "phone") -> Caller:
    """A signed-in user on a device."""
    return Caller(Role.USER, user_id, device_id)
