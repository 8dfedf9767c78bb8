"""Edges in processes of their own beside the one that holds the services, so that one machine's cores all work.

They share the public port: the kernel spreads new connections over them. One that dies is started again. They end when
their standard input does, so none outlives a parent that was killed.
"""

import asyncio
import os
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import structlog

log = structlog.get_logger(__name__)

_START_S: Final = 60.0
_STOP_S: Final = 10.0
_FIRST_PAUSE_S: Final = 0.5
_LAST_PAUSE_S: Final = 30.0
_STEADY_S: Final = 60.0
"""An edge that lived for as long begins with the first pause again."""


class EdgeFailed(RuntimeError):
    """An edge did not start."""


@dataclass(frozen=True, slots=True)
class EdgeCommand:
    """What every edge is started with."""

    registry: str
    host: str
    port: int
    data: Path
    behind_tls_proxy: bool
    config_file: Path | None
    drain_s: float

    def arguments(self) -> list[str]:
        """The command line."""
        given = [sys.executable, "-m", "services.cli", "edge", "--with-parent", "--registry", self.registry]
        given += ["--host", self.host, "--port", str(self.port), "--data", str(self.data)]
        given += ["--behind-tls-proxy"] if self.behind_tls_proxy else []
        return given + (["--config", str(self.config_file)] if self.config_file else [])


@dataclass(slots=True)
class EdgeProcesses:
    """Keeps `count` edges running. `ready` is set once all of them have been."""

    command: EdgeCommand
    count: int
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    _ready: int = 0

    async def run(self) -> None:
        """Runs them until cancelled, then stops them: each drains first. Raises EdgeFailed if one cannot start at first."""
        async with asyncio.TaskGroup() as group:
            for number in range(self.count):
                group.create_task(self._keep(number), name=f"edge process {number}")

    async def _keep(self, number: int) -> None:
        pause_s = _FIRST_PAUSE_S
        first = True
        while True:
            began_s = asyncio.get_running_loop().time()
            process = await self._start()
            try:
                if await self._said_ready(process):
                    if first:
                        self._has_started()
                    first = False
                    await process.wait()
                elif first:
                    raise EdgeFailed(f"edge process {number} did not start; its own log lines say why")
            finally:
                await self._stop(process)
            if asyncio.get_running_loop().time() - began_s > _STEADY_S:
                pause_s = _FIRST_PAUSE_S
            log.error("edge process ended", number=number, status=process.returncode, again_in_s=pause_s)
            await asyncio.sleep(pause_s)
            pause_s = min(_LAST_PAUSE_S, pause_s * 2)

    def _has_started(self) -> None:
        self._ready += 1
        if self._ready == self.count:
            self.ready.set()

    async def _start(self) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            *self.command.arguments(),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            # A Ctrl-C is for this process, which then stops its edges in order.
            start_new_session=True,
            env={**os.environ, "HITHER_EDGE_REUSE_PORT": "1"},
        )

    async def _said_ready(self, process: asyncio.subprocess.Process) -> bool:
        assert process.stdout is not None
        try:
            async with asyncio.timeout(_START_S):
                return bool(await process.stdout.readline())
        except TimeoutError:
            return False

    async def _stop(self, process: asyncio.subprocess.Process) -> None:
        if process.returncode is not None:
            return
        process.terminate()
        try:
            async with asyncio.timeout(self.command.drain_s + _STOP_S):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()


@asynccontextmanager
async def shared_port(host: str, port: int) -> AsyncIterator[int]:
    """Holds a port that several processes may listen on, for the time of the block; 0 takes a free one. Raises OSError if
    somebody who does not share it is there.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as held:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        held.bind((host, port))
        yield int(held.getsockname()[1])
