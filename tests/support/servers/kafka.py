"""A real Apache Kafka: one broker that is its own controller (KRaft), from the jars of Maven Central.

The jars are copied once into a cache of the user's, named after what they were resolved from. Durability is Kafka's own
default: an acknowledged record is in the page cache of every in-sync replica. That survives a kill -9 of the broker,
which is what tests do to it, but not a power cut of a single node: there, replicas on other machines are what an
acknowledgement counts on.
"""

import asyncio
import base64
import subprocess
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from services.storage.access import believing
from tests.support.servers.jars import found, resolve_jars
from tests.support.servers.process import ServerFailed, ServerProcess, free_port
from tests.support.servers.secured import Secured

_POM = Path(__file__).parent / "kafka_jars" / "pom.xml"
_FORMAT_S = 60.0
_READY_MS = 2_000
_QUIET = ["-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-Dorg.slf4j.simpleLogger.showDateTime=true"]

_SETTINGS = """
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller_port}
listeners=CLIENT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller_port}
advertised.listeners=CLIENT://127.0.0.1:{port}
listener.security.protocol.map=CLIENT:{protocol},CONTROLLER:PLAINTEXT
inter.broker.listener.name=CLIENT
controller.listener.names=CONTROLLER
log.dirs={data}
auto.create.topics.enable=false
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
# A broker that was killed may come back at once: its old registration lives no longer than this.
broker.session.timeout.ms=2000
broker.heartbeat.interval.ms=500
# Hundreds of small topics in a small process.
log.index.size.max.bytes=65536
log.cleaner.dedupe.buffer.size=4194304
log.segment.delete.delay.ms=1000
num.io.threads=4
num.network.threads=2
"""
_LOGIN = "org.apache.kafka.common.security.{module} required"
_SECURED = """
ssl.keystore.type=PEM
ssl.keystore.location={pem}
sasl.enabled.mechanisms=SCRAM-SHA-512,PLAIN
sasl.mechanism.inter.broker.protocol=PLAIN
ssl.truststore.type=PEM
ssl.truststore.location={ca}
listener.name.client.plain.sasl.jaas.config={plain} username="{user}" password="{password}" user_{user}="{password}";
listener.name.client.scram-sha-512.sasl.jaas.config={scram};
"""


class KafkaServer(ServerProcess):
    """A broker on 127.0.0.1 with its data in `folder`; it keeps its port and its data when it is started again. A `secured` one
    speaks TLS and lets its user in by SCRAM-SHA-512 and PLAIN.

    Raises ServerMissing without Java or Maven, or when the jars cannot be had. Its methods block: a test that has a loop
    calls them in a thread.
    """

    def __init__(self, folder: Path, secured: Secured | None = None) -> None:
        jars = resolve_jars("kafka", _POM)
        port, controller_port = free_port(), free_port()
        self.address = f"127.0.0.1:{port}"
        """For clients: host and port."""
        folder.mkdir(parents=True, exist_ok=True)
        settings = folder / "server.properties"
        protocol = "SASL_SSL" if secured else "PLAINTEXT"
        text = _SETTINGS.format(port=port, controller_port=controller_port, data=folder / "data", protocol=protocol)
        settings.write_text(text + (_secured_settings(folder, secured) if secured else ""))
        _format_storage(jars, settings, secured)
        self._secured = secured
        command = [found("java"), "-Xms512m", "-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", *_QUIET]
        super().__init__([*command, "-cp", f"{jars}/*", "kafka.Kafka", str(settings)], folder, self._answers)

    def _answers(self) -> bool:
        # A thread of its own, since who starts a server may be in a loop.
        with ThreadPoolExecutor(max_workers=1) as thread:
            return thread.submit(lambda: asyncio.run(_describe_cluster(self.address, self._secured))).result()


async def _describe_cluster(address: str, secured: Secured | None) -> bool:
    """Whether the broker names itself among its cluster's brokers: it has registered, and serves."""
    security: dict[str, Any] = {}
    if secured:
        account = {"sasl_plain_username": secured.user, "sasl_plain_password": secured.password}
        tls = {"security_protocol": "SASL_SSL", "ssl_context": believing(str(secured.ca))}
        security = {**tls, "sasl_mechanism": "PLAIN", **account}
    client = AIOKafkaAdminClient(bootstrap_servers=address, request_timeout_ms=_READY_MS, **security)
    try:
        await client.start()
        return bool((await client.describe_cluster())["brokers"])
    except (KafkaError, OSError, TimeoutError):
        return False
    finally:
        await client.close()


def _secured_settings(folder: Path, secured: Secured) -> str:
    secured.write_pem(folder / "server.pem")
    return _SECURED.format(
        pem=folder / "server.pem",
        ca=secured.ca,
        user=secured.user,
        password=secured.password,
        plain=_LOGIN.format(module="plain.PlainLoginModule"),
        scram=_LOGIN.format(module="scram.ScramLoginModule"),
    )


def _format_storage(jars: Path, settings: Path, secured: Secured | None) -> None:
    cluster_id = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
    java = [found("java"), "-Xmx128m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", *_QUIET, "-cp", f"{jars}/*"]
    tool = ["kafka.tools.StorageTool", "format", "--ignore-formatted", f"--cluster-id={cluster_id}", "--config"]
    users = [f"--add-scram=SCRAM-SHA-512=[name={secured.user},password={secured.password}]"] if secured else []
    done = subprocess.run(
        [*java, *tool, str(settings), *users], capture_output=True, text=True, timeout=_FORMAT_S, check=False
    )
    if done.returncode != 0:
        raise ServerFailed(f"Kafka's storage could not be formatted: {done.stdout[-2000:]}{done.stderr[-2000:]}")
