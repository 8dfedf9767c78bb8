"""One partition as its owner runs it: the appending of sends, and the two projections."""

import asyncio
from collections.abc import Callable, Sequence
from typing import NamedTuple, NoReturn, Protocol

import structlog

from discovery.clock import Clock
from discovery.errors import HitherError, ResourceExhausted, Unavailable
from discovery.rpc.tracing import OpenSpan
from hither.messaging.v1 import messaging_pb2
from services.messaging import metrics
from services.messaging.activity import RecentActivity
from services.messaging.conversation_projection import MESSAGES, ConversationProjection, ConversationRows
from services.messaging.inbox_log import AppendToInboxes
from services.messaging.inbox_projection import InboxProjection, InboxRows, Teller
from services.messaging.recent import RecentRows
from services.messaging.sequencing import Outcome
from services.messaging.settings import MessagingSettings
from services.messaging.supervision import Problem, Status, keep_running
from services.messaging.tails import Tails
from services.messaging.waiting import RecentOutcomes, Waiting, outcome_unknown
from services.ports.log import Log

_MOST_RECORDS_A_CALL = 1000
_log = structlog.get_logger("hither.messaging")


class Rows(ConversationRows, InboxRows, Protocol):
    """What both projections need of a MessageStore."""


class _Append(NamedTuple):
    """A record that waits to be appended."""

    message_id: int
    record: bytes
    span: OpenSpan | None


class Partition:
    """Runs one partition of "messages" and the same of "inbox". Nothing happens before run()."""

    def __init__(
        self,
        number: int,
        log: Log,
        store: Rows,
        append_to_inboxes: AppendToInboxes,
        teller: Teller,
        partition_of: Callable[[str], int],
        waiting: Waiting,
        recent_outcomes: RecentOutcomes,
        recent_rows: RecentRows,
        recent_activity: RecentActivity,
        tails: Tails,
        clock: Clock,
        settings: MessagingSettings,
    ) -> None:
        self._number = number
        self._log = log
        self._waiting = waiting
        self._recent_outcomes = recent_outcomes
        self._settings = settings
        self._gathered: list[_Append] = []
        self._news = asyncio.Event()
        self._open = False
        self._conversation_status = Status("conversations", number)
        self._inbox_status = Status("inboxes", number)
        self._conversations = ConversationProjection(
            log,
            store,
            append_to_inboxes,
            partition_of,
            tails.wrote,
            self._tell,
            self._conversation_status,
            clock,
            settings,
        )
        self._inboxes = InboxProjection(
            log, store, teller, recent_rows.add, recent_activity, self._inbox_status, clock, settings
        )

    def problems(self) -> list[Problem]:
        """What is wrong with the partition's projections now; empty if nothing is."""
        return [status.problem for status in (self._conversation_status, self._inbox_status) if status.problem]

    async def send(
        self, message_id: int, record: bytes, within_s: float, span: OpenSpan | None = None
    ) -> messaging_pb2.Message:
        """Appends the accepted message and waits for what it turns out to be: it, or the one that it repeats. The span ends
        when the record is durable, or is known not to be.

        Raises Unavailable: ENGINE_DOWN or NO_OWNER if nothing was done, OUTCOME_UNKNOWN otherwise; ResourceExhausted
        (OVERLOADED).
        """
        if not self._open:
            raise Unavailable("The conversation is moving.", reason="NO_OWNER", retry_after_s=0.1)
        if self._conversation_status.problem:
            raise Unavailable("Messages cannot be accepted now.", retry_after_s=1.0)
        if len(self._gathered) >= self._settings.most_waiting_sends:
            raise ResourceExhausted("Too many messages wait to be accepted.", retry_after_s=1.0)
        future = self._waiting.expect(message_id, self._number, within_s)
        self._gathered.append(_Append(message_id, record, span))
        self._news.set()
        return await future

    async def finish(self) -> None:
        """Takes no more sends, and returns when all that were taken have an outcome and were passed on. For who is going to
        cancel run().
        """
        self._open = False
        await self._waiting.none_left(self._number)
        await self._conversations.finish()
        await self._inboxes.finish()

    async def commit_last(self) -> None:
        """Commits what a cancelled run() has left uncommitted, so that the next owner need not apply it again. Raises when it
        fails.
        """
        await self._conversations.commit_last()
        await self._inboxes.commit_last()

    async def run(self) -> None:
        """Runs the partition until cancelled; who waits then for an outcome learns that it is unknown."""
        self._open = True
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._append())
                group.create_task(
                    keep_running(self._conversations.run, self._conversation_status, self._settings, self._give_up)
                )
                group.create_task(keep_running(self._inboxes.run, self._inbox_status, self._settings))
        finally:
            self._open = False
            self._give_up()
            self._conversation_status.forget()
            self._inbox_status.forget()

    async def _append(self) -> NoReturn:
        """Appends what has gathered while the last append was underway, in the order of the sends."""
        while True:
            await self._news.wait()
            taken, self._gathered = self._gathered[:_MOST_RECORDS_A_CALL], self._gathered[_MOST_RECORDS_A_CALL:]
            if not self._gathered:
                self._news.clear()
            await self._append_all(taken)

    async def _append_all(self, taken: Sequence["_Append"]) -> None:
        metrics.APPENDS.inc()
        failed: Exception | None = None
        try:
            async with asyncio.timeout(self._settings.append_timeout_s):
                await self._log.append(MESSAGES, self._number, [append.record for append in taken])
        except HitherError as error:
            failed = error
            self._waiting.fail([append.message_id for append in taken], error)
        except Exception as error:  # noqa: BLE001 - a time-out, or a bug of the engine: whatever it was, the records may be there
            failed = error
            _log.exception("append.failed", partition=self._number)
            self._waiting.fail([append.message_id for append in taken], outcome_unknown())
        for append in taken:
            if append.span is not None:
                append.span.note("messaging.destination.partition.id", str(self._number))
                append.span.note("messaging.batch.message_count", len(taken))
                append.span.end(failed)

    def _give_up(self) -> None:
        self._waiting.fail_partition(self._number)

    def _tell(self, outcomes: Sequence[Outcome]) -> None:
        self._recent_outcomes.remember(outcomes)
        self._waiting.settle(outcomes)
