"""The log on Apache Kafka: a topic for each topic, a partition for each partition, and consumer groups for the commits."""

import asyncio
from collections.abc import Sequence
from typing import Any, Self

from aiokafka.protocol.admin import DeleteRecordsRequest

from discovery.errors import InvalidArgument, Unavailable
from services.ports.log import Committed, Record
from services.storage.access import OPEN, Access
from services.storage.kafka.cluster import Cluster, Refused, Traffic
from services.storage.kafka.committing import Committing
from services.storage.kafka.keeper import Keeper
from services.storage.kafka.producing import Producing
from services.storage.kafka.reading import Reading
from services.storage.kafka.topic_settings import MOST_CALL_BYTES

_MOST_RECORDS = 1_000
_MOST_RECORD_BYTES = 1024 * 1024
_OFFSET_OUT_OF_RANGE = 1


class KafkaLog:
    """See services.ports.log.Log. Partitions are numbered from 0; a number beyond the log's partitions is an InvalidArgument.

    Topics are made when they are first named, with the log's partitions and replicas, and kept without a limit of time or
    size: they shrink by `trim` only. A topic that exists with another number of partitions is refused (InvalidArgument), and so is one
    whose settings let records go that nobody trimmed, before seven days.

    An append is acknowledged by all in-sync replicas, at least one less than there are; with a single replica the
    acknowledged record is in the broker's page cache. A call's records are together at most 32 MiB; more is an
    InvalidArgument. A read returns what one fetch brought: about 1 MiB, or one whole append. A read at the end of a partition
    that somebody waits for is answered from memory: it may miss what another process appended in the last moments (below
    100 ms), and the next `wait` returns at once for it. A commit's state is at most about 3,000 bytes after deflation, by
    the broker's default for offset.metadata.max.bytes.

    Nothing waits for Kafka longer than `deadline_s`: then it raises Unavailable. It comes back by itself when Kafka does.
    """

    def __init__(self, partitions: int, prefix: str, cluster: Cluster) -> None:
        self._partitions = partitions
        self._cluster = cluster
        self._keeper = Keeper(self._died)
        self._producing = Producing(self._cluster, self._keeper.start, self._appended)
        self._reading = Reading(self._cluster, self._keeper.start, self._producing.producer_ids)
        self._committing = Committing(self._cluster, prefix, self._keeper.start)
        self._calls = 0
        self._no_calls = asyncio.Event()
        self._no_calls.set()
        self._closed = False
        self._broken = False

    @classmethod
    async def open(
        cls,
        servers: str,
        partitions: int,
        replication: int = 1,
        *,
        prefix: str = "",
        deadline_s: float = 4.0,
        access: Access = OPEN,
        mechanism: str = "SCRAM-SHA-512",
    ) -> Self:
        """Finds the brokers among `servers` ("host:port,host:port"). Raises Unavailable if none answers, and AccessRefused.

        `prefix` goes before the names of topics and groups: several logs live on one Kafka. `mechanism` is SASL's, for a
        user: SCRAM-SHA-512, SCRAM-SHA-256 or PLAIN.
        """
        log = cls(partitions, prefix, Cluster(servers, prefix, partitions, replication, deadline_s, access, mechanism))
        try:
            await log._cluster.start()
        except BaseException:
            await log.close()
            raise
        return log

    async def append(self, topic: str, partition: int, values: Sequence[bytes]) -> Sequence[int]:
        """See Log."""
        self._check(partition)
        if not values:
            return []
        if len(values) > _MOST_RECORDS:
            raise InvalidArgument(f"{len(values)} records are more than {_MOST_RECORDS}.")
        size = sum(map(len, values))
        if size > _MOST_RECORD_BYTES and max(map(len, values)) > _MOST_RECORD_BYTES:
            raise InvalidArgument(f"A record is larger than {_MOST_RECORD_BYTES} bytes.")
        if size > MOST_CALL_BYTES:
            raise InvalidArgument(f"The records are together larger than {MOST_CALL_BYTES} bytes.")
        # Counted from here on: close lets finish what was begun, the making of the topic included.
        self._calls += 1
        self._no_calls.clear()
        try:
            return await self._producing.append(await self._cluster.topic(topic), partition, values, size)
        finally:
            self._calls -= 1
            if not self._calls:
                self._no_calls.set()

    async def read(self, topic: str, partition: int, offset: int, limit: int) -> Sequence[Record]:
        """See Log."""
        self._check(partition)
        try:
            return await self._reading.read(await self._cluster.topic(topic), partition, offset, limit)
        except Refused as error:
            raise Unavailable(str(error), reason="ENGINE_DOWN") from error

    async def wait(self, topic: str, partition: int, offset: int) -> None:
        """See Log. Raises Unavailable when Kafka has been away for the deadline, or the log is closed."""
        self._check(partition)
        name = await self._cluster.topic(topic)
        self._check(partition)
        await self._reading.wait(name, partition, offset)

    async def commit(self, group: str, topic: str, partition: int, committed: Committed) -> None:
        """See Log. Raises InvalidArgument for a state that is too large."""
        self._check(partition)
        await self._committing.commit(group, await self._cluster.topic(topic), partition, committed)

    async def committed(self, group: str, topic: str, partition: int) -> Committed:
        """See Log."""
        self._check(partition)
        try:
            return await self._committing.committed(group, await self._cluster.topic(topic), partition)
        except Refused as error:
            raise Unavailable(str(error), reason="ENGINE_DOWN") from error

    async def trim(self, topic: str, partition: int, before_offset: int) -> None:
        """See Log. Never goes beyond what is durable now."""
        self._check(partition)
        name = await self._cluster.topic(topic)
        try:
            before_offset = min(before_offset, await self._reading.end(name, partition))
            if before_offset > 0:
                await self._delete(name, partition, before_offset)
        except Refused as error:
            raise Unavailable(str(error), reason="ENGINE_DOWN") from error

    async def close(self) -> None:
        """See Log. Waits for the appends no longer than their deadline. May be called twice."""
        if self._closed:
            return
        self._closed = True
        await self._no_calls.wait()
        self._cluster.give_up()
        self._fail()
        await self._keeper.close()
        await self._cluster.close()

    async def _delete(self, topic: str, partition: int, before_offset: int) -> None:
        def read(response: Any) -> tuple[int, None]:
            ((_, ((_, _, code, *_), *_), *_), *_) = response.topics
            return (0 if code == _OFFSET_OUT_OF_RANGE else code), None

        request = DeleteRecordsRequest([(topic, [(partition, before_offset)])], int(self._cluster.deadline_s * 1000))
        await self._cluster.ask_leader(topic, partition, request, Traffic.ADMIN, read)

    def _check(self, partition: int) -> None:
        if self._closed or self._broken:
            raise Unavailable("The log is closed.", reason="ENGINE_DOWN")
        if not 0 <= partition < self._partitions:
            raise InvalidArgument(f"There is no partition {partition} among {self._partitions}.")

    def _appended(self, topic: str, partition: int, base_offset: int, values: Sequence[bytes]) -> None:
        self._reading.appended(topic, partition, base_offset, values)

    def _died(self, error: BaseException) -> None:
        """One of the tasks has met a bug: better no log than one that hangs."""
        self._broken = True
        self._keeper.stop()
        self._fail()

    def _fail(self) -> None:
        self._producing.fail()
        self._committing.fail()
        self._reading.fail(lambda: Unavailable("The log is closed.", reason="ENGINE_DOWN"))
