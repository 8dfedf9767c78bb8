"""What every test may ask for."""

import os
from collections.abc import Callable, Iterator

import pytest

from tests.support.servers.postgresql import PostgresqlServer
from tests.support.servers.process import ServerMissing
from tests.support.servers.redis import RedisServer

Require = Callable[[bool, str], None]


@pytest.fixture(scope="session")
def require() -> Require:
    """Skips the test where something outside Python cannot be had; in CI (HITHER_REQUIRE_SERVERS=1) fails it instead."""

    def check(present: bool, otherwise: str) -> None:
        if present:
            return
        if os.environ.get("HITHER_REQUIRE_SERVERS") == "1":
            pytest.fail(otherwise)
        pytest.skip(otherwise)

    return check


@pytest.fixture(scope="session")
def redis_server(require: Require, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """One Redis for the run. Whoever asks for it empties it first, and leaves it running."""
    try:
        server = RedisServer(tmp_path_factory.mktemp("redis"))
    except ServerMissing as missing:
        require(False, str(missing))
        raise
    with server:
        yield server


@pytest.fixture(scope="session")
def postgresql_server(require: Require) -> Iterator[PostgresqlServer]:
    """One PostgreSQL for the run. Whoever asks for it makes a database, and leaves it running."""
    try:
        server = PostgresqlServer()
    except ServerMissing as missing:
        require(False, str(missing))
        raise
    with server:
        yield server
