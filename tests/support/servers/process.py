"""A server process that somebody else made: started on free ports in a folder of its own, found ready by a real request,
and killed, paused or started again by tests.

Nothing here belongs to an event loop, so one server serves the tests of a whole run.
"""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

_POLL_S = 0.05
_STOP_S = 30.0


class ServerMissing(Exception):
    """The server cannot be had on this machine; the message says what is missing."""


class ServerFailed(Exception):
    """The server did not become ready; the message ends with the end of its log."""


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class ServerProcess:
    """One process. `with ServerProcess(...) as server:` starts it and stops it at the end, whatever the test did to it.

    `is_ready` makes a real request; it is asked again and again, for `within_s` seconds, until it answers True. The server
    writes to `folder`/server.log.
    """

    stop_signal = signal.SIGTERM
    """What asks it to end in order."""

    def __init__(
        self,
        command: Sequence[str],
        folder: Path,
        is_ready: Callable[[], bool],
        *,
        environment: Mapping[str, str] | None = None,
        within_s: float = 60.0,
    ) -> None:
        self._command = list(command)
        self._folder = folder
        self._is_ready = is_ready
        self._environment = {**os.environ, **(environment or {})}
        self._within_s = within_s
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        """Starts it, or raises ServerFailed."""
        try:
            self.start()
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stops it."""
        self.stop()

    @property
    def pid(self) -> int:
        """Of the process that was started last."""
        assert self._process is not None
        return self._process.pid

    def launch(self) -> None:
        """Starts it and does not wait."""
        self._folder.mkdir(parents=True, exist_ok=True)
        with (self._folder / "server.log").open("ab") as log:
            # A session of its own: a Ctrl-C is for the tests, who then stop their servers in order.
            self._process = subprocess.Popen(
                self._command, stdout=log, stderr=log, env=self._environment, cwd=self._folder, start_new_session=True
            )

    def wait_ready(self) -> None:
        """Returns when a real request is answered. Raises ServerFailed."""
        assert self._process is not None
        end_s = time.monotonic() + self._within_s
        while not self._is_ready():
            if self._process.poll() is not None:
                raise ServerFailed(f"{self._command[0]} ended with {self._process.returncode}:\n{self.log()}")
            if time.monotonic() > end_s:
                raise ServerFailed(f"{self._command[0]} was not ready in {self._within_s} s:\n{self.log()}")
            time.sleep(_POLL_S)

    def start(self) -> None:
        """Starts it (again, on the same data and ports) and returns when it is ready."""
        self.launch()
        self.wait_ready()

    def stop(self) -> None:
        """Asks it to end, and SIGKILL for one that does not end. A server that has ended already is no error."""
        if self._process is None or self._process.poll() is not None:
            return
        self.resume()
        self._process.send_signal(self.stop_signal)
        try:
            self._process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """kill -9."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait(_STOP_S)

    def pause(self) -> None:
        """SIGSTOP: it holds its sockets and answers nothing."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def log(self) -> str:
        """The end of what it wrote."""
        path = self._folder / "server.log"
        return path.read_text(errors="replace")[-4000:] if path.exists() else ""
