"""The conversation projection: from the log "messages" to rows of conversations and records of the log "inbox".

One for each partition. It works in two stages that overlap: the first makes rows durable and answers who waits, the
second passes the messages on and commits. A batch enters the second stage after the one before it has left.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NoReturn, Protocol

from discovery.clock import Clock
from discovery.rpc.tracing import now_ns
from services.messaging import metrics
from services.messaging.committing import Committer
from services.messaging.inbox_log import AppendToInboxes
from services.messaging.sequencing import Outcome, Passed, cut_batch, inbox_records, read_accepted, sequence
from services.messaging.settings import MessagingSettings
from services.messaging.supervision import Status
from services.messaging.traces import projected
from services.ports.log import Committed, Log, Record
from services.ports.message_store import DedupKey, Head, MessageRow

MESSAGES = "messages"
GROUP = "conversations"

_BATCHES_BETWEEN_STAGES = 4


@dataclass(frozen=True, slots=True)
class _Durable:
    """A batch whose rows are durable: what to pass on, and where the log goes on after it."""

    passed: Sequence[Passed]
    next_offset: int


class ConversationRows(Protocol):
    """What the projection needs of a ConversationStore."""

    async def conversation_heads(self, conversation_ids: Sequence[str]) -> Mapping[str, Head]:
        """See ConversationStore; the answer may hold more."""

    async def find_sent(self, keys: Sequence[DedupKey]) -> Mapping[DedupKey, MessageRow]:
        """See ConversationStore; the answer may hold more."""

    async def put_messages(self, rows: Sequence[MessageRow]) -> None:
        """See ConversationStore."""

    async def flush(self) -> None:
        """See MessageStore."""


class ConversationProjection:
    """Applies one partition of "messages". When the rows of a batch are visible, `remember` is called with them, then `tell` with
    the outcomes.
    """

    def __init__(
        self,
        log: Log,
        store: ConversationRows,
        append_to_inboxes: AppendToInboxes,
        partition_of: Callable[[str], int],
        remember: Callable[[Sequence[MessageRow]], None],
        tell: Callable[[Sequence[Outcome]], None],
        status: Status,
        clock: Clock,
        settings: MessagingSettings,
    ) -> None:
        self._log = log
        self._store = store
        self._append_to_inboxes = append_to_inboxes
        self._partition_of = partition_of
        self._remember = remember
        self._tell = tell
        self._status = status
        self._partition = status.partition
        self._clock = clock
        self._settings = settings
        self._committer: Committer | None = None
        self._between: asyncio.Queue[_Durable] = asyncio.Queue()

    async def run(self) -> None:
        """Applies records from the committed offset on, until cancelled; raises when an engine or a record fails it."""
        committer = Committer(self._log, self._store.flush, GROUP, MESSAGES, self._status, self._settings)
        self._committer = None
        committed = await committer.read()
        self._committer = committer
        queue = self._between = asyncio.Queue(_BATCHES_BETWEEN_STAGES)
        async with asyncio.TaskGroup() as group:
            group.create_task(committer.run())
            group.create_task(self._pass_on(queue, committer))
            group.create_task(self._sequence(committed.next_offset, queue))

    async def finish(self) -> None:
        """Returns when what has rows by now is through the second stage too."""
        await self._between.join()

    async def commit_last(self) -> None:
        """Commits what a run that was cancelled has left uncommitted, so that the next owner need not apply it again."""
        if self._committer is not None:
            await self._committer.commit_offered()

    async def _sequence(self, offset: int, queue: asyncio.Queue[_Durable]) -> NoReturn:
        first = True
        while True:
            records = await self._read(offset)
            if not records:
                self._status.caught_up()
                if first:
                    self._status.well()
                await self._log.wait(MESSAGES, self._partition, offset)
                continue
            first = False
            offset = records[-1].offset + 1
            await queue.put(_Durable(await self._apply(records), offset))

    async def _read(self, offset: int) -> Sequence[Record]:
        async with asyncio.timeout(self._settings.engine_timeout_s):
            records = await self._log.read(MESSAGES, self._partition, offset, self._settings.batch_records)
        return cut_batch(records, self._settings.batch_bytes)

    async def _apply(self, records: Sequence[Record]) -> Sequence[Passed]:
        batch = read_accepted(records)
        began_ns = now_ns()
        async with asyncio.timeout(self._settings.engine_timeout_s):
            # Heads first: a row that they cover is then sure to be found, though another owner may be writing.
            heads = await self._store.conversation_heads(list({accepted.key[0] for accepted in batch}))
            found = await self._store.find_sent(list({accepted.key for accepted in batch}))
            result = sequence(batch, heads, found)
            if result.rows:
                await self._store.put_messages(result.rows)
        self._remember(result.rows)
        self._tell(result.outcomes)
        projected((accepted.traceparent for accepted in batch), MESSAGES, GROUP, self._partition, began_ns)
        self._measure(result.outcomes, len(result.rows), len(result.passed))
        return result.passed

    async def _pass_on(self, queue: asyncio.Queue[_Durable], committer: Committer) -> NoReturn:
        while True:
            batches = [await queue.get()]
            while not queue.empty():
                batches.append(queue.get_nowait())
            records = [
                (partition, record.SerializeToString())
                for batch in batches
                for partition, record in inbox_records(batch.passed, self._partition, self._partition_of).items()
            ]
            if records:
                async with asyncio.timeout(self._settings.engine_timeout_s):
                    await self._append_to_inboxes(records)
            committer.offer(Committed(batches[-1].next_offset, b""))
            for _ in batches:
                queue.task_done()

    def _measure(self, outcomes: Sequence[Outcome], rows: int, passed: int) -> None:
        metrics.REPEATED.inc(len(outcomes) - passed)
        newest = outcomes[-1].message.create_time
        lag_s = self._clock.now_ms() / 1000 - newest.seconds - newest.nanos / 1e9
        self._status.applied(len(outcomes), rows, lag_s)
