"""Runs Hither as its users do: `hither ...` in processes of their own, on a data directory, reached over real sockets."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Protocol

HITHER = Path(sys.executable).parent / "hither"
_START_S = 180.0
_STOP_S = 60.0

LIGHT = {
    "HITHER_DIRECTORY_HASH_PASSES": "1",
    "HITHER_DIRECTORY_HASH_MEMORY_KIB": "1024",
    "HITHER_HTTP_PUBLIC_RATE_PER_S": "10000",
    "HITHER_HTTP_PUBLIC_BURST": "10000",
}
"""Settings that make sign-up cheap; nothing that a message passes is changed."""


class HitherProcess:
    """One `hither` process: can be started, killed, stopped, paused, and started again. Writes to `log`, and says that it is there
    with a line that has `ready` in it.
    """

    def __init__(
        self, arguments: Sequence[str], log: Path, settings: Mapping[str, str], ready: str = " ready at "
    ) -> None:
        self._arguments = tuple(arguments)
        self._log = log
        self._settings = {**os.environ, **LIGHT, **settings}
        self._ready = ready
        self._process: asyncio.subprocess.Process | None = None

    @property
    def pid(self) -> int:
        """Of the process that was started last."""
        assert self._process is not None
        return self._process.pid

    async def start(self, *more_arguments: str) -> str:
        """Starts it; returns what follows `ready` on that line: where it can be reached."""
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                HITHER, *self._arguments, *more_arguments,
                stdout=asyncio.subprocess.PIPE, stderr=log, env=self._settings,
            )  # fmt: skip
        assert self._process.stdout is not None
        line = (await asyncio.wait_for(self._process.stdout.readline(), _START_S)).decode().strip()
        assert self._ready in line, f"said {line!r}; its log:\n{self.log()}"
        return line.partition(self._ready)[2]

    async def kill(self) -> None:
        """kill -9. One that has ended already is no error."""
        await self._end(signal.SIGKILL)

    async def terminate(self) -> int:
        """SIGTERM; returns the exit status."""
        return await self._end(signal.SIGTERM)

    def pause(self) -> None:
        """SIGSTOP: it holds its sockets and does nothing."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def log(self) -> str:
        """What it has logged so far, the end of it."""
        return self._log.read_text(errors="replace")[-20_000:]

    async def _end(self, number: signal.Signals) -> int:
        if self._process is None:
            return 0
        if self._process.returncode is None:
            self._process.send_signal(number)
        return await asyncio.wait_for(self._process.wait(), _STOP_S)


async def run_hither(arguments: Sequence[str], settings: Mapping[str, str] | None = None) -> str:
    """Output of a `hither` command that ends by itself. Fails if it does."""
    process = await asyncio.create_subprocess_exec(
        HITHER, *arguments,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, env={**os.environ, **(settings or {})},
    )  # fmt: skip
    out, err = await asyncio.wait_for(process.communicate(), _START_S)
    assert process.returncode == 0, err.decode()
    return out.decode()


class Hither(Protocol):
    """A Hither that runs, whole or apart."""

    @property
    def data(self) -> Path:
        """Its data directory: keys, and what embedded engines keep."""

    @property
    def url(self) -> str:
        """Where REST clients ask."""

    @property
    def websocket_url(self) -> str:
        """Where WebSocket clients connect."""

    async def start(self) -> None:
        """Starts it (again, on the same data) and returns when it is ready."""

    async def kill(self) -> None:
        """kill -9 for everything."""

    async def terminate(self) -> int:
        """SIGTERM for everything; the exit status, the highest of several."""

    async def token(self, user_id: str, device_id: str) -> str:
        """A token as an operator makes one."""

    async def run(self, *arguments: str) -> str:
        """Output of another `hither` command on the same data. Fails if it does."""

    def log(self) -> str:
        """What it has logged so far."""


class StartHither(Protocol):
    """Starts a Hither of one kind."""

    def __call__(self, data: Path, settings: Mapping[str, str] | None = None) -> AbstractAsyncContextManager[Hither]:
        """A started one on its own data; killed at the end if the test has not stopped it."""


class RunningHither:
    """A server process that can be killed, stopped and started again on the same data and port."""

    def __init__(self, data: Path, settings: Mapping[str, str], options: Sequence[str] = ()) -> None:
        self.data = data
        self.url = ""
        self._port = 0
        self._process = HitherProcess(("up", *options, "--data", str(data)), data.parent / f"{data.name}.log", settings)

    @property
    def websocket_url(self) -> str:
        """Where WebSocket clients connect."""
        return websocket_url(self.url)

    async def start(self) -> None:
        """Starts the process and returns when it says that it is ready; the second time on the port of the first."""
        self.url = await self._process.start("--port", str(self._port))
        self._port = int(self.url.rpartition(":")[2])

    async def kill(self) -> None:
        """kill -9."""
        await self._process.kill()

    async def terminate(self) -> int:
        """SIGTERM; returns the exit status."""
        return await self._process.terminate()

    def children(self) -> list[int]:
        """The pids of the processes that it has started."""
        pid = self._process.pid
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

    async def token(self, user_id: str, device_id: str) -> str:
        """A token as an operator makes one."""
        return (await self.run("token", user_id, "--device", device_id)).strip()

    async def run(self, *arguments: str) -> str:
        """Output of another `hither` command on the same data. Fails if it does."""
        return await run_hither((*arguments, "--data", str(self.data)))

    def log(self) -> str:
        """What the server has logged so far."""
        return self._process.log()


def websocket_url(url: str) -> str:
    """Where WebSocket clients connect to the server at this URL."""
    return url.replace("http://", "ws://") + "/ws"


@asynccontextmanager
async def running_hither(
    data: Path, settings: Mapping[str, str] | None = None, *options: str
) -> AsyncIterator[RunningHither]:
    """A started server; killed at the end if the test has not stopped it. `options` are of `hither up`."""
    server = RunningHither(data, settings or {}, options)
    await server.start()
    try:
        yield server
    finally:
        await server.kill()
