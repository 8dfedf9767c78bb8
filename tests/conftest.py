"""What every test may ask for."""

import os
from collections.abc import Callable, Iterator

import pytest

from tests.support.servers.cassandra import CassandraServer
from tests.support.servers.process import ServerMissing

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
def cassandra_server(require: Require, tmp_path_factory: pytest.TempPathFactory) -> Iterator[CassandraServer]:
    """One Cassandra for the run. Whoever asks for it makes a keyspace, and leaves it running."""
    try:
        server = CassandraServer(tmp_path_factory.mktemp("cassandra"))
    except ServerMissing as missing:
        require(False, str(missing))
        raise
    with server:
        yield server
        server.kill()  # nobody needs its data any more
