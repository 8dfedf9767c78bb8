"""Runs Hither as its users do: `hither up` in a process of its own, on a data directory, reached over real sockets."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

HITHER = Path(sys.executable).parent / "hither"
_READY = "hither is ready at "
_START_S = 30.0
_STOP_S = 30.0

LIGHT = {
    "HITHER_DIRECTORY_HASH_PASSES": "1",
    "HITHER_DIRECTORY_HASH_MEMORY_KIB": "1024",
    "HITHER_HTTP_PUBLIC_RATE_PER_S": "10000",
    "HITHER_HTTP_PUBLIC_BURST": "10000",
}
"""Settings that make sign-up cheap; nothing that a message passes is changed."""


class RunningHither:
    """A server process that can be killed, stopped and started again on the same data and port."""

    def __init__(self, data: Path, settings: Mapping[str, str]) -> None:
        self.data = data
        self.url = ""
        self._port = 0
        self._settings = {**LIGHT, **settings}
        self._process: asyncio.subprocess.Process | None = None

    @property
    def websocket_url(self) -> str:
        """Where WebSocket clients connect."""
        return self.url.replace("http://", "ws://") + "/ws"

    async def start(self) -> None:
        """Starts the process and returns when it says that it is ready; the second time on the port of the first."""
        with (self.data.parent / f"{self.data.name}.log").open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                HITHER, "up", "--port", str(self._port), "--data", str(self.data),
                stdout=asyncio.subprocess.PIPE, stderr=log, env={**os.environ, **self._settings},
            )  # fmt: skip
        assert self._process.stdout is not None
        line = (await asyncio.wait_for(self._process.stdout.readline(), _START_S)).decode().strip()
        assert line.startswith(_READY), f"said {line!r}; its log:\n{self.log()}"
        self.url = line.removeprefix(_READY)
        self._port = int(self.url.rpartition(":")[2])

    async def kill(self) -> None:
        """kill -9."""
        await self._end(signal.SIGKILL)

    async def terminate(self) -> int:
        """SIGTERM; returns the exit status."""
        return await self._end(signal.SIGTERM)

    async def token(self, user_id: str, device_id: str) -> str:
        """A token as an operator makes one."""
        return (await self.run("token", user_id, "--device", device_id)).strip()

    async def run(self, *arguments: str) -> str:
        """Output of another `hither` command on the same data. Fails if it does."""
        process = await asyncio.create_subprocess_exec(
            HITHER, *arguments, "--data", str(self.data), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
        out, err = await asyncio.wait_for(process.communicate(), _START_S)
        assert process.returncode == 0, err.decode()
        return out.decode()

    def log(self) -> str:
        """What the server has logged so far."""
        return (self.data.parent / f"{self.data.name}.log").read_text()

    async def _end(self, number: signal.Signals) -> int:
        assert self._process is not None
        if self._process.returncode is None:
            self._process.send_signal(number)
        return await asyncio.wait_for(self._process.wait(), _STOP_S)


@asynccontextmanager
async def running_hither(data: Path, settings: Mapping[str, str] | None = None) -> AsyncIterator[RunningHither]:
    """A started server; killed at the end if the test has not stopped it."""
    server = RunningHither(data, settings or {})
    await server.start()
    try:
        yield server
    finally:
        await server.kill()
