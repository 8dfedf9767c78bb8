import asyncio

import pytest

from discovery.errors import Unavailable
from services.messaging.committing import Committer
from services.messaging.settings import MessagingSettings
from services.messaging.supervision import Status
from services.ports.log import Committed
from tests.support.memory_ports import Disk, Life, MemoryLog


def a_committer(disk: Disk, flushed: list[int], failing: bool = False) -> Committer:
    """A committer whose flush notes how much had been committed before it."""

    async def flush() -> None:
        flushed.append(len(disk.commits))
        if failing:
            raise Unavailable("the disk is full")

    settings = MessagingSettings(commit_interval_s=0)
    return Committer(MemoryLog(disk, Life()), flush, "g", "t", Status("conversations", 0), settings)


async def test_rows_are_flushed_before_the_offset_behind_them_is_committed() -> None:
    disk, flushed = Disk(), list[int]()
    committer = a_committer(disk, flushed)
    committer.offer(Committed(7, b""))
    running = asyncio.create_task(committer.run())
    await disk.until(lambda: bool(disk.commits))
    running.cancel()
    assert flushed == [0]
    assert await committer.read() == Committed(7, b"")


async def test_an_offset_is_not_committed_when_its_rows_cannot_be_flushed() -> None:
    disk, flushed = Disk(), list[int]()
    committer = a_committer(disk, flushed, failing=True)
    committer.offer(Committed(7, b""))
    with pytest.raises(Unavailable):
        await committer.run()
    assert not disk.commits
