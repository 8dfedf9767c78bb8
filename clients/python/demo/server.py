"""A Hither server of one's own: a subprocess on a port of 127.0.0.1 and a data directory, started, killed and started again."""

import asyncio
import contextlib
import re
import signal
import sys
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

_READY = re.compile(rb"hither is ready at (http://\S+)")
_START_TIMEOUT_S = 30.0
_STOP_TIMEOUT_S = 15.0
_HITHER = Path(sys.executable).with_name("hither")


class Server:
    """`hither up` on the data directory `data`. Its log goes to `server.log` beside it."""

    def __init__(self, data: Path) -> None:
        self._data = data
        self._log = data.with_name("server.log")
        self._process: asyncio.subprocess.Process | None = None
        self.url = ""

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.stop()

    async def start(self) -> None:
        """Starts the server, on the port that it had before if it had one; returns when it is ready."""
        port = urlsplit(self.url).port or 0 if self.url else 0
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                _HITHER, "up", "--host", "127.0.0.1", "--port", str(port), "--data", str(self._data),
                stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=log,
            )  # fmt: skip
        assert self._process.stdout is not None
        async with asyncio.timeout(_START_TIMEOUT_S):
            while line := await self._process.stdout.readline():
                if ready := _READY.search(line):
                    self.url = ready.group(1).decode()
                    return
        raise RuntimeError(f"the server did not start:\n{self._log.read_text(errors='replace')}")

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
