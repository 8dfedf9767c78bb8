"""How connections are begun: as httpcore begins them, but none is left behind open.

httpcore closes what it connected when the TLS handshake fails, but not when the attempt is cancelled amid it.
"""

import ssl
from collections.abc import Iterable
from typing import Any

import httpcore


class TcpBackend(httpcore.AsyncNetworkBackend):
    """See the module."""

    def __init__(self) -> None:
        self._backend = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 (httpcore's)
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """See httpcore."""
        return _TcpStream(await self._backend.connect_tcp(host, port, timeout, local_address, socket_options))


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
