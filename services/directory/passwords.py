"""Passwords: hashed with Argon2id, in a few threads of their own, so that no hash ever holds up the event loop."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerifyMismatchError

from discovery.errors import ResourceExhausted
from services.directory.settings import DirectorySettings

T = TypeVar("T")


class Passwords:
    """Hashes and verifies. Both raise ResourceExhausted (OVERLOADED) when too many requests are waiting for a thread."""

    def __init__(self, settings: DirectorySettings) -> None:
        self._hasher = PasswordHasher(
            time_cost=settings.hash_passes, memory_cost=settings.hash_memory_kib, parallelism=settings.hash_lanes
        )
        self._threads = ThreadPoolExecutor(settings.hash_threads, thread_name_prefix="hither-argon2")
        # Released by the thread that finishes, not by the waiting task: a cancelled request still occupies its place.
        self._places = threading.Semaphore(settings.hash_waiting_most)
        self._decoy: str | None = None

    async def hash(self, password: str) -> str:
        """A salted hash, in the PHC string format."""
        return await self._in_thread(lambda: self._hasher.hash(password))

    async def verify(self, password: str, password_hash: str | None) -> bool:
        """Whether the hash is that of the password. Without a hash it takes as long, and the answer is no."""
        return await self._in_thread(lambda: self._verify(password, password_hash))

    def is_outdated(self, password_hash: str) -> bool:
        """Whether the hash was made with other parameters than those of today."""
        return self._hasher.check_needs_rehash(password_hash)

    def close(self) -> None:
        """Lets the threads go, without waiting for the hashes that they are at; what waits is cancelled."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _verify(self, password: str, password_hash: str | None) -> bool:
        try:
            matches = self._hasher.verify(password_hash or self._decoy_hash(), password)
        except (VerifyMismatchError, InvalidHashError):
            return False
        return matches and password_hash is not None

    def _decoy_hash(self) -> str:
        # Two threads may both make one; either serves.
        if self._decoy is None:
            self._decoy = self._hasher.hash("nobody's password")
        return self._decoy

    async def _in_thread(self, work: Callable[[], T]) -> T:
        if not self._places.acquire(blocking=False):
            raise ResourceExhausted("Too many passwords are being hashed.", retry_after_s=1.0)
        try:
            future = self._threads.submit(work)
        except BaseException:
            self._places.release()
            raise
        future.add_done_callback(lambda _: self._places.release())
        return await asyncio.wrap_future(future)
