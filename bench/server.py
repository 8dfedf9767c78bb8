"""The server under test: `hither up` as a subprocess on a fresh data directory, with limits that no benchmark should meet."""

import asyncio
import os
import re
import sys
import tempfile
from collections.abc import Coroutine, Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from hither_client import RestClient

_BIN = Path(sys.executable).parent
_READY = re.compile(rb"hither is ready at (http://\S+)")
_START_TIMEOUT_S = 60.0
_STOP_TIMEOUT_S = 30.0
_PASSWORD = "correct horse battery"
_AT_ONCE = 8

RAISED_LIMITS = {
    "HITHER_PROCESS_LOG_LEVEL": "warning",
    "HITHER_EDGE_FRAMES_PER_S": "1000000",
    "HITHER_EDGE_FRAMES_BURST": "1000000",
    "HITHER_MESSAGING_SEND_RATE_PER_S": "1000000",
    "HITHER_MESSAGING_SEND_BURST": "1000000",
    "HITHER_HTTP_PUBLIC_RATE_PER_S": "1000000",
    "HITHER_HTTP_PUBLIC_BURST": "1000000",
    "HITHER_DIRECTORY_HASH_PASSES": "1",
    "HITHER_DIRECTORY_HASH_MEMORY_KIB": "64",
}
"""Rate limits and the cost of passwords would be measured instead of the way of a message."""


class BenchServer:
    """Runs while the block does. With `cpu`, all its threads are kept on that CPU."""

    def __init__(self, cpu: int | None = None) -> None:
        self._cpu = cpu
        self._folder = tempfile.TemporaryDirectory(prefix="hither-bench-")
        self.data = Path(self._folder.name) / "data"
        """Its data directory: what is put there before the block begins, the server finds."""
        self._process: asyncio.subprocess.Process | None = None
        self.url = ""

    @property
    def pid(self) -> int:
        """Of the server."""
        assert self._process is not None
        return self._process.pid

    async def __aenter__(self) -> Self:
        log_path = Path(self._folder.name) / "server.log"
        with log_path.open("wb") as log:
            self._process = await asyncio.create_subprocess_exec(
                _BIN / "hither", "up", "--host", "127.0.0.1", "--port", "0", "--data", str(self.data),
                env={**os.environ, **RAISED_LIMITS}, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=log,
            )  # fmt: skip
        if self._cpu is not None:
            os.sched_setaffinity(self._process.pid, {self._cpu})  # threads that are started later inherit it
        assert self._process.stdout is not None
        async with asyncio.timeout(_START_TIMEOUT_S):
            while line := await self._process.stdout.readline():
                if ready := _READY.search(line):
                    self.url = ready.group(1).decode()
                    return self
        raise RuntimeError(f"the server did not start:\n{log_path.read_text(errors='replace')}")

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._process is not None
        if self._process.returncode is None:
            self._process.terminate()
            try:
                async with asyncio.timeout(_STOP_TIMEOUT_S):
                    await self._process.wait()
            except TimeoutError:
                self._process.kill()
                await self._process.wait()
        self._folder.cleanup()

    async def tokens(self, user_ids: Sequence[str], device_id: str = "bench") -> list[str]:
        """An access token for each user, who need not have an account."""
        process = await asyncio.create_subprocess_exec(
            _BIN / "hither",
            "token",
            *user_ids,
            "--device",
            device_id,
            "--data",
            str(self.data),
            stdout=asyncio.subprocess.PIPE,
        )
        async with asyncio.timeout(_START_TIMEOUT_S):
            out, _ = await process.communicate()
        tokens = out.decode().split()
        if len(tokens) != len(user_ids):
            raise RuntimeError(f"asked for {len(user_ids)} tokens, got {len(tokens)}")
        return tokens

    async def sign_up(self, user_ids: Sequence[str]) -> None:
        """Makes accounts."""
        await sign_up(self.url, user_ids)

    async def group(self, user_ids: Sequence[str], tokens: Sequence[str]) -> str:
        """Makes a group of the first user and the others, who become friends of the first for it. Its id."""
        async with RestClient(self.url, tokens[0]) as rest:
            for user_id, token in zip(user_ids[1:], tokens[1:], strict=True):
                await rest.add_friend(user_id)
                async with RestClient(self.url, token) as other:
                    await other.add_friend(user_ids[0])
            return (await rest.create_conversation("bench", user_ids[1:])).conversation_id


async def sign_up(url: str, user_ids: Sequence[str]) -> None:
    """Makes accounts at the server with this URL."""
    async with RestClient(url) as rest:
        await _all(rest.sign_up(user_id, user_id, _PASSWORD) for user_id in user_ids)


async def _all(calls: Iterable[Coroutine[None, None, object]]) -> None:
    slots = asyncio.Semaphore(_AT_ONCE)

    async def one(call: Coroutine[None, None, object]) -> None:
        async with slots:
            await call

    async with asyncio.TaskGroup() as group:
        for call in calls:
            group.create_task(one(call))
