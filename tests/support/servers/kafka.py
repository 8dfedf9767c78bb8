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

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from tests.support.servers.jars import found, resolve_jars
from tests.support.servers.process import ServerFailed, ServerProcess, free_port

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
listener.security.protocol.map=CLIENT:PLAINTEXT,CONTROLLER:PLAINTEXT
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


class KafkaServer(ServerProcess):
    """A broker on 127.0.0.1 with its data in `folder`; it keeps its port and its data when it is started again.

    Raises ServerMissing without Java or Maven, or when the jars cannot be had. Its methods block: a test that has a loop
    calls them in a thread.
    """

    def __init__(self, folder: Path) -> None:
        jars = resolve_jars("kafka", _POM)
        port, controller_port = free_port(), free_port()
        self.address = f"127.0.0.1:{port}"
        """For clients: host and port."""
        folder.mkdir(parents=True, exist_ok=True)
        settings = folder / "server.properties"
        settings.write_text(_SETTINGS.format(port=port, controller_port=controller_port, data=folder / "data"))
        _format_storage(jars, settings)
        command = [found("java"), "-Xms512m", "-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", *_QUIET]
        super().__init__([*command, "-cp", f"{jars}/*", "kafka.Kafka", str(settings)], folder, self._answers)

    def _answers(self) -> bool:
        # A thread of its own, since who starts a server may be in a loop.
        with ThreadPoolExecutor(max_workers=1) as thread:
            return thread.submit(lambda: asyncio.run(_describe_cluster(self.address))).result()


async def _describe_cluster(address: str) -> bool:
    """Whether the broker names itself among its cluster's brokers: it has registered, and serves."""
    client = AIOKafkaAdminClient(bootstrap_servers=address, request_timeout_ms=_READY_MS)
    try:
        await client.start()
        return bool((await client.describe_cluster())["brokers"])
    except (KafkaError, OSError, TimeoutError):
        return False
    finally:
        await client.close()


def _format_storage(jars: Path, settings: Path) -> None:
    cluster_id = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
    java = [found("java"), "-Xmx128m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", *_QUIET, "-cp", f"{jars}/*"]
    tool = ["kafka.tools.StorageTool", "format", "--ignore-formatted", f"--cluster-id={cluster_id}", "--config"]
    done = subprocess.run([*java, *tool, str(settings)], capture_output=True, text=True, timeout=_FORMAT_S, check=False)
    if done.returncode != 0:
        raise ServerFailed(f"Kafka's storage could not be formatted: {done.stdout[-2000:]}{done.stderr[-2000:]}")
