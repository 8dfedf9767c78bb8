"""An edge that does what the test says, over a real WebSocket: for tests of clients.

async with FakeEdge() as edge:
    client = asyncio.create_task(...)
    peer = await edge.accept()
    await peer.expect("hello")
    await peer.send({"type": "connected", ...})
"""

import asyncio
import json
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.typing import Subprotocol

DEADLINE_S = 30.0


class FakePeer:
    """One connection, seen from the server."""

    def __init__(self, socket: ServerConnection) -> None:
        self._socket = socket
        self.over = asyncio.Event()

    async def expect(self, frame_type: str) -> dict[str, Any]:
        """The next frame of that type; pings and `received` are passed over if they are not what is awaited."""
        async with asyncio.timeout(DEADLINE_S):
            while True:
                frame: dict[str, Any] = json.loads(await self._socket.recv())
                if frame["type"] == frame_type:
                    return frame
                if frame["type"] not in {"ping", "received"}:
                    raise AssertionError(f"{frame} came where {frame_type} was awaited")

    async def send(self, *frames: Mapping[str, object]) -> None:
        """Writes frames to the client."""
        for frame in frames:
            await self._socket.send(json.dumps(frame))

    async def send_text(self, text: str) -> None:
        """Writes a text that may be no frame."""
        await self._socket.send(text)

    async def welcome(self, *, pos: int = 0, end: int | None = None, heartbeat_ms: int = 30_000) -> dict[str, Any]:
        """Takes `hello`, answers `connected`, and `synced` if `end` is given. Returns the hello."""
        hello = await self.expect("hello")
        await self.send(
            {
                "type": "connected",
                "status": "ready",
                "user_id": "bob",
                "device_id": "phone",
                "edge_id": "fake",
                "pos": str(pos),
                "heartbeat_ms": heartbeat_ms,
            }
        )
        if end is not None:
            await self.send({"type": "synced", "pos": str(end)})
        return hello

    async def ack(self, request: Mapping[str, Any], seq: int) -> None:
        """Answers a send_message."""
        await self.send(
            {
                "type": "ack",
                "id": request["id"],
                "client_id": request["client_id"],
                "message_id": str(seq),
                "conversation_id": "d.x",
                "seq": str(seq),
                "status": "SENT",
                "create_time": "2026-01-01T00:00:00Z",
            }
        )

    async def refuse(
        self, request: Mapping[str, Any], code: str, reason: str, *, retry_after_ms: int | None = None
    ) -> None:
        """Answers with an error."""
        later = {} if retry_after_ms is None else {"retry_after_ms": str(retry_after_ms)}
        await self.send({"type": "error", "id": request["id"], "code": code, "reason": reason, "message": "", **later})

    async def close(self, code: int, reason: str = "") -> None:
        """Closes with a code; returns when the client has taken note."""
        await self._socket.close(code, reason)

    def drop(self) -> None:
        """Breaks the connection without a word."""
        self._socket.transport.abort()

    async def gone(self) -> int:
        """Waits until the client has ended the connection; the close code."""
        async with asyncio.timeout(DEADLINE_S):
            await self._socket.wait_closed()
        return self._socket.close_code or 1006


class FakeEdge:
    """Listens on a free port of 127.0.0.1."""

    def __init__(self) -> None:
        self._accepted: asyncio.Queue[FakePeer] = asyncio.Queue()
        self._server: Server | None = None

    async def __aenter__(self) -> Self:
        self._server = await serve(
            self._serve, "127.0.0.1", 0, subprotocols=[Subprotocol("hither.v1.json")], close_timeout=1
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        await self._server.wait_closed()

    @property
    def url(self) -> str:
        """Where clients connect."""
        assert self._server is not None
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def accept(self) -> FakePeer:
        """The next connection."""
        async with asyncio.timeout(DEADLINE_S):
            return await self._accepted.get()

    @property
    def untaken(self) -> int:
        """Connections that the test has not accepted."""
        return self._accepted.qsize()

    async def _serve(self, socket: ServerConnection) -> None:
        self._accepted.put_nowait(FakePeer(socket))
        await socket.wait_closed()


def message_frame(
    pos: int, *, seq: int | None = None, message_id: int | None = None, text: str = "hi"
) -> dict[str, object]:
    """A `message` event as the edge sends it."""
    return {
        "type": "message",
        "pos": str(pos),
        "message": {
            "message_id": str(message_id or 1000 + pos),
            "conversation_id": "d.x",
            "seq": str(seq or pos),
            "sender_id": "alice",
            "client_id": f"c{pos}",
            "text": text,
            "create_time": "2026-01-01T00:00:00Z",
        },
    }
