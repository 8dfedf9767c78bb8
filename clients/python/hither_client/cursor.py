"""Where a device remembers its place in the inbox from one run to the next."""

import asyncio
import os
from pathlib import Path
from typing import Protocol


class CursorStore(Protocol):
    """Keeps one place. `save` is called with ascending places, never concurrently, after the application took the event.

    What was saved when the process died decides what comes again: losing a save repeats events, it never loses any.
    """

    async def load(self) -> int | None:
        """The place; None: none was ever saved, the server's own record decides."""

    async def save(self, pos: int) -> None:
        """Keeps the place."""


class MemoryCursorStore:
    """Forgets with the process; the server's record of the device's cursor decides at the next start."""

    def __init__(self, pos: int | None = None) -> None:
        self.pos = pos

    async def load(self) -> int | None:
        """See CursorStore."""
        return self.pos

    async def save(self, pos: int) -> None:
        """See CursorStore."""
        self.pos = pos


class FileCursorStore:
    """Keeps the place in a small file that is replaced as a whole: a crash leaves the old one or the new one."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = Path(path)

    async def load(self) -> int | None:
        """See CursorStore. A file that is no number raises ValueError: better than reading everything again unasked."""
        return await asyncio.to_thread(self._read)

    async def save(self, pos: int) -> None:
        """See CursorStore."""
        await asyncio.to_thread(self._write, pos)

    def _read(self) -> int | None:
        try:
            return int(self._path.read_text(encoding="ascii"))
        except FileNotFoundError:
            return None

    def _write(self, pos: int) -> None:
        fresh = self._path.with_name(self._path.name + ".new")
        fresh.write_text(str(pos), encoding="ascii")
        fresh.replace(self._path)
