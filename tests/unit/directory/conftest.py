"""A directory for each test."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.directory import DirectoryDesk, directory_desk


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[DirectoryDesk]:
    async with directory_desk(tmp_path) as made:
        yield made
