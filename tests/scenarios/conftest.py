"""One server for all scenarios that leave it running; a scenario that stops its server starts one of its own."""

from collections.abc import AsyncIterator

import httpx
import pytest
import pytest_asyncio

from tests.support.people import WAIT_S
from tests.support.runner import RunningHither, running_hither


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def hither(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[RunningHither]:
    async with running_hither(tmp_path_factory.mktemp("hither") / "data") as server:
        yield server


@pytest_asyncio.fixture
async def http(hither: RunningHither) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=hither.url, timeout=WAIT_S) as client:
        yield client
