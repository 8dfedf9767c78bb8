"""Acknowledgements: a device has the inbox up to a place.

They gather, the newest for each device, and are worked off in batches: delivered marks first, cursors last, so that
after a crash the device is told again what it acknowledged, does so again, and no mark is missing.
"""

import asyncio
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NoReturn

import structlog

from discovery.errors import ResourceExhausted
from discovery.mesh import Mesh
from hither.messaging.v1 import messaging_pb2
from hither.sessions.v1 import sessions_service_pb2
from hither.sessions.v1.sessions_service_pb2_grpc import SessionsServiceStub
from services.messaging import metrics
from services.messaging.marks import mark_events
from services.messaging.recent import Brief, RecentRows, brief
from services.messaging.settings import MessagingSettings
from services.messaging.signals import Signals
from services.messaging.supervision import pause_s
from services.own_task import describe, in_its_own_task
from services.ports.message_store import InboxStore, MarkRow

Device = tuple[str, str]
"""(user_id, device_id)."""

_MOST_DEVICES_A_BATCH = 500
_ADVANCE_TIMEOUT_S = 5.0
_log = structlog.get_logger("hither.messaging")


@dataclass(frozen=True, slots=True)
class _Delivered:
    """What a user's rows say of one conversation: up to where it was delivered, and whose messages are among them."""

    seq: int
    sender_ids: frozenset[str]


class Acknowledgements:
    """The acknowledgements that wait, at most one for each device, and the worker that works them off."""

    def __init__(
        self, mesh: Mesh, store: InboxStore, recent: RecentRows, signals: Signals, settings: MessagingSettings
    ) -> None:
        self._mesh = mesh
        self._sessions = mesh.stub(SessionsServiceStub)
        self._store = store
        self._recent = recent
        self._signals = signals
        self._settings = settings
        self._pending: dict[Device, int] = {}
        self._cursors: dict[Device, int] = {}
        self._news = asyncio.Event()

    def offer(self, user_id: str, device_id: str, pos: int) -> None:
        """Has the acknowledgement worked off soon. Raises ResourceExhausted (OVERLOADED) if too many devices wait."""
        device = (user_id, device_id)
        if device not in self._pending and len(self._pending) >= self._settings.most_pending_acknowledgements:
            raise ResourceExhausted("Too many acknowledgements wait.", retry_after_s=1.0)
        self._pending[device] = max(pos, self._pending.get(device, 0))
        self._news.set()

    async def run(self) -> NoReturn:
        """Works off what is offered until cancelled; what fails is kept and tried again."""
        failures = 0
        while True:
            await self._news.wait()
            if self._settings.acknowledgement_interval_s > 0:
                await asyncio.sleep(self._settings.acknowledgement_interval_s)
            batch = {device: self._pending.pop(device) for device in list(self._pending)[:_MOST_DEVICES_A_BATCH]}
            if not self._pending:
                self._news.clear()
            try:
                async with asyncio.timeout(self._settings.engine_timeout_s):
                    await in_its_own_task(self._work_off(batch))
                failures = 0
            except Exception as error:  # noqa: BLE001 - whatever it was, the others' acknowledgements must go on
                failures += 1
                metrics.ACKNOWLEDGEMENT_FAILURES.inc()
                _log.warning("acknowledgements.failed", error=describe(error))
                self._keep(batch)
                await asyncio.sleep(pause_s(failures, self._settings))

    def _keep(self, batch: Mapping[Device, int]) -> None:
        for device, pos in batch.items():
            self._pending[device] = max(pos, self._pending.get(device, 0))
        self._news.set()

    async def _work_off(self, batch: Mapping[Device, int]) -> None:
        clamped = await self._clamp(batch)
        before = await self._cursors_before(list(clamped))
        moved = {device: pos for device, pos in clamped.items() if pos > before[device]}
        if not moved:
            return
        await self._mark(moved, before)
        await self._advance(moved)
        for device, pos in moved.items():
            self._cursors.pop(device, None)
            self._cursors[device] = pos
        while len(self._cursors) > self._settings.most_pending_acknowledgements:
            del self._cursors[next(iter(self._cursors))]
        metrics.ACKNOWLEDGED.inc(len(moved))

    async def _clamp(self, batch: Mapping[Device, int]) -> dict[Device, int]:
        """A place beyond the inbox's end counts as its end; what then is no place is left out."""
        unsure = {user_id for (user_id, _), pos in batch.items() if pos > self._recent.newest(user_id)}
        heads = await self._store.inbox_heads(list(unsure)) if unsure else {}
        clamped = {
            device: min(pos, heads[device[0]].place) if device[0] in heads else pos for device, pos in batch.items()
        }
        return {device: pos for device, pos in clamped.items() if pos > 0}

    async def _cursors_before(self, devices: Sequence[Device]) -> dict[Device, int]:
        """Where the cursors stand. Asking moves a cursor to 1 at least, which each of these devices has acknowledged."""
        unknown = [device for device in devices if device not in self._cursors]
        previous = await self._advance(dict.fromkeys(unknown, 1))
        before = {device: pos if pos > 1 else 0 for device, pos in previous.items()}
        return {device: self._cursors[device] if device in self._cursors else before[device] for device in devices}

    async def _advance(self, moves: Mapping[Device, int]) -> dict[Device, int]:
        """Moves cursors, partition by partition; returns where they stood."""
        groups: defaultdict[int, list[Device]] = defaultdict(list)
        for device in moves:
            groups[self._mesh.partition_of(device[0])].append(device)
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._advance_group(devices, moves)) for devices in groups.values()]
        return {device: pos for task in tasks for device, pos in task.result().items()}

    async def _advance_group(self, devices: Sequence[Device], moves: Mapping[Device, int]) -> dict[Device, int]:
        request = sessions_service_pb2.AdvanceCursorsRequest()
        for device in devices:
            request.advances.add(user_id=device[0], device_id=device[1], pos=moves[device])
        response = await self._sessions.AdvanceCursors(request, timeout=_ADVANCE_TIMEOUT_S)
        return dict(zip(devices, response.previous, strict=True))

    async def _mark(self, moved: Mapping[Device, int], before: Mapping[Device, int]) -> None:
        """Raises the delivered marks that follow, and tells the senders."""
        through: dict[str, int] = {}
        after: dict[str, int] = {}
        for device, pos in moved.items():
            user_id = device[0]
            through[user_id] = max(pos, through.get(user_id, 0))
            after[user_id] = max(before[device], after.get(user_id, 0))  # what another device had is marked already
        async with asyncio.TaskGroup() as group:
            tasks = {
                user_id: group.create_task(self._rows(user_id, after[user_id], pos))
                for user_id, pos in through.items()
                if pos > after[user_id]
            }
        delivered = {
            (conversation_id, user_id): found
            for user_id, task in tasks.items()
            for conversation_id, found in _by_conversation(task.result(), user_id).items()
        }
        if not delivered:
            return
        changed = await self._store.merge_marks(
            [MarkRow(conversation_id, user_id, found.seq, 0) for (conversation_id, user_id), found in delivered.items()]
        )
        for mark in changed:
            senders = delivered[mark.conversation_id, mark.user_id].sender_ids
            self._signals.offer(mark_events(mark, messaging_pb2.MESSAGE_STATUS_DELIVERED, mark.delivered_seq, senders))

    async def _rows(self, user_id: str, after: int, through: int) -> list[Brief]:
        after = max(after, through - self._settings.acknowledgement_rows)
        known = self._recent.between(user_id, after, through)
        if known is not None:
            return known
        rows = await self._store.read_inbox(user_id, after, through - after)
        return [brief(row) for row in rows if row.pos <= through]


def _by_conversation(rows: Iterable[Brief], user_id: str) -> dict[str, _Delivered]:
    """The conversations that hold something of others among the rows."""
    newest: dict[str, int] = {}
    senders: defaultdict[str, set[str]] = defaultdict(set)
    for row in rows:
        newest[row.conversation_id] = max(row.seq, newest.get(row.conversation_id, 0))
        if row.sender_id != user_id:
            senders[row.conversation_id].add(row.sender_id)
    return {
        conversation_id: _Delivered(newest[conversation_id], frozenset(ids)) for conversation_id, ids in senders.items()
    }
