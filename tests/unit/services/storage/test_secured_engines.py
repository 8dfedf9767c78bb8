"""Kafka and Cassandra over TLS and with a password, as the configuration names them; and who is refused, and how soon."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from discovery.clock import SystemClock
from discovery.errors import Unavailable
from discovery.registry.embedded import EmbeddedRegistry
from services.config import Config, ConfigError, EnginesSettings
from services.data_directory import DataDirectory
from services.engine_health import EngineHealth
from services.engines import Engines, open_engines
from services.ports.log import Record
from services.ports.message_store import Head, MessageRow, MessageStore
from tests.conftest import Require
from tests.support.servers.cassandra import CassandraServer
from tests.support.servers.kafka import KafkaServer
from tests.support.servers.process import ServerMissing
from tests.support.servers.secured import Secured, secured

REFUSED_S = 15.0
LARGE = b"x" * 300_000
"""More than a record of TLS, and than a socket takes at once."""


@pytest.fixture(scope="module")
def access(tmp_path_factory: pytest.TempPathFactory) -> Secured:
    return secured(tmp_path_factory.mktemp("pki"))


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Secured:
    """Somebody with another authority and another password."""
    return secured(tmp_path_factory.mktemp("other-pki"))


@pytest.fixture(scope="module")
def kafka_address(tmp_path_factory: pytest.TempPathFactory, access: Secured, require: Require) -> Iterator[str]:
    """Of a Kafka that lets in who has access."""
    try:
        server = KafkaServer(tmp_path_factory.mktemp("kafka"), access)
    except ServerMissing as missing:
        require(False, str(missing))
        raise
    with server:
        yield server.address


@pytest.fixture(scope="module")
def secured_cassandra(
    tmp_path_factory: pytest.TempPathFactory, access: Secured, require: Require
) -> Iterator[CassandraServer]:
    try:
        server = CassandraServer(tmp_path_factory.mktemp("cassandra"), access)
    except ServerMissing as missing:
        require(False, str(missing))
        raise
    with server:
        yield server


@asynccontextmanager
async def engines(folder: Path, **urls: str) -> AsyncIterator[Engines]:
    clock = SystemClock()
    config = Config(engines=EnginesSettings(**urls))
    async with open_engines(config, DataDirectory(folder), 4, EmbeddedRegistry(clock), EngineHealth(clock)) as opened:
        yield opened


def cassandra_url(server: CassandraServer, account: str, ca: Path) -> str:
    return f"cassandra://{account}127.0.0.1:{server.port}/hither?ca={ca}"


@pytest.mark.parametrize("mechanism", ["", "&sasl=PLAIN"])
async def test_records_go_to_kafka_over_tls_with_a_password(
    kafka_address: str, access: Secured, tmp_path: Path, mechanism: str
) -> None:
    prefix = mechanism.rpartition("=")[2]
    url = f"kafka://{access.account}{kafka_address}?ca={access.ca}&prefix=t{prefix}.{mechanism}"

    async with engines(tmp_path, log=url) as opened:
        log = await opened.log()
        await log.append("t", 0, [LARGE, b"b"])
        records = [*await log.read("t", 0, 0, 9)]

    assert records == [Record(0, LARGE), Record(1, b"b")]


@pytest.mark.parametrize(
    ("account", "option", "says"),
    [
        ("hither:wrong@", "", "refuses the user, the password"),
        ("nobody:wrong@", "", "refuses the user, the password"),
        ("hither:wrong@", "&sasl=PLAIN", "refuses the user, the password"),
        ("hither:wrong@", "&sasl=SCRAM-SHA-256", "or the mechanism"),
    ],
)
async def test_kafka_lets_nobody_else_in_and_says_so(
    kafka_address: str, access: Secured, tmp_path: Path, account: str, option: str, says: str
) -> None:
    async with (
        asyncio.timeout(REFUSED_S),
        engines(tmp_path, log=f"kafka://{account}{kafka_address}?ca={access.ca}{option}") as opened,
    ):
        with pytest.raises(ConfigError, match=f"engines: log: Kafka .*{says}") as caught:
            await opened.log()

    assert "wrong" not in str(caught.value)


async def test_a_kafka_of_another_authority_is_not_believed(
    kafka_address: str, access: Secured, stranger: Secured, tmp_path: Path
) -> None:
    url = f"kafka://{access.account}{kafka_address}?ca={stranger.ca}"

    async with asyncio.timeout(REFUSED_S), engines(tmp_path, log=url) as opened:
        with pytest.raises(ConfigError, match="engines: log: Kafka's certificate is not believed"):
            await opened.log()


async def test_a_kafka_that_speaks_tls_is_away_for_who_does_not(kafka_address: str, tmp_path: Path) -> None:
    async with asyncio.timeout(REFUSED_S), engines(tmp_path, log=f"kafka://{kafka_address}") as opened:
        with pytest.raises(Unavailable):
            await opened.log()


async def test_rows_go_to_cassandra_over_tls_with_a_password_and_do_so_again_after_a_restart(
    secured_cassandra: CassandraServer, access: Secured, tmp_path: Path
) -> None:
    rows = [MessageRow("c", seq, "ann", f"id-{seq}", seq, LARGE) for seq in range(1, 9)]

    async with engines(tmp_path, messages=cassandra_url(secured_cassandra, access.account, access.ca)) as opened:
        store = await opened.messages()
        await asyncio.gather(*(store.put_messages([row]) for row in rows))
        assert await store.read_messages("c", 0, 99, 99, newest=False) == rows

        await asyncio.to_thread(secured_cassandra.kill)
        with pytest.raises(Unavailable):
            await store.conversation_heads(["c"])
        await asyncio.to_thread(secured_cassandra.start)

        assert await newest(store) == Head(8, 8)


async def test_a_cassandra_that_refuses_the_password_for_a_while_is_asked_again(
    secured_cassandra: CassandraServer, access: Secured, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with engines(tmp_path, messages=cassandra_url(secured_cassandra, access.account, access.ca)) as opened:
        store = await opened.messages()
        await asyncio.to_thread(secured_cassandra.set_password, "another")
        await asyncio.to_thread(secured_cassandra.kill)
        await asyncio.to_thread(secured_cassandra.start)
        async with asyncio.timeout(30):
            while "Failed to authenticate" not in caplog.text:  # noqa: ASYNC110 - the driver says it in its log only
                await asyncio.sleep(0.05)

        await asyncio.to_thread(secured_cassandra.set_password, access.password)

        await newest(store)


async def newest(store: MessageStore) -> Head:
    """Of "c", as soon as the store has connected again."""
    async with asyncio.timeout(30):
        while True:
            try:
                return (await store.conversation_heads(["c"]))["c"]
            except Unavailable:
                await asyncio.sleep(0.05)


@pytest.mark.parametrize("account", ["hither:wrong@", "nobody:wrong@", ""])
async def test_cassandra_lets_nobody_else_in_and_says_so(
    secured_cassandra: CassandraServer, access: Secured, tmp_path: Path, account: str
) -> None:
    url = cassandra_url(secured_cassandra, account, access.ca)

    async with asyncio.timeout(REFUSED_S), engines(tmp_path, history=url) as opened:
        with pytest.raises(ConfigError, match="engines: history: Cassandra refuses the user or the password") as caught:
            await opened.history()

    assert "wrong" not in str(caught.value)


async def test_a_cassandra_of_another_authority_is_not_believed(
    secured_cassandra: CassandraServer, access: Secured, stranger: Secured, tmp_path: Path
) -> None:
    url = cassandra_url(secured_cassandra, access.account, stranger.ca)

    async with asyncio.timeout(REFUSED_S), engines(tmp_path, messages=url) as opened:
        with pytest.raises(ConfigError, match="engines: messages: Cassandra's certificate is not believed"):
            await opened.messages()


async def test_a_cassandra_that_speaks_tls_is_away_for_who_does_not(
    secured_cassandra: CassandraServer, tmp_path: Path
) -> None:
    url = f"cassandra://127.0.0.1:{secured_cassandra.port}/hither"

    async with asyncio.timeout(2 * REFUSED_S), engines(tmp_path, messages=url) as opened:
        with pytest.raises(Unavailable):
            await opened.messages()


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("kafka://hither:secret@127.0.0.1:1", "over TLS only"),
        ("kafka://hither:secret@127.0.0.1:1?ca=", "ca names no file"),
        ("kafka://hither:secret@127.0.0.1:1?ca=/nowhere.pem", "/nowhere.pem cannot be read"),
        ("kafka://127.0.0.1:1?tls=/ca.pem", "no option tls; there are replication, prefix, ca, sasl"),
        ("kafka://127.0.0.1:1?sasl=secret", "sasl is one of SCRAM-SHA-512, SCRAM-SHA-256, PLAIN"),
        ("kafka://127.0.0.1:1?replication=0", "replication is a number from 1 on"),
        ("hither:secret@127.0.0.1:1", "log is 'embedded' or kafka"),
    ],
)
async def test_what_is_wrong_in_a_url_is_said_before_anybody_is_called(tmp_path: Path, url: str, says: str) -> None:
    async with engines(tmp_path, log=url) as opened:
        with pytest.raises(ConfigError, match=says) as caught:
            await opened.log()

    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("hosts", ["127.0.0.1", "127.0.0.1:1,127.0.0.2:2", "127.0.0.1:secret"])
async def test_hosts_of_cassandra_have_one_port(tmp_path: Path, hosts: str) -> None:
    async with engines(tmp_path, messages=f"cassandra://{hosts}/hither") as opened:
        with pytest.raises(ConfigError, match="hosts are HOST:PORT, all with one port"):
            await opened.messages()
