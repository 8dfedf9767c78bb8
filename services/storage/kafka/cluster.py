"""The brokers: one connection to each for every kind of traffic, who leads which partition, and topics that exist.

Requests are aiokafka's own; what its producer and consumer would decide about them is decided here and beside, because they
retry without an end, cannot be abandoned, and follow hundreds of partitions at the price of a full request for every poll.
"""

import asyncio
import logging
import re
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from enum import Enum
from typing import Any, TypeVar

import structlog
from aiokafka.client import AIOKafkaClient
from aiokafka.conn import create_conn
from aiokafka.errors import (
    AuthenticationFailedError,
    KafkaError,
    NodeNotReadyError,
    SaslAuthenticationFailed,
    UnsupportedSaslMechanismError,
    for_code,
)
from aiokafka.protocol.admin import CreateTopicsRequest, DescribeConfigsRequest
from aiokafka.protocol.offset import OffsetRequest
from aiokafka.structs import TopicPartition

from discovery.errors import InvalidArgument, Unavailable
from services.storage.access import Access, AccessRefused
from services.storage.kafka.topic_settings import CHECKED, complaint, settings

_log = structlog.get_logger("hither.storage.kafka")
# It reports every attempt at a broker that is away, many a second; that it is away is said here, once.
logging.getLogger("aiokafka").setLevel(logging.CRITICAL)

FAILURES = (KafkaError, OSError, TimeoutError, KeyError)
"""What a request ends with when its broker is away. KeyError: aiokafka looks a connection up that was closed meanwhile."""
_NOT_BELIEVED = (AuthenticationFailedError, SaslAuthenticationFailed, UnsupportedSaslMechanismError)
BACKOFF_S = 0.1
_MAKE_TOPIC_S = 30.0
"""A small broker needs seconds to make the files of hundreds of partitions."""
_FIRST_LOOK_S, _LAST_LOOK_S = 0.01, 0.2

_TOPIC_NAME = re.compile(r"[a-zA-Z0-9._-]{1,200}")
_LATEST = -1
_NO_ERROR = 0
_TOPIC_ALREADY_EXISTS = 36
_TOPIC = 2
_DENIED = frozenset({29, 31})
# Unknown topic, leader not available, not leader, timed out, replica not available, network, coordinator loading,
# coordinator not available, not coordinator, storage, fenced epoch, unknown epoch, offset not available, not controller.
_PASSING = frozenset({3, 5, 6, 7, 9, 13, 14, 15, 16, 41, 56, 74, 75, 76, 78})

_Answer = TypeVar("_Answer")


class Traffic(Enum):
    """What must not wait for one another has connections of its own: a broker answers those of a connection in order."""

    PRODUCE = "produce"
    READ = "read"
    COMMIT = "commit"
    ADMIN = "admin"


class Refused(Exception):
    """The broker answered, and said no: nothing was done."""

    def __init__(self, code: int) -> None:
        super().__init__(f"Kafka refused it: {name_of(code)}.")
        self.code = code


def name_of(code: int) -> str:
    """Kafka's name for an error code."""
    return str(for_code(code).__name__)


class Cluster:
    """Every method that asks a broker gives up after `deadline_s` with Unavailable (ENGINE_DOWN)."""

    def __init__(
        self,
        servers: str,
        prefix: str,
        partitions: int,
        replication: int,
        deadline_s: float,
        access: Access,
        mechanism: str,
    ) -> None:
        self.deadline_s = deadline_s
        self.partitions = partitions
        self._prefix = prefix
        self._replication = replication
        self._topics: dict[str, str] = {}
        self._locks: dict[str, asyncio.Lock] = {}
        self._away: set[int] = set()
        self._deadlines: set[asyncio.Timeout] = set()
        self._connecting: dict[str, Any] = {
            "client_id": "hither",
            "request_timeout_ms": int(deadline_s * 750),
            **_security(access, mechanism),
        }
        self._client = AIOKafkaClient(
            bootstrap_servers=servers,
            **self._connecting,
            retry_backoff_ms=int(BACKOFF_S * 1000),
            metadata_max_age_ms=60_000,
        )

    async def start(self) -> None:
        """Finds the brokers. Raises AccessRefused too."""
        try:
            async with self.deadline():
                await self._client.bootstrap()
        except FAILURES as error:
            await self._tell_a_refusal()
            raise Unavailable("Kafka cannot be reached.", reason="ENGINE_DOWN") from error

    async def _tell_a_refusal(self) -> None:
        """The client says of a broker that refuses it what it says of one that is away. Raises AccessRefused if one does."""
        for host, port, _ in self._client.hosts:
            try:
                async with self.deadline():
                    connection = await create_conn(host, port, **self._connecting)
            except ssl.SSLCertVerificationError as error:
                raise AccessRefused(f"Kafka's certificate is not believed: {error.verify_message}.") from error
            except _NOT_BELIEVED as error:
                raise AccessRefused("Kafka refuses the user, the password or the mechanism.") from error
            except FAILURES:
                continue
            connection.close()

    async def close(self) -> None:
        """Closes all connections."""
        await self._client.close()

    def give_up(self) -> None:
        """Has whatever waits for a broker raise TimeoutError now."""
        for deadline in self._deadlines:
            if not deadline.expired():
                deadline.reschedule(0)

    @asynccontextmanager
    async def deadline(self, deadline_s: float | None = None) -> AsyncIterator[None]:
        """Raises TimeoutError when the block takes longer than this, or than the cluster's deadline."""
        async with asyncio.timeout(self.deadline_s if deadline_s is None else deadline_s) as deadline:
            self._deadlines.add(deadline)
            try:
                yield
            finally:
                self._deadlines.discard(deadline)

    def leader(self, topic: str, partition: int) -> int | None:
        """The broker that leads it, as far as is known. `topic` is Kafka's name of it."""
        leader: int | None = self._client.cluster.leader_for_partition(TopicPartition(topic, partition))
        return None if leader == -1 else leader

    def any_broker(self) -> int | None:
        """One of the brokers."""
        node: int | None = self._client.get_random_node()
        return node

    async def refresh(self) -> None:
        """Asks anew who leads what; gives up quietly, for it is asked again."""
        try:
            async with self.deadline():
                await self._client.force_metadata_update()
        except TimeoutError:
            return

    async def send(self, node: int, request: Any, traffic: Traffic | str) -> Any:
        """One request to one broker. Raises one of FAILURES."""
        try:
            response = await self._client.send(node, request, group=traffic)
        except FAILURES as error:
            self._tell(node, away=type(error).__name__)
            raise
        if self._away:
            self._tell(node, away=None)
        return response

    def _tell(self, node: int, away: str | None) -> None:
        """Logs that a broker went away or came back, once."""
        if away is not None and node not in self._away:
            self._away.add(node)
            _log.warning("kafka.broker_away", broker=node, error=away)
        elif away is None and node in self._away:
            self._away.discard(node)
            _log.info("kafka.broker_back", broker=node)

    async def ask_leader(
        self,
        topic: str,
        partition: int,
        request: Any,
        traffic: Traffic,
        read: Callable[[Any], tuple[int, _Answer]],
    ) -> _Answer:
        """Asks who leads the partition, again and again until it answers. `read` takes the error code and the answer out.

        Raises Refused for an error that does not pass.
        """
        return await self.ask(lambda: self.leader(topic, partition), request, traffic, read)

    async def ask(
        self,
        find_node: Callable[[], int | None],
        request: Any,
        traffic: Traffic,
        read: Callable[[Any], tuple[int, _Answer]],
    ) -> _Answer:
        """Asks the broker that `find_node` names; see ask_leader."""
        try:
            async with self.deadline():
                while True:
                    response = await self._try(find_node(), request, traffic)
                    if response is not None:
                        code, answer = read(response)
                        if code == _NO_ERROR:
                            return answer
                        if code not in _PASSING:
                            raise Refused(code)
                    await self.refresh()
                    await asyncio.sleep(BACKOFF_S)
        except TimeoutError as error:
            raise Unavailable("Kafka does not answer.", reason="ENGINE_DOWN") from error

    async def _try(self, node: int | None, request: Any, traffic: Traffic) -> Any:
        if node is None:
            return None
        try:
            return await self.send(node, request, traffic)
        except FAILURES:
            return None

    async def find_coordinator(self, group: str) -> int:
        """The broker that keeps the group's offsets. Raises one of FAILURES."""
        node: int = await self._client.coordinator_lookup(0, group)
        return node

    async def topic(self, name: str) -> str:
        """Kafka's name of the topic, which exists when this returns.

        Raises InvalidArgument for a name that Kafka would not take, and for a topic that somebody made with another number
        of partitions, or with settings under which it would lose records.
        """
        known = self._topics.get(name)
        if known is not None:
            return known
        kafka_name = self._prefix + name
        if not _TOPIC_NAME.fullmatch(kafka_name):
            raise InvalidArgument(
                "A topic's name is made of at most 200 letters, digits, dots, underscores and hyphens."
            )
        async with self._locks.setdefault(name, asyncio.Lock()):
            if name not in self._topics:
                await self._make(kafka_name)
                self._topics[name] = kafka_name
        return kafka_name

    async def _make(self, topic: str) -> None:
        # Made before it is asked for: asking for a topic may make it, with a number of partitions that nobody chose.
        request = CreateTopicsRequest(
            [(topic, self.partitions, self._replication, [], list(settings(self._replication).items()))],
            int(self.deadline_s * 1000),
            validate_only=False,
        )
        try:
            await self.ask(self.any_broker, request, Traffic.ADMIN, _read_created)
        except Refused as error:
            raise Unavailable(f"Topic {topic} cannot be made: {name_of(error.code)}.", reason="ENGINE_DOWN") from error
        try:
            async with self.deadline(_MAKE_TOPIC_S):
                await self._await_service(topic)
        except TimeoutError as error:
            raise Unavailable(f"Topic {topic} has no leaders.", reason="ENGINE_DOWN") from error
        await self._check(topic)

    async def _check(self, topic: str) -> None:
        request = DescribeConfigsRequest([(_TOPIC, topic, list(CHECKED))])
        try:
            found = await self.ask(self.any_broker, request, Traffic.ADMIN, _read_settings)
        except Refused as error:
            if error.code not in _DENIED:
                raise Unavailable(f"Topic {topic} is not described: {name_of(error.code)}.") from error
            _log.warning("kafka.topic_unchecked", topic=topic, error=name_of(error.code))
            return
        wrong = complaint(found, self._replication)
        if wrong is not None:
            raise InvalidArgument(f"Topic {topic} would lose records: {wrong}.")

    async def _await_service(self, topic: str) -> None:
        self._client.add_topic(topic)
        pause_s = _FIRST_LOOK_S
        while True:
            found = self._client.cluster.partitions_for_topic(topic)
            if found and len(found) != self.partitions:
                raise InvalidArgument(f"Topic {topic} has {len(found)} partitions, not {self.partitions}.")
            if found and await self._serves(topic):
                return
            await self.refresh()
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, _LAST_LOOK_S)

    async def _serves(self, topic: str) -> bool:
        """Whether every partition's leader answers for it: a new one is known before its files are made."""
        by_leader: dict[int | None, list[tuple[int, int]]] = {}
        for partition in range(self.partitions):
            by_leader.setdefault(self.leader(topic, partition), []).append((partition, _LATEST))
        for leader, places in by_leader.items():
            response = await self._try(leader, OffsetRequest(-1, 0, [(topic, places)]), Traffic.ADMIN)
            if response is None or any(code for _, partitions in response.topics for _, code, *_ in partitions):
                return False
        return True


def _security(access: Access, mechanism: str) -> dict[str, Any]:
    """The driver's options."""
    options: dict[str, Any] = {
        "security_protocol": f"{'SASL_' if access.user else ''}{'SSL' if access.tls else 'PLAINTEXT'}",
        "ssl_context": access.tls,
    }
    if access.user:
        account = {"sasl_plain_username": access.user, "sasl_plain_password": access.password}
        options |= {"sasl_mechanism": mechanism, **account}
    return options


def _read_created(response: Any) -> tuple[int, None]:
    ((_, code, *_),) = response.topic_errors
    return (_NO_ERROR if code == _TOPIC_ALREADY_EXISTS else code), None


def _read_settings(response: Any) -> tuple[int, dict[str, str]]:
    ((code, _, _, _, entries),) = response.resources
    return code, {name: value for name, value, *_ in entries if value is not None}


NOT_SENT = (NodeNotReadyError,)
"""Those of FAILURES after which the request certainly never left."""
