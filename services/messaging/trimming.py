"""Lets the log go of what every projection is done with."""

import asyncio
from collections.abc import Callable
from typing import NoReturn

import structlog

from discovery.errors import HitherError
from services.messaging import conversation_projection, inbox_projection
from services.messaging.inbox_log import INBOX
from services.messaging.settings import MessagingSettings
from services.ports.log import Log

_log = structlog.get_logger("hither.messaging")
_CONSUMED = (
    (conversation_projection.GROUP, conversation_projection.MESSAGES),
    (inbox_projection.GROUP, INBOX),
    (inbox_projection.PUSH_GROUP, inbox_projection.PUSH),
)


class Trimming:
    """Trims the owned partitions now and then.

    What was committed at one round is let go of at the next, less a margin of offsets: an owner that was paused may
    commit an old place for a moment, and whoever starts from there must still find all records.
    """

    def __init__(self, log: Log, owned: Callable[[], frozenset[int]], settings: MessagingSettings) -> None:
        self._log = log
        self._owned = owned
        self._settings = settings
        self._before: dict[tuple[str, int], int] = {}
        self._push_ends: dict[int, int] = {}

    async def run(self) -> NoReturn:
        """Trims once in an interval until cancelled. An engine that is away is tried again at the next."""
        while True:
            await asyncio.sleep(self._settings.trim_interval_s)
            try:
                await self.trim()
            except (HitherError, TimeoutError) as error:
                _log.warning("trim.failed", error=str(error))

    async def trim(self) -> None:
        """One round over the owned partitions."""
        owned = self._owned()
        self._before = {place: offset for place, offset in self._before.items() if place[1] in owned}
        self._push_ends = {number: end for number, end in self._push_ends.items() if number in owned}
        for partition in sorted(owned):
            for group, topic in _CONSUMED:
                await self._trim_consumed(group, topic, partition)
            await self._cap_push(partition)

    async def _trim_consumed(self, group: str, topic: str, partition: int) -> None:
        async with asyncio.timeout(self._settings.engine_timeout_s):
            committed = await self._log.committed(group, topic, partition)
            last_round = self._before.get((topic, partition), 0)
            before = min(last_round, committed.next_offset) - self._settings.trim_margin
            if before > 0:
                await self._log.trim(topic, partition, before)
        self._before[topic, partition] = committed.next_offset

    async def _cap_push(self, partition: int) -> None:
        """Keeps the newest records of "push" only, whether the push service has read them or not: what wakes people up is worth
        nothing when it is old, their inboxes have the messages, and where no push service runs nobody would ever let go of
        it. Walks on from the last round's end, or from what push has committed, to find the present one.
        """
        topic = inbox_projection.PUSH
        end = max(self._push_ends.get(partition, 0), self._before.get((topic, partition), 0))
        while True:
            async with asyncio.timeout(self._settings.engine_timeout_s):
                records = await self._log.read(topic, partition, end, 1000)
            if not records:
                break
            end = records[-1].offset + 1
        self._push_ends[partition] = end
        before = end - self._settings.most_push_records
        if before > 0:
            async with asyncio.timeout(self._settings.engine_timeout_s):
                await self._log.trim(topic, partition, before)
