"""A WebSocket client that is as lean as Python allows: picows and prebuilt frames, and no JSON parser.

The SDK decodes, orders and remembers; at some thousand messages a second it would be the limit, not the server. A peer finds
the few fields it needs by searching the bytes.
"""

import asyncio
from collections.abc import Callable

from picows import WSFrame, WSListener, WSMsgType, WSTransport, ws_connect

_OPEN_TIMEOUT_S = 60.0
_AT_ONCE = 64


class Peer(WSListener):
    """A connection of one device. `on_frame` gets every frame after `synced`."""

    def __init__(self, on_frame: "Callable[[Peer, bytes], None]", index: int) -> None:
        self.index = index
        self.transport: WSTransport | None = None
        self.lost = False
        self._on_frame = on_frame
        self._synced = asyncio.get_running_loop().create_future()

    def on_ws_connected(self, transport: WSTransport) -> None:
        """The handshake is done."""
        self.transport = transport

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        """A frame came."""
        if frame.msg_type == WSMsgType.CLOSE:
            self.lost = True
            return
        data = frame.get_payload_as_bytes()
        if self._synced.done():
            self._on_frame(self, data)
        elif data.startswith(b'{"type":"synced"'):
            self._synced.set_result(None)

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        """The connection is gone."""
        self.lost = True
        if not self._synced.done():
            self._synced.set_exception(ConnectionError("the server closed the connection before `synced`"))

    def send(self, frame: bytes) -> None:
        """Writes a frame."""
        assert self.transport is not None
        self.transport.send(WSMsgType.TEXT, frame)

    async def synced(self) -> None:
        """Waits until the connection is live."""
        await self._synced


async def connect_peers(urls: list[str], tokens: list[str], on_frame: Callable[[Peer, bytes], None]) -> list[Peer]:
    """A live connection for each token, to one URL after the other."""
    addresses = [url.replace("http", "ws", 1) + "/ws" for url in urls]
    slots = asyncio.Semaphore(_AT_ONCE)

    async def one(index: int, token: str) -> Peer:
        async with slots, asyncio.timeout(_OPEN_TIMEOUT_S):
            peer = Peer(on_frame, index)
            await ws_connect(
                lambda: peer,
                addresses[index % len(addresses)],
                extra_headers={"Authorization": f"Bearer {token}", "Sec-WebSocket-Protocol": "hither.v1.json"},
                enable_auto_pong=True,
                read_buffer_init_size=2048,
            )
            await peer.synced()
            return peer

    return list(await asyncio.gather(*(one(index, token) for index, token in enumerate(tokens))))


def disconnect(peers: list[Peer]) -> None:
    """Closes all of them."""
    for peer in peers:
        if peer.transport is not None:
            peer.transport.disconnect()


def field(data: bytes, name: bytes) -> bytes:
    """The value of the first string field of that name; empty if there is none."""
    start = data.find(b'"' + name + b'":"')
    if start < 0:
        return b""
    start += len(name) + 4
    return data[start : data.index(b'"', start)]
