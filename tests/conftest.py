"""What every test may ask for: real servers, one of each for the whole run, and a way to do without on a laptop."""

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import TypeVar

import pytest

from tests.support.apart import Servers
from tests.support.servers.cassandra import CassandraServer
from tests.support.servers.etcd import EtcdCluster, etcd_server
from tests.support.servers.kafka import KafkaServer
from tests.support.servers.postgresql import PostgresqlReplica, PostgresqlServer
from tests.support.servers.process import ServerMissing
from tests.support.servers.redis import BusServers, RedisCluster, RedisServer, SentinelSet

Require = Callable[[bool, str], None]
Server = TypeVar("Server")


@pytest.fixture(scope="session")
def require() -> Require:
    """Skips the test where something outside Python cannot be had; in CI (HITHER_REQUIRE_SERVERS=1) fails it instead."""
    return _require


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """One Redis for the run. Whoever asks for it empties it first, and leaves it running."""
    yield from _running(lambda: RedisServer(tmp_path_factory.mktemp("redis")))


@pytest.fixture(scope="session")
def sentinel_set(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SentinelSet]:
    """A primary, a replica and their Sentinels for the run. Whoever kills one has the set recover."""
    yield from _running(lambda: SentinelSet(tmp_path_factory.mktemp("sentinel")))


@pytest.fixture(scope="session")
def redis_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisCluster]:
    """A Redis Cluster for the run. Whoever kills a server has the Cluster recover."""
    yield from _running(lambda: RedisCluster(tmp_path_factory.mktemp("cluster")))


@pytest.fixture(scope="session")
def bus_servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BusServers]:
    """Three Redis that share the topics of a bus, for the run. Whoever kills one starts it again."""
    yield from _running(lambda: BusServers(tmp_path_factory.mktemp("bus")))


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[PostgresqlServer]:
    """One PostgreSQL for the run. Whoever asks for it makes a database, and leaves it running."""
    yield from _running(PostgresqlServer)


@pytest.fixture(scope="session")
def postgresql_replica(postgresql_server: PostgresqlServer) -> Iterator[PostgresqlReplica]:
    """A replica of the run's PostgreSQL. Whoever takes it away gives it back."""
    yield from _running(postgresql_server.replica)


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaServer]:
    """One Kafka for the run. Whoever asks for it names topics of its own, and leaves it running."""
    yield from _running(lambda: KafkaServer(tmp_path_factory.mktemp("kafka")))


@pytest.fixture(scope="session")
def cassandra_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CassandraServer]:
    """One Cassandra for the run. Whoever asks for it makes a keyspace, and leaves it running."""
    for server in _running(lambda: CassandraServer(tmp_path_factory.mktemp("cassandra"))):
        yield server
        server.kill()  # nobody needs its data any more


@pytest.fixture(scope="session")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdCluster]:
    """One member of etcd with leases as short as 1 s, for who leaves it as it was and takes a cluster of a name of its own."""
    yield from _running(lambda: etcd_server(tmp_path_factory.mktemp("etcd")))


@pytest.fixture(scope="session")
def etcd_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdCluster]:
    """Three members of etcd for the run. Whoever kills one starts it again."""
    yield from _running(lambda: EtcdCluster(tmp_path_factory.mktemp("etcd")))


@pytest.fixture(scope="session")
def servers(
    etcd_cluster: EtcdCluster,
    kafka: KafkaServer,
    cassandra_server: CassandraServer,
    postgresql_server: PostgresqlServer,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Servers]:
    """Everything that a Hither needs that runs apart. It has a Redis of its own, for others empty theirs."""
    for redis in _running(lambda: RedisServer(tmp_path_factory.mktemp("redis"))):
        yield Servers(etcd_cluster, kafka, cassandra_server, postgresql_server, redis)


def _running(make: Callable[[], AbstractContextManager[Server]]) -> Iterator[Server]:
    try:
        server = make()
    except ServerMissing as missing:
        _require(False, str(missing))
        raise
    with server as running:
        yield running


def _require(present: bool, otherwise: str) -> None:
    if present:
        return
    if os.environ.get("HITHER_REQUIRE_SERVERS") == "1":
        pytest.fail(otherwise)
    pytest.skip(otherwise)
