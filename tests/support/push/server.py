"""What the push servers of the tests have in common: HTTP/2 over TLS on a port of 127.0.0.1, what was accepted, and how to
misbehave. What a request is worth is judged by each server on its own.
"""

import asyncio
import contextlib
import json
import ssl
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self, cast

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.exceptions
import h2.settings
from hyperframe.frame import GoAwayFrame

from discovery.clock import Clock, SystemClock
from discovery.rpc.tls import TlsSettings
from services.push.providers.settings import PushProviderSettings
from tests.support.certs import Pki, named
from tests.support.push.behaviour import Behaviour, Way

_CONFIG = h2.config.H2Configuration(
    client_side=False, header_encoding="utf-8", validate_outbound_headers=False, normalize_outbound_headers=False
)
_WINDOW = 2**24
_FRAME = 16_384


@dataclass(frozen=True, slots=True)
class Request:
    """A request that has come whole."""

    connection: int
    """Connections count from 1."""
    method: str
    path: str
    headers: Mapping[str, str]
    """In lower case."""
    body: bytes


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer."""

    status: int
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Accepted:
    """A push that the server took."""

    token: str
    """Of the device; for the web its subscription's endpoint."""
    headers: Mapping[str, str]
    payload: Any
    """Decoded (and decrypted) JSON."""
    connection: int


class PushServer(ABC):
    """A push server of the test, while the context lasts. `clock` is what it takes for the time; `max_streams` is what it says of
    itself, and holds clients to.
    """

    def __init__(self, pki: Pki, *, clock: Clock | None = None, max_streams: int = 100) -> None:
        self.accepted: list[Accepted] = []
        """In the order in which they were answered."""
        self.refused: list[Reply] = []
        """Answers that were not misbehaviour."""
        self.connections = 0
        """How many have been made."""
        self.most_streams = 0
        """That were open at a time on one connection."""
        self.open: set[Connection] = set()
        self.clock: Clock = clock or SystemClock()
        self.max_streams = max_streams
        self.pki = pki
        self._behaviours: dict[str | None, tuple[Behaviour, int | None]] = {}
        self._acceptance = Count()
        self._asking = Count()
        self._server: asyncio.Server | None = None
        self.files = TlsSettings()
        self.port = 0
        self.url = ""
        self.ca_file = ""

    async def __aenter__(self) -> Self:
        self.files = self.pki.write(self.pki.issue(named("push")), folder="push")
        loop = asyncio.get_running_loop()
        context = server_context(self.files, "h2")
        self._server = await loop.create_server(lambda: Connection(self), "127.0.0.1", 0, ssl=context, backlog=1000)
        self.port = self._server.sockets[0].getsockname()[1]
        self.url = f"https://127.0.0.1:{self.port}"
        self.ca_file = self.files.ca
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Goes away, in the middle of whatever is under way."""
        assert self._server is not None
        self._server.close()
        self.cut()
        await self._server.wait_closed()

    @property
    @abstractmethod
    def settings(self) -> PushProviderSettings:
        """Settings of a provider for this server."""

    @property
    def asked(self) -> int:
        """Pushes that have come, whatever became of them."""
        return self._asking.at

    def behave(self, behaviour: Behaviour | None, *, token: str | None = None, times: int | None = None) -> None:
        """Behaves so towards the next `times` requests (None: all) for the token, or for those that have no behaviour of their
        own. None: as usual again.
        """
        if behaviour is None:
            self._behaviours.pop(token, None)
        else:
            self._behaviours[token] = behaviour, times

    async def until(self, count: int) -> None:
        """Returns once that many pushes have been accepted since the start."""
        await self._acceptance.reaches(count)

    async def until_asked(self, count: int) -> None:
        """Returns once that many pushes have come since the start, whatever became of them."""
        await self._asking.reaches(count)

    def cut(self) -> None:
        """Ends all connections in the middle."""
        for connection in list(self.open):
            connection.cut()

    async def leave(self) -> None:
        """Ends all connections in the middle; returns once they are ended."""
        ended = [connection.ended.wait() for connection in self.open]
        self.cut()
        await asyncio.gather(*ended)

    def accept(self, push: Accepted) -> None:
        """Counts a push as accepted."""
        self.accepted.append(push)
        self._acceptance.add_one()

    def behaviour(self, request: Request) -> Behaviour | None:
        """How to behave towards the request; counts it."""
        token = self.token(request)
        if token is None:
            return None
        self._asking.add_one()
        for key in (token, None):
            if (found := self._behaviours.get(key)) is not None:
                behaviour, times = found
                if times is not None:
                    self.behave(behaviour if times > 1 else None, token=key, times=times - 1)
                return behaviour
        return None

    def answer(self, request: Request, behaviour: Behaviour | None) -> Reply:
        """The answer to a request that is to have one."""
        if behaviour is not None and behaviour.way is Way.ANSWER:
            told = (("retry-after", behaviour.retry_after), ("location", behaviour.location))
            headers = {name: value for name, value in told if value}
            body = self.error_body(behaviour.status, behaviour.reason) if behaviour.body is None else behaviour.body
            return Reply(behaviour.status, body, headers)
        reply = self.judge(request)
        if reply.status >= 300:
            self.refused.append(reply)
        return reply

    @abstractmethod
    def token(self, request: Request) -> str | None:
        """Whom the request is for; None if it is no push: then no behaviour holds for it."""

    @abstractmethod
    def judge(self, request: Request) -> Reply:
        """What the real one would answer; `accept` what it accepts."""

    @abstractmethod
    def error_body(self, status: int, reason: str) -> bytes:
        """How the real one tells a reason."""


class Count:
    """Counts up, for those who wait until it is so far."""

    def __init__(self) -> None:
        self.at = 0
        self._waiting: list[tuple[int, asyncio.Future[None]]] = []

    async def reaches(self, count: int) -> None:
        """Returns once it is so far."""
        if self.at < count:
            waiter = asyncio.get_running_loop().create_future()
            self._waiting.append((count, waiter))
            await waiter

    def add_one(self) -> None:
        """One more."""
        self.at += 1
        for waiting in [waiting for waiting in self._waiting if waiting[0] <= self.at]:
            self._waiting.remove(waiting)
            if not waiting[1].done():
                waiting[1].set_result(None)


class Connection(asyncio.Protocol):
    """A client's connection."""

    def __init__(self, server: PushServer) -> None:
        self._server = server
        self.ended = asyncio.Event()
        self._h2 = h2.connection.H2Connection(_CONFIG)
        self._h2.local_settings = h2.settings.Settings(
            client=False, initial_values={h2.settings.SettingCodes.MAX_CONCURRENT_STREAMS: server.max_streams}
        )
        self._requests: dict[int, tuple[dict[str, str], list[bytes]]] = {}
        self._unanswered: set[int] = set()
        self._last: int | None = None
        """The last stream that is processed, after GOAWAY."""
        self._number = 0
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass
        self._server.connections += 1
        self._number = self._server.connections
        self._server.open.add(self)
        self._h2.initiate_connection()
        self._h2.increment_flow_control_window(_WINDOW)
        self._flush()

    def connection_lost(self, error: Exception | None) -> None:
        self._server.open.discard(self)
        self.ended.set()

    def cut(self) -> None:
        """Ends in the middle."""
        self._transport.abort()

    def data_received(self, data: bytes) -> None:
        try:
            events = self._h2.receive_data(data)
        except h2.exceptions.ProtocolError:
            self._flush()
            self._transport.close()
            return
        for event in events:
            self._take(event)
        self._flush()

    def _take(self, event: h2.events.Event) -> None:
        if isinstance(event, h2.events.RequestReceived):
            self._requests[event.stream_id] = dict(event.headers), []  # type: ignore[arg-type] # decoded: see _CONFIG
            streams = len(self._requests) + len(self._unanswered)
            self._server.most_streams = max(self._server.most_streams, streams)
        elif isinstance(event, h2.events.DataReceived):
            if event.stream_id in self._requests:
                self._requests[event.stream_id][1].append(event.data)
            self._h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        elif isinstance(event, h2.events.StreamEnded):
            self._whole(event.stream_id)
        elif isinstance(event, h2.events.StreamReset):
            self._requests.pop(event.stream_id, None)
            self._unanswered.discard(event.stream_id)
        elif isinstance(event, h2.events.ConnectionTerminated):
            self._transport.close()

    def _whole(self, stream: int) -> None:
        if stream not in self._requests or (self._last is not None and stream > self._last):
            return
        headers, parts = self._requests.pop(stream)
        request = Request(self._number, headers.pop(":method"), headers.pop(":path"), headers, b"".join(parts))
        behaviour = self._server.behaviour(request)
        way = Way.ANSWER if behaviour is None else behaviour.way
        self._unanswered.add(stream)
        if way is Way.ANSWER:
            self._reply(stream, request, behaviour)
        elif way is Way.SLOW:
            assert behaviour is not None
            asyncio.get_running_loop().call_later(behaviour.delay_s, self._reply_late, stream, request, behaviour)
        elif way is Way.RESET:
            self._unanswered.discard(stream)
            self._h2.reset_stream(stream, h2.errors.ErrorCodes.INTERNAL_ERROR)
        elif way is Way.CUT:
            self.cut()
        elif way is Way.ENDLESS:
            self._h2.send_headers(stream, [(":status", "400")])
            self._h2.send_data(stream, b"x" * _FRAME)
        elif way is Way.GOAWAY:
            self._unanswered.discard(stream)
            self._go_away(stream - 2 if stream > 2 else 0)

    def _reply(self, stream: int, request: Request, behaviour: Behaviour | None) -> None:
        reply = self._server.answer(request, behaviour)
        self._unanswered.discard(stream)
        headers = [(":status", str(reply.status)), *reply.headers.items()]
        with contextlib.suppress(h2.exceptions.StreamClosedError):  # it was reset
            self._h2.send_headers(stream, headers, end_stream=not reply.body)
            for start in range(0, len(reply.body), _FRAME):
                part = reply.body[start : start + _FRAME]
                self._h2.send_data(stream, part, end_stream=start + _FRAME >= len(reply.body))

    def _reply_late(self, stream: int, request: Request, behaviour: Behaviour) -> None:
        if self._transport.is_closing() or stream not in self._unanswered:
            return
        self._reply(stream, request, behaviour)
        self._flush()
        self._leave()

    def _go_away(self, last: int) -> None:
        """h2 would forget what is under way, which the real ones still answer: so the frame goes past it."""
        self._flush()
        self._last = last
        frame = GoAwayFrame(last_stream_id=last, error_code=0, additional_data=json.dumps({"reason": "Idle"}).encode())
        self._transport.write(frame.serialize())
        self._leave()

    def _leave(self) -> None:
        if self._last is not None and not self._unanswered:
            self._transport.close()

    def _flush(self) -> None:
        if data := self._h2.data_to_send():
            self._transport.write(data)


def server_context(files: TlsSettings, protocol: str) -> ssl.SSLContext:
    """TLS of a server with these files that speaks this protocol ("h2" or "http/1.1") only."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(files.cert, files.key)
    context.set_alpn_protocols([protocol])
    return context
