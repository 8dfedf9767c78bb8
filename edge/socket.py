"""The WebSocket shell on picows: bytes to a session and frames from its outbox. It decides nothing.

Frames are joined into one write for each connection and turn of the loop. While the transport holds more than its high
water mark, frames wait in the outbox, where they are bounded and conflated.
"""

import asyncio
import struct
from collections.abc import Sequence
from typing import Final

import structlog
from google.protobuf.message import Message
from picows import WSCloseCode, WSFrame, WSListener, WSMsgType, WSTransport

from discovery.clock import Clock
from discovery.errors import HitherError
from discovery.rpc.tracing import Trace
from edge.hub import Hub
from edge.metrics import EdgeMetrics
from edge.registrar import Registrar
from edge.relay import Relay
from edge.session import Call, Close, CloseCode, Purpose, Session
from edge.settings import EdgeSettings

log = structlog.get_logger(__name__)

_NORMAL: Final = 1000
_BROKEN: Final = 1006
_REASON_BYTES: Final = 123
_ABANDONED_S: Final = 0.005
"""Within this the end of a connection shows whose client gave up while it waited to be accepted. It seems newer than it is, and
would take its device from the connection that the client has made since."""
_DISCARD_BYTES: Final = 16 * 1024 * 1024
"""What is read and thrown away of a client that was cut off in the middle of a message."""


class Wire:
    """The transport as picows sees it. picows hangs up 10 ms after it met a bad frame, too early for its sender to read
    why; with `lingering` set it is not obeyed.
    """

    __slots__ = ("get_extra_info", "get_write_buffer_size", "lingering", "transport", "write", "writelines")

    def __init__(self, transport: asyncio.Transport) -> None:
        self.transport = transport
        self.write = transport.write
        self.writelines = transport.writelines
        self.get_write_buffer_size = transport.get_write_buffer_size
        self.get_extra_info = transport.get_extra_info
        self.lingering = False

    def close(self) -> None:
        """See asyncio.Transport."""
        if not self.lingering:
            self.transport.close()

    def abort(self) -> None:
        """See asyncio.Transport."""
        self.transport.abort()


class Shell:
    """What all sockets of an edge share."""

    def __init__(
        self, settings: EdgeSettings, metrics: EdgeMetrics, clock: Clock, hub: Hub, relay: Relay, registrar: Registrar
    ) -> None:
        self.settings = settings
        self.metrics = metrics
        self.clock = clock
        self.hub = hub
        self.relay = relay
        self.registrar = registrar


class ClientSocket(WSListener):
    """One client's WebSocket, from the completed handshake on. `place` is where its requests stand in a trace of the client's;
    without it each begins its own.
    """

    __slots__ = (
        "_close_code", "_fragments_bytes", "_fragments_text", "_greeting", "_kind", "_lost", "_open",
        "_parts", "_paused", "_place", "_registering", "_shell", "_timer", "_transport", "_wire", "due_s", "flushing", "session",
    )  # fmt: skip

    def __init__(
        self,
        shell: Shell,
        session: Session,
        token: str,
        cursor: int | None,
        wire: Wire,
        place: Trace | None = None,
    ) -> None:
        self.session = session
        self._place = place
        self.due_s = float("inf")
        self._shell = shell
        self._greeting: tuple[str, int | None] | None = (token, cursor)
        self._wire = wire
        self._transport: WSTransport | None = None
        self._kind = WSMsgType.TEXT if session.codec.text else WSMsgType.BINARY
        self._parts: list[bytes] | None = None
        self._fragments_bytes = 0
        self._fragments_text = False
        self._paused = False
        self.flushing = False
        self._open = False
        self._lost = False
        self._close_code = 0
        self._timer: asyncio.TimerHandle | None = None
        self._registering: asyncio.Task[None] | None = None

    # --- picows ---

    def on_ws_connected(self, transport: WSTransport) -> None:
        """The handshake is done."""
        self._transport = transport
        self._shell.hub.add(self)
        assert self._greeting is not None  # used once, here
        (token, cursor), self._greeting = self._greeting, None
        self.session.open(token, cursor)
        self.pump()

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        """A frame is here."""
        kind = frame.msg_type
        if self._close_code:
            if kind == WSMsgType.CLOSE:
                transport.disconnect()
            return
        if frame.rsv1 or frame.rsv2 or frame.rsv3:
            self.session.violate(CloseCode.PROTOCOL_ERROR, "reserved bits are set")
        elif kind == WSMsgType.TEXT or kind == WSMsgType.BINARY:
            self._begin(frame, text=kind == WSMsgType.TEXT)
        elif kind == WSMsgType.CONTINUATION:
            self._continue(frame)
        elif kind == WSMsgType.CLOSE:
            self._client_closes(transport, frame)
            return
        elif self.session.touch(self._shell.clock.monotonic_s()) and kind == WSMsgType.PING and not self._paused:
            transport.send_pong(frame.get_payload_as_bytes())
        self.pump()

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        """The transport is gone."""
        self.lost()

    def pause_writing(self) -> None:
        """The transport holds more than its high water mark."""
        self._paused = True

    def resume_writing(self) -> None:
        """The transport has room again."""
        self._paused = False
        if self.session.outbox or self.session.closing:
            self.flush()

    # --- messages from fragments ---

    def _begin(self, frame: WSFrame, *, text: bool) -> None:
        if self._parts is not None:
            self.session.violate(CloseCode.PROTOCOL_ERROR, "a message within a message")
        elif frame.fin:
            self.session.receive(frame.get_payload_as_bytes(), text=text, now_s=self._shell.clock.monotonic_s())
        else:
            data = frame.get_payload_as_bytes()
            self._parts = [data]
            self._fragments_bytes = len(data)
            self._fragments_text = text

    def _continue(self, frame: WSFrame) -> None:
        settings = self._shell.settings
        if self._parts is None:
            self.session.violate(CloseCode.PROTOCOL_ERROR, "a continuation of nothing")
            return
        self._parts.append(frame.get_payload_as_bytes())
        self._fragments_bytes += frame.payload_size
        if self._fragments_bytes > settings.frame_bytes:
            self.session.violate(CloseCode.TOO_LARGE, f"a message has at most {settings.frame_bytes} bytes")
        elif len(self._parts) > settings.fragments:
            self.session.violate(CloseCode.PROTOCOL_ERROR, "too many fragments")
        elif frame.fin:
            data, self._parts = b"".join(self._parts), None
            self.session.receive(data, text=self._fragments_text, now_s=self._shell.clock.monotonic_s())

    # --- the session's decisions ---

    def pump(self) -> None:
        """See Member."""
        session = self.session
        if session.calls:
            self._call()
        if not self._open and session.is_open and (connection := session.connection) is not None:
            self._open = True
            self._shell.registrar.opened(connection, registered=session.registered)
            self._shell.hub.reschedule(self)
        if not self.flushing and not self._close_code and (session.outbox.waiting_bytes or session.closing is not None):
            self.flushing = True
            self._shell.hub.wants_flush(self)

    def _call(self) -> None:
        for call in self.session.take_calls():
            if call.purpose is Purpose.REGISTER:
                asyncio.get_running_loop().call_later(_ABANDONED_S, self._register, call)
            else:
                self._shell.relay.start(call, self._settle, self._place)

    def _register(self, call: Call) -> None:
        if not self._lost:
            self._registering = self._shell.relay.start(call, self._settle, self._place)

    def _settle(self, call: Call, outcome: Message | HitherError) -> None:
        now_s = self._shell.clock.monotonic_s()
        if isinstance(outcome, HitherError):
            self.session.fail(call, outcome, now_s)
        else:
            self.session.answer(call, outcome, now_s)
        if call.purpose is not Purpose.REQUEST:
            self._shell.hub.reschedule(self)
        self.pump()

    def flush(self) -> None:
        """See Member."""
        self.flushing = False
        transport = self._transport
        if transport is None or self._lost or self._close_code:
            return
        session = self.session
        outbox = session.outbox
        while outbox.waiting_bytes and not self._paused:
            frames = outbox.take(self._shell.settings.write_high_water_bytes)
            if len(frames) == 1:
                transport.send(self._kind, frames[0])
                self._shell.metrics.bytes_out += len(frames[0])
            else:
                joined = join_frames(frames, text=session.codec.text)
                self._wire.write(joined)
                self._shell.metrics.bytes_out += len(joined)
            if not session.caught_up:
                session.drained(self._shell.clock.monotonic_s())
                self._shell.hub.reschedule(self)
        if session.closing is not None:
            self._close(session.closing)
        elif session.calls:
            self._call()

    # --- the end ---

    def _close(self, close: Close) -> None:
        """Sends the close frame once the outbox is empty, then gives the client a moment to answer it."""
        if self._timer is None:
            timeout_s = self._shell.settings.close_timeout_s
            self._timer = asyncio.get_running_loop().call_later(timeout_s, self.abort)
        if not self.session.outbox:
            self._send_close(close.code, close.reason)

    def _send_close(self, code: int, reason: str) -> None:
        assert self._transport is not None  # it has sent frames
        self._close_code = code
        text = reason.encode()[:_REASON_BYTES].decode(errors="ignore")
        self._transport.send_close(code, text.encode())  # type: ignore[arg-type]  # takes any number, types list only RFC 6455's

    def _client_closes(self, transport: WSTransport, frame: WSFrame) -> None:
        self._close_code = _NORMAL
        code = frame.get_close_code()
        transport.send_close(WSCloseCode.OK if code == WSCloseCode.NO_INFO else code)
        transport.disconnect()

    def parser_failed(self, code: int) -> None:
        """A frame came that picows cannot or may not read; it is about to send a close frame of its own, so ours goes first."""
        if self._close_code or self._lost or self._transport is None:
            return
        if code == WSCloseCode.MESSAGE_TOO_BIG.value:
            self.session.violate(CloseCode.TOO_LARGE, f"a message has at most {self._shell.settings.frame_bytes} bytes")
        else:
            self.session.violate(CloseCode.PROTOCOL_ERROR, "not a WebSocket frame")
        self._wire.lingering = True
        self.flush()
        if not self._close_code and self.session.closing is not None:
            self._send_close(self.session.closing.code, self.session.closing.reason)
        asyncio.get_running_loop().call_soon(self._discard_input)

    def _discard_input(self) -> None:
        """Reads on without looking: a socket that is closed with unread bytes resets, and the client never sees why."""
        transport = self._wire.transport
        if transport.is_closing():
            return
        transport.pause_reading()
        transport.set_protocol(_Discard(self))
        transport.resume_reading()
        if transport.can_write_eof():
            transport.write_eof()

    def abort(self) -> None:
        """See Member."""
        self._wire.abort()

    def lost(self) -> None:
        """The transport is gone, whichever protocol it had."""
        if self._lost:
            return
        self._lost = True
        if self._timer is not None:
            self._timer.cancel()
        if self._registering is not None:
            self._registering.cancel()  # or it would be tried again, and the record of nobody be kept until it runs out
        self._shell.metrics.closes[self._close_code or _BROKEN] += 1
        self.session.evict(_BROKEN, "gone")
        self._shell.hub.remove(self)
        if (connection := self.session.connection) is not None:
            self._shell.registrar.closed(connection)


class _Discard(asyncio.Protocol):
    """Throws away what still comes."""

    def __init__(self, socket: ClientSocket) -> None:
        self._socket = socket
        self._bytes = 0

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        self._bytes += len(data)
        if self._bytes > _DISCARD_BYTES:
            self._socket.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio.Protocol."""
        self._socket.lost()


def join_frames(frames: Sequence[bytes], *, text: bool) -> bytes:
    """The WebSocket frames (RFC 6455, unmasked) of several messages, as one run of bytes."""
    first = 0x81 if text else 0x82
    short = _SHORT_HEADERS[first]
    parts: list[bytes] = []
    for frame in frames:
        size = len(frame)
        if size < 126:
            parts.append(short[size])
        elif size < 1 << 16:
            parts.append(_MEDIUM_HEADER(first, 126, size))
        else:
            parts.append(_LONG_HEADER(first, 127, size))
        parts.append(frame)
    return b"".join(parts)


_SHORT_HEADERS: Final = {first: [bytes((first, size)) for size in range(126)] for first in (0x81, 0x82)}
_MEDIUM_HEADER: Final = struct.Struct("!BBH").pack
_LONG_HEADER: Final = struct.Struct("!BBQ").pack
