"""Appending to the log "inbox": records for several partitions, durable together when the call returns."""

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence

from services.ports.log import Log

INBOX = "inbox"
_MOST_RECORDS_A_CALL = 1000

AppendToInboxes = Callable[[Sequence[tuple[int, bytes]]], Awaitable[None]]
"""Appends (partition, record) pairs, in their order for each partition. When it returns all are durable; when it raises,
any of them may be. Raises what Log.append does.
"""


class InboxLog:
    """The log "inbox", all partitions of it."""

    def __init__(self, log: Log) -> None:
        self._log = log

    async def append(self, records: Sequence[tuple[int, bytes]]) -> None:
        """See AppendToInboxes."""
        values: defaultdict[int, list[bytes]] = defaultdict(list)
        for partition, value in records:
            values[partition].append(value)
        # All are waited for, also beside one that fails: nobody is to begin again while an append is still underway.
        results = await asyncio.gather(
            *(self._append(partition, items) for partition, items in values.items()), return_exceptions=True
        )
        for result in results:
            if result is not None:
                raise result

    async def _append(self, partition: int, values: Sequence[bytes]) -> None:
        for start in range(0, len(values), _MOST_RECORDS_A_CALL):
            await self._log.append(INBOX, partition, values[start : start + _MOST_RECORDS_A_CALL])
