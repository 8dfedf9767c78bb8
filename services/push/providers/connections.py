"""HTTP/2 connections to one provider: few, kept, with many requests each; and the answers that come over them.

httpcore speaks HTTP/2. What it leaves open is settled here: an attempt has one deadline, an answer has a size, and a connection
that an attempt failed on takes no new ones: what is under way on it may still be answered, and then it is closed. A request that
a server says it has not looked at, when it takes leave, goes over another connection at once. Nothing here follows redirects,
keeps cookies or asks the environment for proxies.
"""

import asyncio
import ssl
from collections.abc import AsyncIterable, Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import SplitResult, urlsplit

import anyio
import certifi
import httpcore
import structlog
from h2.exceptions import H2Error

from services.push.providers.tcp import TcpBackend

STREAMS: Final = 100
"""Requests that one connection carries at a time; fewer if the provider says so."""
ANSWER_MOST_BYTES: Final = 8 * 1024
"""Of an answer's body, more is not read."""
TIMEOUT: Final = "TIMEOUT"
UNREACHABLE: Final = "UNREACHABLE"
BUSY: Final = "BUSY"
CLOSED: Final = "CLOSED"

_BUSY_FROM: Final = 20
"""With that many requests on each connection, another one is made, if there may be one more."""
_LINES_TRIED: Final = 3
_FORESEEN: Final = (httpcore.NetworkError, httpcore.ProtocolError, H2Error, OSError, anyio.EndOfStream)
"""How a connection fails. httpcore lets out more than these where an attempt was cancelled amid the beginning of a connection that
others wait for too; whatever it is, their attempts failed and may be made again.
"""
_HTTPS_PORT: Final = 443

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Answer:
    """What a provider said. Names of headers are in lower case."""

    status: int
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)
    """As far as it was read: at most ANSWER_MOST_BYTES and a frame more."""


class NoAnswer(Exception):
    """None came. `reason` is TIMEOUT, UNREACHABLE, BUSY (there was no room to ask) or CLOSED (we are)."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def trusting(ca_file: str) -> ssl.SSLContext:
    """TLS that believes the authorities in the file, or the public ones. Raises OSError, or ValueError for what is no
    certificate.
    """
    context = ssl.create_default_context(cafile=ca_file or certifi.where())
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


class _NotLookedAt(Exception):
    """The server took leave before the request: it may go over another connection."""


class _LineFailed(Exception):
    """The connection failed. The request may have been looked at."""


class Connections:
    """To the one origin of `url` (whose path is left out), at most `most` at a time besides those that are being given up.
    `older`: the server may speak HTTP/1.1 only, where a connection carries one request at a time.
    """

    def __init__(self, url: str, tls: ssl.SSLContext, *, most: int, timeout_s: float, older: bool = False) -> None:
        self._origin = urlsplit(url)
        self._tls = tls
        self._most = most
        self._timeout_s = timeout_s
        self._older = older
        self._lines: list[_Line] = []
        self._room = asyncio.Semaphore(most * STREAMS)
        self._attempts: set[asyncio.Timeout] = set()
        self._idle = asyncio.Event()
        self._idle.set()
        self._closed = False

    @property
    def idle(self) -> bool:
        """Whether nobody waits for an answer."""
        return not self._attempts

    async def post(self, path: str, headers: Mapping[str, str], body: bytes) -> Answer:
        """The answer, whatever its status. `headers` are in lower case. Raises NoAnswer."""
        if self._closed:
            raise NoAnswer(CLOSED)
        request = _request(self._origin, path, headers, body)
        reason = BUSY
        deadline = asyncio.timeout(self._timeout_s)
        try:
            async with deadline:
                self._begin(deadline)
                async with self._room:
                    reason = TIMEOUT
                    return await self._ask(request)
        except TimeoutError:
            raise NoAnswer(CLOSED if self._closed else reason) from None
        except _LineFailed:
            raise NoAnswer(CLOSED if self._closed else UNREACHABLE) from None
        finally:
            self._end(deadline)

    async def close(self) -> None:
        """Ends what is under way with CLOSED, then the connections."""
        self._closed = True
        now = asyncio.get_running_loop().time()
        for attempt in self._attempts:
            if not attempt.expired():
                attempt.reschedule(now)
        await self._idle.wait()
        for line in list(self._lines):
            self._give_up(line)
            await line.close_if_done()

    async def _ask(self, request: httpcore.Request) -> Answer:
        await self._leave_those_that_left()
        for _ in range(_LINES_TRIED):
            line = self._line()
            try:
                return await line.ask(request)
            except _NotLookedAt:
                self._give_up(line)
            except BaseException:
                self._give_up(line)  # cancelled too: what was being written may be written by half
                raise
            finally:
                await line.close_if_done()
        raise _LineFailed

    async def _leave_those_that_left(self) -> None:
        for line in [line for line in self._lines if line.left]:
            self._give_up(line)
            await line.close_if_done()

    def _begin(self, deadline: asyncio.Timeout) -> None:
        self._attempts.add(deadline)
        self._idle.clear()

    def _end(self, deadline: asyncio.Timeout) -> None:
        self._attempts.discard(deadline)
        if not self._attempts:
            self._idle.set()

    def _line(self) -> "_Line":
        self._lines = [line for line in self._lines if not line.given_up]
        least = min(self._lines, key=lambda line: line.asking, default=None)
        if least is not None and (least.asking < _BUSY_FROM or len(self._lines) == self._most):
            return least
        line = _Line(self._origin, self._tls, self._older)
        self._lines.append(line)
        return line

    def _give_up(self, line: "_Line") -> None:
        line.given_up = True
        if line in self._lines:
            self._lines.remove(line)


class _Line:
    """One connection, made when it is first needed. To an older server: one for each request at a time."""

    def __init__(self, origin: SplitResult, tls: ssl.SSLContext, older: bool) -> None:
        self._http: httpcore.AsyncConnectionPool | httpcore.AsyncHTTPConnection
        self._tcp = TcpBackend()
        if older:
            self._http = httpcore.AsyncConnectionPool(
                tls, max_connections=STREAMS, max_keepalive_connections=1, http2=True, network_backend=self._tcp
            )
        else:
            at = _url(origin, "/").origin
            self._http = httpcore.AsyncHTTPConnection(at, tls, http1=False, http2=True, network_backend=self._tcp)
        self.asking = 0
        self.given_up = False
        self._closed = False

    @property
    def left(self) -> bool:
        """Whether the server ended the connection while nobody asked it anything."""
        return not self.asking and self._tcp.ended

    async def ask(self, request: httpcore.Request) -> Answer:
        """The answer. Raises _NotLookedAt or _LineFailed."""
        self.asking += 1
        try:
            return await self._ask(request)
        except httpcore.ConnectionNotAvailable:
            raise _NotLookedAt from None
        except _FORESEEN:
            raise _LineFailed from None
        except Exception as error:  # noqa: BLE001 (see _FORESEEN)
            log.warning("connection.failed otherwise than foreseen", error=type(error).__name__)
            raise _LineFailed from None
        finally:
            self.asking -= 1

    async def _ask(self, request: httpcore.Request) -> Answer:
        response = await self._http.handle_async_request(request)
        try:
            body = await self._body(response)
        finally:
            await response.aclose()
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in response.headers}
        return Answer(response.status, headers, body)

    async def close_if_done(self) -> None:
        """Closes the connection if it was given up and nothing is under way on it."""
        if not self.given_up or self.asking or self._closed:
            return
        self._closed = True
        for close in (self._http.aclose, self._tcp.close):
            try:
                await close()
            except _FORESEEN:
                log.debug("connection.closing failed")

    async def _body(self, response: httpcore.Response) -> bytes:
        body = b""
        assert isinstance(response.stream, AsyncIterable)
        async for part in response.stream:
            body += part
            if len(body) > ANSWER_MOST_BYTES:
                self.given_up = True  # what is left would come all the same, and use up the connection's window
                break
        return body


def _request(origin: SplitResult, path: str, headers: Mapping[str, str], body: bytes) -> httpcore.Request:
    host = (b"host", origin.netloc.encode("ascii"))
    length = (b"content-length", str(len(body)).encode())
    sent = [(name.encode("ascii"), value.encode("latin-1")) for name, value in headers.items()]
    return httpcore.Request(b"POST", _url(origin, path), headers=[host, *sent, length], content=body)


def _url(origin: SplitResult, path: str) -> httpcore.URL:
    host = (origin.hostname or "").encode("ascii")
    return httpcore.URL(scheme=b"https", host=host, port=origin.port or _HTTPS_PORT, target=path.encode("ascii"))
