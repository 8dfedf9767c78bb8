"""How connections are begun: as httpcore begins them, but none is left behind open, and whether one was ended can be seen.

httpcore closes what it connected when the TLS handshake fails, but not when the attempt is cancelled amid it. And over HTTP/2 it
reads only while an answer is awaited: so that a server took leave of an idle connection would be found out by the next push.
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
    """See the module. Of one connection, or of several one after the other."""

    def __init__(self) -> None:
        self._backend = httpcore.AnyIOBackend()
        self._last: httpcore.AsyncNetworkStream | None = None

    @property
    def ended(self) -> bool:
        """Whether the other side has ended the connection that was made last, as far as this system can tell."""
        made = None if self._last is None else self._last.get_extra_info("socket")
        if sys.platform != "linux" or made is None or made.fileno() < 0:
            return False
        poll = select.poll()
        poll.register(made.fileno(), select.POLLRDHUP)
        return bool(poll.poll(0))

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
        self._last = await self._backend.connect_tcp(host, port, timeout, local_address, options)
        return _TcpStream(self._last)


class _TcpStream(httpcore.AsyncNetworkStream):
    """Before TLS, which everything here speaks: there is nothing to read or write yet."""

    def __init__(self, stream: httpcore.AsyncNetworkStream) -> None:
        self._stream = stream

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109 (httpcore's)
    ) -> httpcore.AsyncNetworkStream:
        """See httpcore."""
        try:
            return await self._stream.start_tls(ssl_context, server_hostname, timeout)
        except BaseException:
            await self._stream.aclose()
            raise

    async def aclose(self) -> None:
        """See httpcore."""
        await self._stream.aclose()

    def get_extra_info(self, info: str) -> Any:
        """See httpcore."""
        return self._stream.get_extra_info(info)


def _keepalive() -> list[httpcore.SOCKET_OPTION]:
    """What of it this system knows."""
    known = [(getattr(socket, name), value) for name, value in _KEEPALIVE if hasattr(socket, name)]
    return [(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1), *((socket.IPPROTO_TCP, name, value) for name, value in known)]
