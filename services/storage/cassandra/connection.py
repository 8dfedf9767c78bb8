"""The driver's connections, on the event loop of who uses them.

The driver's own reactors run in a thread: every statement then costs two changes of threads, each of which waits for the
interpreter lock of a busy loop. Here a socket is a reader of the loop, what is sent in one turn of the loop goes out in one
system call, and answers are handed over where they are awaited. Connecting, heartbeats and reconnecting stay in the driver's threads.
Knows nothing of the protocol: that is the driver's.
"""

import asyncio
import ssl
import threading
from collections.abc import Callable
from typing import ClassVar

from cassandra import AuthenticationFailed
from cassandra.connection import Connection, ConnectionException, ConnectionShutdown

_RECEIVE_BYTES = 64 * 1024
_NOT_NOW = (BlockingIOError, InterruptedError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


class LoopTimer:
    """A call after some time, which may be called off from any thread."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, thread_id: int, timeout_s: float, call: Callable[[], object]
    ) -> None:
        self._thread_id = thread_id
        self._call: Callable[[], object] | None = call
        self._handle: asyncio.TimerHandle | None = None
        if threading.get_ident() == thread_id:
            self._start(loop, timeout_s)
        else:
            loop.call_soon_threadsafe(self._start, loop, timeout_s)

    def cancel(self) -> None:
        """Nothing is called any more."""
        self._call = None
        if self._handle is not None and threading.get_ident() == self._thread_id:
            self._handle.cancel()

    def _start(self, loop: asyncio.AbstractEventLoop, timeout_s: float) -> None:
        self._handle = loop.call_later(timeout_s, self._due)

    def _due(self) -> None:
        if self._call is not None:
            self._call()


class NotBelieved(ConnectionException):  # type: ignore[misc] # the driver is untyped
    """The server's certificate is none that this process believes."""


class LoopConnection(Connection):  # type: ignore[misc] # the driver is untyped
    """A connection of one loop; see `on`."""

    loop: ClassVar[asyncio.AbstractEventLoop]
    thread_id: ClassVar[int]
    was_let_in: ClassVar[bool] = False
    """Set when this process was believed once: then it is right about who it is, whatever a server says that is starting."""
    is_closed: bool

    @classmethod
    def on(cls, loop: asyncio.AbstractEventLoop) -> "type[LoopConnection]":
        """The class of connections of that loop, which must be the one that runs in this thread."""
        return type("LoopConnectionOfOne", (cls,), {"loop": loop, "thread_id": threading.get_ident()})

    @classmethod
    def initialize_reactor(cls) -> None:
        """For the driver. The loop runs already."""

    @classmethod
    def create_timer(cls, timeout: float, callback: Callable[[], object]) -> LoopTimer:
        """For the driver."""
        return LoopTimer(cls.loop, cls.thread_id, timeout, callback)

    @classmethod
    def factory(cls, endpoint: object, timeout: float, *args: object, **kwargs: object) -> object:
        """For the driver: a connection that is ready. The driver never comes back to a server that refused a password, and a
        server says so too while it cannot read its passwords.
        """
        try:
            return super().factory(endpoint, timeout, *args, **kwargs)
        except AuthenticationFailed as error:
            if not cls.was_let_in:
                raise
            raise ConnectionException(str(error), endpoint) from error

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)
        self._pending: list[bytes] = []
        self._sending = False
        self._blocked = False
        self._connect_socket()
        self._socket.setblocking(False)
        self._in_loop(self._watch)
        self._send_options_message()

    def push(self, data: bytes) -> None:
        """For the driver: sends a message, after those before it."""
        self._in_loop(self._push, data)

    def close(self) -> None:
        """For the driver. What waits for an answer fails."""
        with self.lock:
            if self.is_closed:
                return
            self.is_closed = True
        self._in_loop(self._close)
        if not self.is_defunct:
            self.error_all_requests(ConnectionShutdown(f"Connection to {self.endpoint} was closed"))
            self.connected_event.set()

    def _initiate_connection(self, sockaddr: object) -> None:
        try:
            super()._initiate_connection(sockaddr)
        except ssl.SSLCertVerificationError as error:
            self._socket.close()
            raise NotBelieved(error.verify_message, self.endpoint) from error

    def _in_loop(self, call: Callable[..., object], *args: object) -> None:
        if threading.get_ident() == self.thread_id:
            call(*args)
        elif not self.loop.is_closed():
            self.loop.call_soon_threadsafe(call, *args)

    def _watch(self) -> None:
        if not self.is_closed:
            self.loop.add_reader(self._socket.fileno(), self._receive)

    def _close(self) -> None:
        if self._socket.fileno() >= 0:
            self.loop.remove_reader(self._socket.fileno())
            self.loop.remove_writer(self._socket.fileno())
            self._socket.close()

    def _push(self, data: bytes) -> None:
        self._pending.append(data)
        if not self._sending:
            self._sending = True
            self.loop.call_soon(self._send)

    def _send(self) -> None:
        if self.is_closed:
            return
        data = self._pending[0] if len(self._pending) == 1 else b"".join(self._pending)
        self._pending.clear()
        try:
            sent = self._socket.send(data)
        except _NOT_NOW:
            sent = 0
        except OSError as error:
            self.defunct(error)
            return
        if sent < len(data):
            self._pending.insert(0, data[sent:])
            self._block()
        else:
            self._sending = False
            self._unblock()

    def _block(self) -> None:
        if not self._blocked:
            self._blocked = True
            self.loop.add_writer(self._socket.fileno(), self._send)

    def _unblock(self) -> None:
        if self._blocked:
            self._blocked = False
            self.loop.remove_writer(self._socket.fileno())

    def _receive(self) -> None:
        try:
            data = self._socket.recv(_RECEIVE_BYTES)
        except _NOT_NOW:
            return
        except OSError as error:
            self.defunct(error)
            return
        if data:
            self._iobuf.write(data)
            self.process_io_buffer()
        else:
            self.close()
