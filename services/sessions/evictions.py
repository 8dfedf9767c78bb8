"""Closing connections that lost their device, without making anybody wait for the edge that holds them.

An eviction may be lost: the edge is told at its next renewal too, and the registry has the new connection either way.
"""

import asyncio

import structlog
from prometheus_client import Counter

from hither.sessions.v1.sessions_pb2 import Connection
from services.delivery import Delivery
from services.sessions.settings import SessionsSettings

_REPLACED = 4101
_dropped = Counter("hither_sessions_dropped_evictions", "Connections left to the next renewal, since too many waited.")
_log = structlog.get_logger("hither.sessions")


class Evictions:
    """A bounded queue of connections to close with 4101, worked off by run()."""

    def __init__(self, delivery: Delivery, settings: SessionsSettings) -> None:
        self._delivery = delivery
        self._at_once = settings.evictions_at_once
        self._waiting: asyncio.Queue[Connection] = asyncio.Queue(settings.most_evictions)

    def add(self, connection: Connection) -> None:
        """Has the connection closed soon. Never waits, never fails."""
        try:
            self._waiting.put_nowait(connection)
        except asyncio.QueueFull:
            _dropped.inc()
            _log.warning("eviction.dropped", edge_id=connection.edge_id)

    async def run(self) -> None:
        """Works until cancelled."""
        async with asyncio.TaskGroup() as group:
            for _ in range(self._at_once):
                group.create_task(self._work())

    async def _work(self) -> None:
        while True:
            connection = await self._waiting.get()
            await self._delivery.evict(connection, _REPLACED, "replaced")
