"""How connections are begun and ended: as httpcore does it, but none is left behind open, and whether one was ended can be seen.

httpcore closes what it connected when the TLS handshake fails, but not when the attempt is cancelled amid it; and its pool forgets
a connection whose first request failed, though the next one may have been made over it by then. Over HTTP/2 it reads only while
an answer is awaited: that a server took leave of an idle connection would be found out by the next push.
"""

import select
import socket
import ssl
import sys
from collections.abc import Iterable
from typing import Any, Final

import httpcore

_KEEPALIVE: Final = (("TCP_KEEPIDLE", 60), ("TCP_KEEPINTVL", 15), ("TCP_KEEPCNT", 3))
"""Seconds, seconds, probes: keeps an idle connection known to what is between, and finds out if it is not."""


class TcpBackend(httpcore.AsyncNetworkBackend):
    """See the module. Of one connection, or of several."""

    def __init__(self) -> None:
        self._backend = httpcore.AnyIOBackend()
        self._made: set[_Stream] = set()

    @property
    def ended(self) -> bool:
        """Whether the other side has ended a connection, as far as this system can tell."""
        return any(stream.ended for stream in self._made)

    async def close(self) -> None:
        """Closes what is still open."""
        for stream in list(self._made):
            await stream.aclose()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 (httpcore's)
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """See httpcore."""
        options = [*(socket_options or ()), *_keepalive()]
        stream = _Stream(await self._backend.connect_tcp(host, port, timeout, local_address, options), self._made)
        self._made.add(stream)
        return stream


class _Stream(httpcore.AsyncNetworkStream):
    """A connection, which is in `made` until it is closed."""

    def __init__(self, stream: httpcore.AsyncNetworkStream, made: "set[_Stream]") -> None:
        self._stream = stream
        self._made = made
        self._socket = stream.get_extra_info("socket")

    @property
    def ended(self) -> bool:
        if sys.platform != "linux" or self._socket.fileno() < 0:
            return False
        poll = select.poll()
        poll.register(self._socket.fileno(), select.POLLRDHUP)
        return bool(poll.poll(0))

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109 (httpcore's)
    ) -> httpcore.AsyncNetworkStream:
        """See httpcore."""
        try:
            self._stream = await self._stream.start_tls(ssl_context, server_hostname, timeout)
        except BaseException:  # cancelled too: httpcore would leave the socket open
            await self.aclose()
            raise
        return self

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ASYNC109 (httpcore's)
        """See httpcore."""
        return await self._stream.read(max_bytes, timeout)

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ASYNC109 (httpcore's)
        """See httpcore."""
        await self._stream.write(buffer, timeout)

    async def aclose(self) -> None:
        """See httpcore."""
        self._made.discard(self)
        await self._stream.aclose()

    def get_extra_info(self, info: str) -> Any:
        """See httpcore."""
        return self._stream.get_extra_info(info)


def _keepalive() -> list[httpcore.SOCKET_OPTION]:
    """What of it this system knows."""
    known = [(getattr(socket, name), value) for name, value in _KEEPALIVE if hasattr(socket, name)]
    return [(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1), *((socket.IPPROTO_TCP, name, value) for name, value in known)]
