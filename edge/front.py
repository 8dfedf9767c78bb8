"""One public port for WebSocket and HTTP: reads a connection's first head, then hands the connection to whom it is for.

The hand-over happens once and costs the frames that follow nothing: the transport talks to picows, or to uvicorn, directly.
Nothing here logs an address, for it may carry a token.
"""

import asyncio
from collections.abc import Callable
from http import HTTPStatus
from typing import Final, cast

import structlog
import uvicorn
from picows import WSAutoPingStrategy, WSUpgradeRequest, WSUpgradeResponse, WSUpgradeResponseWithListener
from picows.picows import WSProtocol  # type: ignore[attr-defined]  # the stubs leave it out
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from discovery.rpc.call import Caller
from discovery.rpc.tracing import read_traceparent
from edge.handshake import BadHandshake, head_length, is_websocket, terms
from edge.session import Session, Surroundings
from edge.socket import ClientSocket, Shell, Wire

log = structlog.get_logger(__name__)

_READ_BUFFER_BYTES: Final = 2048
_NEVER_S: Final = 3600.0
_TURNED_AWAY_S: Final = 1.0
_MOST_TURNED_AWAY: Final = 128


class Door:
    """Takes connections in and knows how many are open. `most` of them, WebSocket and HTTP together."""

    def __init__(
        self, shell: Shell, edge_id: str, authenticate: Callable[[str], Caller], app: ASGIApp, most: int
    ) -> None:
        self.shell = shell
        self.settings = shell.settings
        self.most = most
        self.draining = False
        self.turning_away = 0
        """Connections that are being told that they are too many."""
        self._surroundings = Surroundings(edge_id, shell.settings, shell.metrics, authenticate)
        self._open = 0
        self._greeting: set[FrontProtocol] = set()
        self._config = uvicorn.Config(
            app,
            http="httptools",
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            timeout_keep_alive=round(shell.settings.keep_alive_s),
        )
        self._config.load()
        self._state = ServerState()

    def __call__(self) -> "FrontProtocol":
        """The protocol for a new connection."""
        return FrontProtocol(self)

    @property
    def crowded(self) -> bool:
        """There are too many even of those that are to be turned away."""
        return self.turning_away >= _MOST_TURNED_AWAY

    @property
    def http_connections(self) -> int:
        """Connections that uvicorn holds."""
        return len(self._state.connections)

    def admit(self, front: "FrontProtocol") -> bool:
        """Counts a new connection in; False if there are too many."""
        if self._open >= self.most:
            self.shell.metrics.rejected += 1
            return False
        self._open += 1
        self._greeting.add(front)
        return True

    def greeted(self, front: "FrontProtocol") -> None:
        """The connection has found whom it is for."""
        self._greeting.discard(front)

    def release(self) -> None:
        """A connection that was admitted is gone."""
        self._open -= 1

    def shut(self) -> None:
        """No new WebSocket is accepted; HTTP connections end after the request that they are at, silent ones at once."""
        self.draining = True
        for front in list(self._greeting):
            front.abort()
        for connection in list(self._state.connections):
            connection.shutdown()

    def abort_http(self) -> None:
        """Drops the HTTP connections that are left."""
        for connection in list(self._state.connections):
            if connection.transport is not None:
                connection.transport.abort()
        for task in list(self._state.tasks):
            task.cancel()

    def http_protocol(self) -> "HttpProtocol":
        """The protocol for an HTTP connection."""
        return HttpProtocol(self, self._config, self._state)

    def websocket_protocol(self, wire: Wire) -> "WebSocketProtocol":
        """The protocol for a WebSocket."""
        complaints = _Complaints()

        def begin(request: WSUpgradeRequest) -> WSUpgradeResponseWithListener:
            try:
                return self._begin(request, wire, complaints)
            except Exception:  # picows would send the exception's text to the client
                log.exception("handshake.bug")
                return _no(HTTPStatus.INTERNAL_SERVER_ERROR, "a bug; the server's log tells more")

        return WebSocketProtocol(self, begin, complaints)

    def _begin(self, request: WSUpgradeRequest, wire: Wire, complaints: "_Complaints") -> WSUpgradeResponseWithListener:
        if self.draining:
            self.shell.metrics.rejected += 1
            return _no(HTTPStatus.SERVICE_UNAVAILABLE, "the server is draining")
        offered = ", ".join(request.headers.getall("Sec-WebSocket-Protocol", []))
        try:
            agreed = terms(request.path, offered, request.headers.get("Authorization", ""))
        except (BadHandshake, ValueError) as bad:
            return _no(HTTPStatus.BAD_REQUEST, str(bad))
        shell = self.shell
        session = Session(shell.hub.next_id(), agreed.codec, self._surroundings, shell.clock.monotonic_s())
        place = read_traceparent(request.headers.get("traceparent"))
        socket = complaints.socket = ClientSocket(shell, session, agreed.token, agreed.cursor, wire, place)
        headers = {"Sec-WebSocket-Protocol": agreed.subprotocol} if agreed.subprotocol else None
        return WSUpgradeResponseWithListener(WSUpgradeResponse.create_101_response(headers), socket)


class FrontProtocol(asyncio.Protocol):
    """A connection whose first head has not come yet."""

    __slots__ = ("_buffer", "_door", "_timer", "_transport")

    def __init__(self, door: Door) -> None:
        self._door = door
        self._buffer = bytearray()
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio.Protocol."""
        stream = cast(asyncio.Transport, transport)  # uvloop's is one by its methods only
        if not self._door.admit(self):
            if self._door.crowded:
                stream.abort()
                return
            stream.set_protocol(_TurnedAway(self._door, stream))
            return
        self._transport = stream
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(self._door.settings.head_timeout_s, self._too_late)

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        self._buffer += data
        length = head_length(self._buffer)
        limit = self._door.settings.head_bytes
        if length > limit or (not length and len(self._buffer) > limit):
            _turn_away(transport, HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
        elif length:
            self._hand_over(transport, bytes(self._buffer), websocket=is_websocket(self._buffer[:length]))

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio.Protocol."""
        if self._transport is not None:
            self._done()
            self._door.release()

    def abort(self) -> None:
        """Drops the connection."""
        if self._transport is not None:
            self._transport.abort()

    def _too_late(self) -> None:
        if self._transport is not None:
            _turn_away(self._transport, HTTPStatus.REQUEST_TIMEOUT)

    def _hand_over(self, transport: asyncio.Transport, data: bytes, *, websocket: bool) -> None:
        self._done()
        self._transport = None
        self._buffer.clear()
        if websocket:
            _to_websocket(self._door, transport, data)
        else:
            http = self._door.http_protocol()
            transport.set_protocol(http)
            http.connection_made(transport)
            http.data_received(data)

    def _done(self) -> None:
        self._door.greeted(self)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class _TurnedAway(asyncio.Protocol):
    """A connection too many. It is told once it has asked: an answer that comes before the question is not understood."""

    __slots__ = ("_door", "_timer", "_transport")

    def __init__(self, door: Door, transport: asyncio.Transport) -> None:
        self._door = door
        self._transport = transport
        self._timer = asyncio.get_running_loop().call_later(_TURNED_AWAY_S, transport.abort)
        door.turning_away += 1

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        if not self._transport.is_closing():
            _turn_away(self._transport, HTTPStatus.SERVICE_UNAVAILABLE)

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio.Protocol."""
        self._timer.cancel()
        self._door.turning_away -= 1


class HttpProtocol(HttpToolsProtocol):
    """uvicorn's protocol, with an end to requests that never do: uvicorn bounds neither a head's bytes nor its time."""

    def __init__(self, door: Door, config: uvicorn.Config, state: ServerState) -> None:
        super().__init__(config, state, {})
        self._door = door
        self._head_bytes = 0
        self._in_head = False
        self._request_timer: asyncio.TimerHandle | None = None

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio.Protocol."""
        super().connection_lost(exc)
        self._disarm()
        self._door.release()

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        super().data_received(data)
        if self._in_head:
            self._head_bytes += len(data)
            if self._head_bytes > self._door.settings.head_bytes and not self.transport.is_closing():
                _turn_away(self.transport, HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        self._in_head, self._head_bytes = True, 0
        self._disarm()
        self._request_timer = self.loop.call_later(self._door.settings.request_timeout_s, self.transport.abort)

    def on_headers_complete(self) -> None:
        """Its head is here."""
        self._in_head = False
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """All of it is here."""
        self._disarm()
        super().on_message_complete()

    def _disarm(self) -> None:
        if self._request_timer is not None:
            self._request_timer.cancel()
            self._request_timer = None


class WebSocketProtocol(WSProtocol):  # type: ignore[misc]  # see its import
    """picows' protocol, which tells the door when it ends."""

    __slots__ = ("_door",)

    def __init__(
        self,
        door: Door,
        begin: Callable[[WSUpgradeRequest], WSUpgradeResponseWithListener],
        complaints: "_Complaints",
    ) -> None:
        # In the order of picows' constructor, which takes no keywords from C.
        super().__init__(
            None,  # host and port, for clients
            None,  # path, for clients
            False,  # server side
            begin,
            complaints,
            True,  # a listener's bug ends the connection
            None,  # the head is here already: no timer for it
            False,  # no pings of its own: clients send the heartbeat
            _NEVER_S,
            _NEVER_S,
            WSAutoPingStrategy.PING_WHEN_IDLE,
            False,  # pongs are the socket's, so that they are bounded
            door.settings.frame_bytes,
            None,  # headers, for clients
            _READ_BUFFER_BYTES,
        )
        self._door = door

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio.Protocol."""
        super().connection_lost(exc)
        self._door.release()


class _Complaints:
    """What picows takes for its logger: says nothing of addresses, and hears of bad frames before picows acts on them."""

    __slots__ = ("socket",)

    def __init__(self) -> None:
        self.socket: ClientSocket | None = None

    def isEnabledFor(self, level: int) -> bool:  # logging's name
        """See logging.Logger."""
        return False

    def log(self, level: int, message: str, *args: object) -> None:
        """See logging.Logger."""

    def debug(self, message: str, *args: object) -> None:
        """See logging.Logger."""

    def info(self, message: str, *args: object) -> None:
        """See logging.Logger."""

    def warning(self, message: str, *args: object) -> None:
        """See logging.Logger."""

    def error(self, message: str, *args: object) -> None:
        """A frame that cannot or may not be read: `args` is ((close code, reason),)."""
        detail = args[0] if args else None
        if self.socket is not None and isinstance(detail, tuple) and detail:
            self.socket.parser_failed(int(detail[0]))

    def exception(self, message: str, *args: object) -> None:
        """A bug, ours or picows': the connection ends."""
        log.exception("socket.bug", picows=message)


def _to_websocket(door: Door, transport: asyncio.Transport, data: bytes) -> None:
    wire = Wire(transport)
    protocol = door.websocket_protocol(wire)
    transport.pause_reading()  # reading goes on in picows' own buffer
    transport.set_protocol(protocol)
    transport.set_write_buffer_limits(high=door.settings.write_high_water_bytes)
    protocol.connection_made(wire)
    rest = memoryview(data)
    while rest:
        buffer = protocol.get_buffer(len(rest))
        size = min(len(buffer), len(rest))
        buffer[:size] = rest[:size]
        protocol.buffer_updated(size)
        rest = rest[size:]
    if not transport.is_closing():
        transport.resume_reading()


def _turn_away(transport: asyncio.Transport, status: HTTPStatus) -> None:
    retry = b"Retry-After: 1\r\n" if status is HTTPStatus.SERVICE_UNAVAILABLE else b""
    head = f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode()
    transport.write(head + retry + b"Content-Length: 0\r\nConnection: close\r\n\r\n")
    transport.close()


def _no(status: HTTPStatus, why: str) -> WSUpgradeResponseWithListener:
    return WSUpgradeResponseWithListener(WSUpgradeResponse.create_error_response(status, why.encode()), None)
