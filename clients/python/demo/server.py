"""A Hither of one's own: processes on ports of 127.0.0.1 over a data directory, killed and started again."""

import asyncio
import contextlib
import re
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

_READY = re.compile(rb" ready at (\S+)")
_START_TIMEOUT_S = 60.0
_STOP_TIMEOUT_S = 15.0
_HITHER = Path(sys.executable).with_name("hither")


class Process:
    """One `hither` command on the data directory `data`. Its log goes to `server.log` beside it."""

    def __init__(self, data: Path, *command: str) -> None:
        self._command = (*command, "--data", str(data))
        self._log = data.with_name("server.log")
        self._process: asyncio.subprocess.Process | None = None
        self.address = ""
        """Where it is ready, once started."""

    async def start(self, *options: str) -> None:
        """Starts it, with these options too; returns when it is ready."""
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                _HITHER, *self._command, *options,
                stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=log,
            )  # fmt: skip
        assert self._process.stdout is not None
        async with asyncio.timeout(_START_TIMEOUT_S):
            while line := await self._process.stdout.readline():
                if ready := _READY.search(line):
                    self.address = ready.group(1).decode()
                    return
        raise RuntimeError(f"{' '.join(self._command)} did not start:\n{self._log.read_text(errors='replace')}")

    async def start_in_place(self) -> None:
        """Starts a process that clients connect to, on the port that it had before if it had one."""
        port = urlsplit(self.address).port or 0
        await self.start("--host", "127.0.0.1", "--port", str(port))

    async def kill(self) -> None:
        """SIGKILL: nothing in the process gets a chance to tidy up."""
        await self._end(signal.SIGKILL)

    async def stop(self) -> None:
        """SIGTERM, and SIGKILL if that is not enough."""
        try:
            await self._end(signal.SIGTERM)
        except TimeoutError:
            await self._end(signal.SIGKILL)

    async def _end(self, number: signal.Signals) -> None:
        if self._process is None or self._process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(number)
        async with asyncio.timeout(_STOP_TIMEOUT_S):
            await self._process.wait()


class Server:
    """What the story is played against: all of Hither in one process, on embedded engines."""

    victim = "the server"
    """What is killed."""

    def __init__(self, data: Path) -> None:
        self._data = data
        self._whole = Process(data, "up")

    @property
    def urls(self) -> Sequence[str]:
        """Where clients connect."""
        return [self._whole.address]

    def describe(self) -> str:
        """What runs, in a line."""
        return f"A server runs at {self._whole.address}, its data in {self._data}"

    async def __aenter__(self) -> Self:
        try:
            await self.start()
        except BaseException:
            await self.stop()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.stop()

    async def start(self) -> None:
        """Starts what does not run; returns when it is ready."""
        await self._whole.start_in_place()

    async def kill(self) -> None:
        """Kill -9 of the victim."""
        await self._whole.kill()

    async def stop(self) -> None:
        """Stops all of it."""
        await self._whole.stop()


class Apart(Server):
    """Two processes of all services and two edges, on the engines and the registry that HITHER_* variables name."""

    victim = "one of two services, and one of two edges,"

    def __init__(self, data: Path) -> None:
        self._services = [Process(data, "serve", *_SERVICES) for _ in range(2)]
        self._edges = [Process(data, "edge") for _ in range(2)]

    @property
    def urls(self) -> Sequence[str]:
        """See Server."""
        return [edge.address for edge in self._edges]

    def describe(self) -> str:
        """See Server."""
        return f"Two processes of services and two edges run, at {' and '.join(self.urls)}, on servers of their own"

    async def start(self) -> None:
        """See Server."""
        services, edges = (self._services[1:], self._edges[1:]) if self.urls[0] else (self._services, self._edges)
        await asyncio.gather(*(process.start() for process in services))
        await asyncio.gather(*(process.start_in_place() for process in edges))

    async def kill(self) -> None:
        """See Server."""
        await asyncio.gather(self._services[1].kill(), self._edges[1].kill())

    async def stop(self) -> None:
        """See Server."""
        for processes in (self._edges, self._services):
            await asyncio.gather(*(process.stop() for process in processes))


_SERVICES = ("directory", "sessions", "messaging", "presence", "location", "push")
