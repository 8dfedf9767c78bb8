"""What every test may ask for."""

import os
from collections.abc import Callable, Iterator
from typing import TypeVar

import pytest

from tests.support.servers.kafka import KafkaServer
from tests.support.servers.process import ServerMissing


@pytest.fixture
def require() -> Callable[[bool, str], None]:
    """Skips the test where something outside Python cannot be had; in CI (HITHER_REQUIRE_SERVERS=1) fails it instead."""

    def check(present: bool, otherwise: str) -> None:
        if present:
            return
        if os.environ.get("HITHER_REQUIRE_SERVERS") == "1":
            pytest.fail(otherwise)
        pytest.skip(otherwise)

    return check


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaServer]:
    """A Kafka for the whole run; a test that kills or pauses one starts its own."""
    with _or_skip(lambda: KafkaServer(tmp_path_factory.mktemp("kafka"))) as server:
        yield server


_Server = TypeVar("_Server")


def _or_skip(make: Callable[[], _Server]) -> _Server:
    """The server; skips the tests that ask for it where it cannot be had, and fails them in CI."""
    try:
        return make()
    except ServerMissing as missing:
        if os.environ.get("HITHER_REQUIRE_SERVERS") == "1":
            pytest.fail(str(missing))
        pytest.skip(str(missing))
