"""Sends that wait to learn what became of their message, and what is remembered of those that did."""

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from discovery.errors import HitherError, ResourceExhausted, Unavailable
from hither.messaging.v1 import messaging_pb2
from services.messaging import metrics
from services.messaging.sequencing import Outcome
from services.ports.message_store import DedupKey


def outcome_unknown(
    message: str = "The message may or may not have been accepted; repeat it with the same client_id.",
) -> Unavailable:
    """The error of a send whose record may be in the log."""
    return Unavailable(message, reason="OUTCOME_UNKNOWN", retry_after_s=1.0)


@dataclass(frozen=True, slots=True)
class _Wait:
    partition: int
    future: "asyncio.Future[messaging_pb2.Message]"
    timer: asyncio.TimerHandle


class Waiting:
    """The waiting sends of this process, by message id: known before the append, so an outcome cannot come too early."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._waits: dict[int, _Wait] = {}
        self._fewer = asyncio.Event()

    def expect(self, message_id: int, partition: int, within_s: float) -> "asyncio.Future[messaging_pb2.Message]":
        """A future of the message that this one turns out to be; fails with OUTCOME_UNKNOWN when the time is over.

        Raises ResourceExhausted (OVERLOADED) if too many wait already; then nothing may be appended.
        """
        if len(self._waits) >= self._most:
            raise ResourceExhausted("Too many messages wait to be accepted.", retry_after_s=1.0)
        loop = asyncio.get_running_loop()
        future: asyncio.Future[messaging_pb2.Message] = loop.create_future()
        timer = loop.call_later(max(0.0, within_s), self.fail, (message_id,), None)
        self._waits[message_id] = _Wait(partition, future, timer)
        metrics.SENDS_WAITING.set(len(self._waits))
        return future

    def settle(self, outcomes: Sequence[Outcome]) -> None:
        """Answers who waits for these; outcomes that nobody waits for are passed over."""
        for outcome in outcomes:
            wait = self._waits.pop(outcome.message_id, None)
            if wait is None:
                continue
            wait.timer.cancel()
            if not wait.future.done():
                wait.future.set_result(outcome.message)
        self._changed()

    def fail(self, message_ids: Iterable[int], error: HitherError | None = None) -> None:
        """Fails who waits for these, with OUTCOME_UNKNOWN unless another error is given."""
        for message_id in message_ids:
            wait = self._waits.pop(message_id, None)
            if wait is None:
                continue
            wait.timer.cancel()
            if not wait.future.done():
                wait.future.set_exception(error or outcome_unknown())
        self._changed()

    def fail_partition(self, partition: int) -> None:
        """Fails all who wait for an outcome in the partition, with OUTCOME_UNKNOWN: this process will not see it."""
        self.fail([message_id for message_id, wait in self._waits.items() if wait.partition == partition])

    async def none_left(self, partition: int) -> None:
        """Returns when nobody waits for an outcome in the partition; at the latest when the time of those who do is over."""
        while any(wait.partition == partition for wait in self._waits.values()):
            self._fewer.clear()
            await self._fewer.wait()

    def _changed(self) -> None:
        self._fewer.set()
        metrics.SENDS_WAITING.set(len(self._waits))


class RecentOutcomes:
    """The newest accepted messages by what the sender called them; a short cut for retries, never what dedup rests on."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._messages: dict[DedupKey, messaging_pb2.Message] = {}

    def remember(self, outcomes: Sequence[Outcome]) -> None:
        """Remembers the outcomes; the oldest give way."""
        for outcome in outcomes:
            self._messages[outcome.key] = outcome.message
        while len(self._messages) > self._most:
            del self._messages[next(iter(self._messages))]

    def find(self, key: DedupKey) -> messaging_pb2.Message | None:
        """The message that was accepted under the key, if it is remembered."""
        return self._messages.get(key)
