"""Every story is told twice: by one process on embedded engines, and by many on real servers.

One Hither of each kind serves all scenarios that leave it running; a scenario that stops it starts one of its own.
"""

from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
import pytest_asyncio

from tests.support.apart import TWO_OF_EACH, Servers, running_cluster
from tests.support.people import WAIT_S
from tests.support.runner import Hither, StartHither, running_hither
from tests.support.servers.redis import RedisServer
from tests.support.times import Times, running_times


@pytest.fixture(scope="session", params=["whole", "apart"])
def start_hither(request: pytest.FixtureRequest) -> StartHither:
    if request.param == "whole":
        return running_hither
    servers: Servers = request.getfixturevalue("servers")

    def start(data: Path, settings: Mapping[str, str] | None = None) -> AbstractAsyncContextManager[Hither]:
        return running_cluster(data, servers, settings)

    return start


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def hither(
    request: pytest.FixtureRequest, start_hither: StartHither, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Hither]:
    data = tmp_path_factory.mktemp("hither") / "data"
    running: AbstractAsyncContextManager[Hither] = running_hither(data)
    if start_hither is not running_hither:
        running = running_cluster(data, request.getfixturevalue("servers"), layout=TWO_OF_EACH)
    async with running as started:
        yield started


@pytest_asyncio.fixture
async def http(hither: Hither) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=hither.url, timeout=WAIT_S) as client:
        yield client


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=["embedded", "servers"])
async def times(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Times]:
    """The whole of Hither in this process, by a clock that tests move. It lives only while its loop runs, which is the module's, and a
    lease of its registry ends after ten seconds of standing still: so its tests follow each other.
    """
    data = tmp_path_factory.mktemp("times") / "data"
    if request.param == "embedded":
        async with running_times(data) as started:
            yield started
        return
    servers: Servers = request.getfixturevalue("servers")
    redis: RedisServer = request.getfixturevalue("redis_server")  # may be emptied
    redis.ask("FLUSHALL")
    own = replace(servers, redis=redis)
    async with running_times(data, own.settings(), redis) as started:
        yield started
