"""The messaging service of one process: its servicer, and the work in the background for the partitions that it owns."""

import asyncio
from functools import partial

import structlog

from discovery.clock import Clock
from discovery.errors import HitherError
from discovery.ids import Snowflakes
from discovery.mesh import Mesh
from hither.directory.v1 import directory_service_pb2
from hither.directory.v1.directory_service_pb2_grpc import DirectoryServiceStub
from services.delivery import Delivery
from services.messaging.acknowledgement import Acknowledgements
from services.messaging.activity import RecentActivity
from services.messaging.admission import Admission
from services.messaging.gathering import Gathering, GatheringStore, GatheringTeller
from services.messaging.history import History
from services.messaging.inbox_log import InboxLog
from services.messaging.marks import Marks
from services.messaging.membership import CHANGES_TOPIC, Members, Memberships
from services.messaging.partition import Partition
from services.messaging.reading import ConversationReads
from services.messaging.recent import RecentRows
from services.messaging.retelling import Retelling
from services.messaging.sending import Sending
from services.messaging.servicer import MessagingServicer
from services.messaging.settings import MessagingSettings
from services.messaging.shared_tails import SharedTails
from services.messaging.signals import Signals
from services.messaging.supervision import Problem
from services.messaging.tails import Tails
from services.messaging.trimming import Trimming
from services.messaging.unread import Unread
from services.messaging.waiting import RecentOutcomes, Waiting
from services.own_task import describe
from services.ports.bus import Bus
from services.ports.cache import Cache
from services.ports.log import Log
from services.ports.message_store import MessageStore

SERVICE = "hither.messaging.v1.MessagingService"
_RESOLVE_TIMEOUT_S = 2.0
_log = structlog.get_logger("hither.messaging")


class Messaging:
    """Messaging in one process. `servicer` serves calls once run() runs the partitions that they need. `shared_cache`: where
    instances share what they have read, if that is another process.
    """

    def __init__(
        self,
        mesh: Mesh,
        log: Log,
        store: MessageStore,
        bus: Bus,
        snowflakes: Snowflakes,
        clock: Clock,
        settings: MessagingSettings = MessagingSettings(),  # noqa: B008 - frozen
        shared_cache: Cache | None = None,
    ) -> None:
        self._mesh = mesh
        self._log = log
        self._bus = bus
        self._clock = clock
        self._settings = settings
        self._directory = mesh.stub(DirectoryServiceStub)
        self._retelling = Retelling(settings)
        self._delivery = Delivery(mesh, self._retelling.offer)
        self._rows = GatheringStore(store)
        self._inbox_appends: Gathering[tuple[int, bytes], None] = Gathering(InboxLog(log).append)
        self._teller = GatheringTeller(self._delivery)
        self._waiting = Waiting(settings.most_waiting_sends)
        self._recent_outcomes = RecentOutcomes(settings.most_recent_outcomes)
        self._recent_rows = RecentRows(settings.most_recent_rows)
        self._signals = Signals(self._delivery, settings.most_signals)
        self._recent_activity = RecentActivity(settings.most_recent_activity)
        self._tails = Tails(settings.most_tails, settings.most_tail_bytes)
        self._shared_tails = SharedTails(shared_cache, clock, settings) if shared_cache else None
        self._memberships = Memberships(self._resolve, clock, settings)
        self._acknowledgements = Acknowledgements(mesh, store, self._recent_rows, self._signals, settings)
        self._trimming = Trimming(log, lambda: frozenset(self._partitions), settings)
        self._partitions: dict[int, Partition] = {}
        self._leaving: dict[int, asyncio.Task[None]] = {}
        self._left = asyncio.Event()
        sending = Sending(
            lambda conversation_id: self._partitions.get(mesh.partition_of(conversation_id)),
            Admission(settings.send_rate_per_s, settings.send_burst, settings.most_senders),
            self._memberships,
            self._recent_outcomes,
            store,
            snowflakes,
            clock,
        )
        reads = ConversationReads(store, self._rows.conversation_heads, self._tails, self._shared_tails)
        self.servicer = MessagingServicer(
            sending,
            History(reads, store, self._memberships, settings),
            Marks(store, self._memberships, self._signals),
            self._acknowledgements,
            Unread(store),
        )

    def health(self) -> list[Problem]:
        """What is wrong now, for each projection of each partition that this process owns; empty if all is well."""
        return [problem for partition in self._partitions.values() for problem in partition.problems()]

    async def run(self) -> None:
        """Runs the background work, and the partitions that this process owns as that changes, until cancelled."""
        subscription = await self._bus.subscribe(CHANGES_TOPIC, self._memberships.changed, self._memberships.missed)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._rows.run())
                group.create_task(self._inbox_appends.run())
                group.create_task(self._teller.run())
                group.create_task(self._retelling.run(self._delivery.to_users))
                group.create_task(self._signals.run())
                group.create_task(self._acknowledgements.run())
                group.create_task(self._trimming.run())
                if self._shared_tails is not None:
                    group.create_task(self._shared_tails.run())
                group.create_task(self._run_partitions(group))
        finally:
            await subscription.close()

    async def handed_over(self) -> None:
        """Returns when this process runs no partition that it does not own: its sends have their outcomes, and what it applied
        is committed.
        """
        while self._leaving or self._partitions.keys() - self._mesh.owned(SERVICE):
            self._left.clear()
            await self._left.wait()

    async def _run_partitions(self, group: asyncio.TaskGroup) -> None:
        tasks: dict[int, asyncio.Task[None]] = {}
        async for owned in self._mesh.watch_owned(SERVICE):
            for number in tasks.keys() - owned:
                leaving = self._leave(self._partitions.pop(number), tasks.pop(number))
                self._leaving[number] = group.create_task(leaving, name=f"partition {number} leaves")
                self._leaving[number].add_done_callback(partial(self._has_left, number))
            for number in owned - tasks.keys():
                if number in self._leaving:  # it comes back before it has left
                    await asyncio.wait([self._leaving[number]])
                self._partitions[number] = partition = self._make_partition(number)
                tasks[number] = group.create_task(partition.run(), name=f"partition {number}")

    async def _leave(self, partition: Partition, running: asyncio.Task[None]) -> None:
        """Ends a partition that is another's now: finishes the sends that it took, and commits what it applied.

        The new owner runs already; until this one has ended, both write the same rows.
        """
        try:
            async with asyncio.timeout(self._settings.leave_timeout_s):
                await partition.finish()
        except TimeoutError:
            pass  # who still waits learns that the outcome is unknown, and finds it at the new owner
        running.cancel()
        await asyncio.wait([running])
        try:
            await partition.commit_last()
        except (HitherError, TimeoutError) as error:
            _log.warning("partition.left uncommitted", error=describe(error))

    def _has_left(self, number: int, _task: asyncio.Task[None]) -> None:
        del self._leaving[number]
        self._left.set()

    def _make_partition(self, number: int) -> Partition:
        return Partition(
            number,
            self._log,
            self._rows,
            self._inbox_appends.ask,
            self._teller,
            self._mesh.partition_of,
            self._waiting,
            self._recent_outcomes,
            self._recent_rows,
            self._recent_activity,
            self._tails,
            self._clock,
            self._settings,
        )

    async def _resolve(self, conversation_id: str, sender_id: str, peer_id: str) -> Members:
        request = directory_service_pb2.ResolveConversationRequest(
            conversation_id=conversation_id, sender_id=sender_id, peer_id=peer_id
        )
        response = await self._directory.ResolveConversation(request, timeout=_RESOLVE_TIMEOUT_S)
        return tuple(response.member_ids)
