"""A world over a real log."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from services.storage.sqlite.log import SqliteLog
from tests.unit.push.pipeline.harness import World


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    """Over a log on disk."""
    log = await SqliteLog.open(tmp_path / "log.db")
    yield World(log)
    await log.close()
