"""The inbox projection: from the log "inbox" to rows of inboxes, events for connected devices, and the log "push".

One for each partition. Its first stage makes rows durable; the second tells the connected devices, hands to push who
has none, and commits. Telling may be late or fail: a device heals by its next sync, and the first stage goes on.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NoReturn, Protocol

import structlog

from discovery.clock import Clock
from discovery.rpc.tracing import now_ns
from hither.messaging.v1 import records_pb2
from services.delivery import UserEvent
from services.messaging import metrics
from services.messaging.activity import RecentActivity, follow
from services.messaging.committing import Committer
from services.messaging.inbox_log import INBOX
from services.messaging.inboxing import (
    Arrival,
    Decision,
    Place,
    decide,
    placed,
    read_inbox_records,
    read_watermarks,
    recipients,
    write_watermarks,
)
from services.messaging.sequencing import cut_batch
from services.messaging.settings import MessagingSettings
from services.messaging.supervision import Status
from services.messaging.traces import inboxed
from services.ports.log import Committed, Log
from services.ports.message_store import ActivityPlace, ActivityRow, Head, InboxRow

PUSH = "push"
PUSH_GROUP = "push"
"""Who reads it: the push service."""
GROUP = "inboxes"

_BATCHES_BETWEEN_STAGES = 64
_MOST_PUSH_RECORDS_A_CALL = 1000
_ROWS_A_LOOKUP = 256
_log = structlog.get_logger("hither.messaging")


class Teller(Protocol):
    """Tells connected users something; services.delivery.Delivery."""

    async def to_users(self, events: Sequence[UserEvent]) -> frozenset[str]:
        """Returns the users whom no live connection took it for."""


@dataclass(frozen=True, slots=True)
class _Settled:
    """A batch whose rows are durable: whom to tell, whether there was room to try, and what to commit after it."""

    arrivals: Sequence[Arrival]
    tell: bool
    committed: Committed


class InboxRows(Protocol):
    """What the projection needs of an InboxStore."""

    async def inbox_heads(self, user_ids: Sequence[str]) -> Mapping[str, Head]:
        """See InboxStore; the answer may hold more."""

    async def inbox_activity(self, places: Sequence[ActivityPlace]) -> Mapping[ActivityPlace, ActivityRow]:
        """See InboxStore; the answer may hold more."""

    async def put_inbox(self, rows: Sequence[InboxRow], activity: Sequence[ActivityRow]) -> None:
        """See InboxStore."""

    async def flush(self) -> None:
        """See MessageStore."""

    async def read_inbox(self, user_id: str, after_pos: int, limit: int) -> Sequence[InboxRow]:
        """See InboxStore."""


class InboxProjection:
    """Applies one partition of "inbox". `remember` is called with the rows of each batch once they are durable."""

    def __init__(
        self,
        log: Log,
        store: InboxRows,
        teller: Teller,
        remember: Callable[[Sequence[InboxRow]], None],
        recent_activity: RecentActivity,
        status: Status,
        clock: Clock,
        settings: MessagingSettings,
    ) -> None:
        self._log = log
        self._store = store
        self._teller = teller
        self._remember = remember
        self._recent_activity = recent_activity
        self._status = status
        self._partition = status.partition
        self._clock = clock
        self._settings = settings
        self._committer: Committer | None = None
        self._between: asyncio.Queue[_Settled] = asyncio.Queue()
        self._untold = 0

    async def run(self) -> None:
        """Applies records from the committed offset on, until cancelled; raises when an engine or a record fails it."""
        committer = Committer(self._log, self._store.flush, GROUP, INBOX, self._status, self._settings)
        self._committer = None
        committed = await committer.read()
        self._committer = committer
        self._untold = 0
        queue = self._between = asyncio.Queue(_BATCHES_BETWEEN_STAGES)
        async with asyncio.TaskGroup() as group:
            group.create_task(committer.run())
            group.create_task(self._tell(queue, committer))
            group.create_task(self._project(committed, queue))

    async def finish(self) -> None:
        """Returns when what has rows by now is through the second stage too."""
        await self._between.join()

    async def commit_last(self) -> None:
        """Commits what a run that was cancelled has left uncommitted, so that the next owner need not apply it again."""
        if self._committer is not None:
            await self._committer.commit_offered()

    async def _project(self, committed: Committed, queue: asyncio.Queue[_Settled]) -> NoReturn:
        offset, watermarks = committed.next_offset, read_watermarks(committed.state)
        first = True
        while True:
            async with asyncio.timeout(self._settings.engine_timeout_s):
                records = await self._log.read(INBOX, self._partition, offset, self._settings.batch_records)
            if not records:
                self._status.caught_up()
                if first:
                    self._status.well()
                await self._log.wait(INBOX, self._partition, offset)
                continue
            first = False
            records = cut_batch(records, self._settings.batch_bytes)
            batch = read_inbox_records(records)
            began_ns = now_ns()
            async with asyncio.timeout(self._settings.engine_timeout_s):
                heads = await self._store.inbox_heads(list(recipients(batch)))
                decision = decide(batch, watermarks, heads)
                arrivals: Sequence[Arrival] = placed(decision.arrivals, await self._known_places(decision, heads))
                if decision.rows:
                    await self._write(decision.rows, heads)
            self._remember(decision.rows)
            self._measure(len(records), decision)
            offset, watermarks = records[-1].offset + 1, decision.watermarks
            arrivals = inboxed(arrivals, INBOX, GROUP, self._partition, began_ns)
            await queue.put(self._settle(arrivals, Committed(offset, write_watermarks(watermarks))))

    async def _write(self, rows: Sequence[InboxRow], heads: Mapping[str, Head]) -> None:
        known = self._recent_activity.known(rows, heads)
        lacking = {(row.user_id, row.conversation_id) for row in rows} - known.keys()
        if lacking:
            known |= await self._store.inbox_activity(list(lacking))
        activity = follow(known, rows)
        await self._store.put_inbox(rows, activity)
        self._recent_activity.wrote(rows, activity, heads)

    async def _known_places(self, decision: Decision, heads: Mapping[str, Head]) -> dict[Place, int]:
        """The places of rows that were there before: what a crash left to be told of. Reads each inbox from its end."""
        places: dict[Place, int] = {}
        for user_id, first_offset in decision.known_from.items():
            after = heads[user_id].place
            reached = False
            while after > 0 and not reached:
                after = max(0, after - _ROWS_A_LOOKUP)
                rows = await self._store.read_inbox(user_id, after, _ROWS_A_LOOKUP)
                places.update(((user_id, row.conversation_id, row.seq), row.pos) for row in rows)
                reached = not rows or rows[0].log_offset < first_offset
        return places

    def _settle(self, arrivals: Sequence[Arrival], committed: Committed) -> _Settled:
        room = self._untold + len(arrivals) <= self._settings.most_undelivered
        if room:
            self._untold += len(arrivals)
        else:
            metrics.UNDELIVERED.labels("queue full").inc(len(arrivals))
        return _Settled(arrivals, room, committed)

    async def _tell(self, queue: asyncio.Queue[_Settled], committer: Committer) -> NoReturn:
        while True:
            batches = [await queue.get()]
            while not queue.empty():
                batches.append(queue.get_nowait())
            told = [arrival for batch in batches if batch.tell for arrival in batch.arrivals]
            missed = await self._try_to_tell(told)
            self._untold -= len(told)
            reached = {arrival.user_id for arrival in told} - missed
            await self._push(
                [arrival for batch in batches for arrival in batch.arrivals if arrival.user_id not in reached]
            )
            committer.offer(batches[-1].committed)
            for _ in batches:
                queue.task_done()

    async def _try_to_tell(self, arrivals: Sequence[Arrival]) -> frozenset[str]:
        """Tells the connected devices; returns the users of whom none is known to have been told."""
        if not arrivals:
            return frozenset()
        events = [
            UserEvent(arrival.user_id, "message", arrival.event, arrival.pos, traceparent=arrival.traceparent)
            for arrival in arrivals
        ]
        try:
            async with asyncio.timeout(self._settings.delivery_timeout_s):
                return await self._teller.to_users(events)
        except TimeoutError:
            metrics.UNDELIVERED.labels("too slow").inc(len(events))
        except Exception:  # noqa: BLE001 - rows are durable, devices heal by their next sync: nothing may hold back commits
            metrics.UNDELIVERED.labels("failed").inc(len(events))
            _log.exception("delivery.failed", partition=self._partition)
        return frozenset(arrival.user_id for arrival in arrivals)

    async def _push(self, arrivals: Sequence[Arrival]) -> None:
        """Hands messages to push for users who have no live device; nobody is pushed what they sent themselves."""
        values = [
            records_pb2.PushRecord(
                user_id=arrival.user_id, pos=arrival.pos, message=arrival.message
            ).SerializeToString()
            for arrival in arrivals
            if arrival.user_id != arrival.message.sender_id
        ]
        for start in range(0, len(values), _MOST_PUSH_RECORDS_A_CALL):
            async with asyncio.timeout(self._settings.engine_timeout_s):
                await self._log.append(PUSH, self._partition, values[start : start + _MOST_PUSH_RECORDS_A_CALL])
        metrics.PUSHED.inc(len(values))

    def _measure(self, records: int, decision: Decision) -> None:
        metrics.REDELIVERED.inc(len(decision.arrivals) - len(decision.rows))
        lag_s = 0.0
        if decision.arrivals:
            newest = decision.arrivals[-1].message.create_time
            lag_s = self._clock.now_ms() / 1000 - newest.seconds - newest.nanos / 1e9
        self._status.applied(records, len(decision.rows), lag_s)
