"""A real Apache Cassandra: a node, or three, from the jars of Maven Central, whose writes are on disk when they are answered.

The jars are copied once into a cache of the user's, named after what they were resolved from.
"""

import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from string import Template

from cassandra import DriverException
from cassandra.auth import PlainTextAuthProvider
from cassandra.cluster import EXEC_PROFILE_DEFAULT, Cluster, ExecutionProfile, NoHostAvailable, Session
from cassandra.policies import WhiteListRoundRobinPolicy

from services.storage.access import believing
from tests.support.servers.jars import found, resolve_jars
from tests.support.servers.process import ServerFailed, ServerProcess, free_port
from tests.support.servers.secured import STORE_PASSWORD, Secured

_FILES = Path(__file__).parent / "cassandra_files"
_POM = _FILES / "pom.xml"
_READY_S = 120.0
_ANSWER_S = 5.0
_EMPTY_S = 60.0
_NODES = 3
_POLL_S = 0.2
_RING = 2**64
_FIRST_USER = ("cassandra", "cassandra")
_SECURED = """
client_encryption_options:
  enabled: true
  optional: false
  keystore: {keystore}
  keystore_password: {password}
  store_type: PKCS12
"""


@dataclass(frozen=True, slots=True)
class Place:
    """A node's in its cluster: all have the same ports, each has a host of its own, and a share of the ring from `token` on."""

    host: str
    port: int
    storage_port: int
    token: int


class CassandraServer(ServerProcess):
    """A node on 127.0.0.1:`port`, or in its `place`, with its data in `folder`; it keeps its port and its data when it is started
    again. A `secured` one speaks TLS and lets its user in, by its password.

    Raises ServerMissing without Java or Maven, or when the jars cannot be had. Its methods block: a test that has a loop
    calls them in a thread.
    """

    def __init__(self, folder: Path, secured: Secured | None = None, place: Place | None = None) -> None:
        jars = resolve_jars("cassandra", _POM)
        place = place or Place("127.0.0.1", free_port(), free_port(), 0)
        self.port = place.port
        """For clients."""
        self._place = place
        folder.mkdir(parents=True, exist_ok=True)
        settings = Template((_FILES / "cassandra.yaml").read_text())
        authenticator = "PasswordAuthenticator" if secured else "AllowAllAuthenticator"
        own = {"host": place.host, "port": place.port, "storage_port": place.storage_port, "token": place.token}
        text = settings.substitute(**own, folder=folder, authenticator=authenticator)
        if secured:
            secured.write_pkcs12(folder / "server.p12")
            text += _SECURED.format(keystore=folder / "server.p12", password=STORE_PASSWORD)
        (folder / "cassandra.yaml").write_text(text)
        self._secured = secured
        self._user_is_made = secured is None
        command = [
            found("java"),
            f"-javaagent:{next(jars.glob('jamm-*.jar'))}",
            f"@{_FILES / 'jvm.options'}",
            f"-Dcassandra.config={(folder / 'cassandra.yaml').as_uri()}",
            f"-Dcassandra.storagedir={folder}",
            f"-Dlogback.configurationFile={_FILES / 'logback.xml'}",
            f"-Djava.io.tmpdir={folder}",
        ]
        daemon = ["-cp", f"{jars}/*", "org.apache.cassandra.service.CassandraDaemon"]
        super().__init__([*command, *daemon], folder, self._answers, within_s=_READY_S)

    def empty(self, keyspace: str) -> None:
        """Empties the tables of a keyspace, all but "hither_schema": that takes a fraction of making them anew."""
        with self._session() as session:
            tables = session.execute("SELECT table_name FROM system_schema.tables WHERE keyspace_name = %s", [keyspace])
            names = {row.table_name for row in tables} - {"hither_schema"}
            for emptied in [session.execute_async(f"TRUNCATE {keyspace}.{name}", timeout=_EMPTY_S) for name in names]:
                emptied.result()

    def set_password(self, password: str) -> None:
        """From now on, the secured server's user has this one."""
        assert self._secured is not None
        with self._session() as session:
            session.execute(f"ALTER ROLE {self._secured.user} WITH PASSWORD = '{password}'")

    def peers(self) -> int:
        """How many other nodes it knows well enough to send to."""
        with self._session() as session:
            return sum(1 for row in session.execute("SELECT tokens FROM system.peers_v2") if row.tokens)

    def _answers(self) -> bool:
        # The driver is loud and slow about a port that is closed.
        with socket.socket() as probe:
            if probe.connect_ex((self._place.host, self.port)):
                return False
        try:
            with self._session() as session:
                self._make_user(session)
                return bool(session.execute("SELECT key FROM system.local").one())
        except (NoHostAvailable, DriverException, OSError):
            return False

    def _make_user(self, session: Session) -> None:
        if self._secured and not self._user_is_made:
            account = (self._secured.user, self._secured.password)
            session.execute(f"CREATE ROLE IF NOT EXISTS {account[0]} WITH PASSWORD = '{account[1]}' AND LOGIN = true")
            self._user_is_made = True

    @contextmanager
    def _session(self) -> Iterator[Session]:
        cluster = Cluster(
            [self._place.host],
            port=self.port,
            protocol_version=4,
            connect_timeout=_ANSWER_S,
            ssl_context=believing(str(self._secured.ca)) if self._secured else None,
            auth_provider=PlainTextAuthProvider(*_FIRST_USER) if self._secured else None,
            schema_metadata_enabled=False,
            execution_profiles={
                EXEC_PROFILE_DEFAULT: ExecutionProfile(
                    WhiteListRoundRobinPolicy([self._place.host]), request_timeout=_ANSWER_S
                ),
            },
        )
        try:
            yield cluster.connect()
        finally:
            cluster.shutdown()


@contextmanager
def cassandra_cluster(folder: Path) -> Iterator[list[CassandraServer]]:
    """Three nodes on 127.0.0.1, 127.0.0.2 and 127.0.0.3, each of which knows the others. The first is
    their seed: without it no other one can start. Raises as CassandraServer does."""
    port, storage_port = free_port(), free_port()
    places = [
        Place(f"127.0.0.{number + 1}", port, storage_port, number * _RING // _NODES - _RING // 2)
        for number in range(_NODES)
    ]
    nodes = [CassandraServer(folder / place.host, place=place) for place in places]
    with ExitStack() as stack:
        # One after the other: nodes that join at the same moment may each miss what the others are.
        for node in nodes:
            stack.callback(node.kill)
            node.start()
        _await_all(nodes)
        yield nodes


def _await_all(nodes: list[CassandraServer]) -> None:
    end_s = time.monotonic() + _READY_S
    while any(node.peers() != len(nodes) - 1 for node in nodes):
        if time.monotonic() > end_s:
            raise ServerFailed(f"the nodes do not know each other: {[node.peers() for node in nodes]}")
        time.sleep(_POLL_S)
