"""The whole of Hither in this process, by a clock that the test moves: for stories of hours and days.

Clients are real and connect over real sockets; only what the server calls the time is the test's. Clients themselves live by the
machine's time, so nobody is hung up on for the heartbeats of the hours that were passed over: connections here live for weeks.
"""

import asyncio
import signal
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import httpx
from prometheus_client import REGISTRY

from discovery.registry.embedded import EmbeddedRegistry
from services.app import run_whole
from services.config import Config, load_config
from services.data_directory import DataDirectory
from services.engine_health import EngineHealth
from services.engines import open_engines
from services.ports.location_history import FixRow, LocationHistory
from tests.support.clock import ShiftedClock
from tests.support.people import WAIT_S, Line, Person, line, until
from tests.support.runner import LIGHT, websocket_url
from tests.support.servers.redis import RedisServer

_START_S = 60.0
_STOP_S = 30.0
_REPORT_S = 12.0
"""After which an edge has surely something to report."""
_REPORTS = "/hither.presence.v1.PresenceService/ReportDevices"
_MOST_PLACES = 100
_NO_MATTER = 4
"""Partitions, for who opens no engine that has some."""
_WEEKS_S = str(40 * 24 * 3600)
_SETTINGS = {
    **LIGHT,
    "HITHER_PROCESS_PORT": "0",
    "HITHER_EDGE_HEARTBEAT_S": _WEEKS_S,
    "HITHER_SESSIONS_CONNECTION_TTL_S": _WEEKS_S,
    "HITHER_PRESENCE_TICK_S": "0.02",
    "HITHER_LOCATION_TICK_S": "0.05",
    "HITHER_LOCATION_VIEWS_GATHER_S": "0.1",
    "HITHER_LIVE_TICK_S": "0.05",
    "HITHER_LIVE_AUDIT_EVERY_S": "60",
}
"""Beside the lives of connections: what is due is looked for more often, so that a test need not wait for it."""
ALIVE_AS_USUAL = {"HITHER_EDGE_HEARTBEAT_S": "30", "HITHER_SESSIONS_CONNECTION_TTL_S": "65"}
"""Connections live as they do by default: a jump of a minute ends them, and clients come back."""


class Times:
    """A Hither that runs, and its time. `redis` is that of its cache and bus; None: they are in the process."""

    def __init__(self, data: Path, settings: Mapping[str, str], redis: RedisServer | None) -> None:
        self.clock = ShiftedClock()
        self.data = data
        self._settings = {**_SETTINGS, **settings}
        self.config = self._configured(self._settings)
        self._redis = redis
        self._running: asyncio.Task[None] | None = None
        self.url = ""

    def _configured(self, settings: Mapping[str, str]) -> Config:
        return load_config(None, settings, {"process": {"data": str(self.data)}})

    @property
    def http(self) -> httpx.AsyncClient:
        """A client for REST, anew for each test."""
        return httpx.AsyncClient(base_url=self.url, timeout=WAIT_S)

    def line(self, person: Person) -> AbstractAsyncContextManager[Line]:
        """A connection of this person that has caught up."""
        return line(websocket_url(self.url), person)

    def pass_(self, *, seconds: float = 0, minutes: float = 0, hours: float = 0, days: float = 0) -> None:
        """So much time passes at once."""
        self.clock.advance(seconds + 60 * minutes + 3600 * hours + 24 * 3600 * days)

    async def live_through(self, seconds: float) -> None:
        """So much time passes by and by: everybody who is connected is reported in it as often as ever."""
        for _ in range(int(seconds // _REPORT_S)):
            before = self.reports()
            self.pass_(seconds=_REPORT_S)
            await self.reported(since=before)
        self.pass_(seconds=seconds % _REPORT_S)

    def reports(self) -> float:
        """How many reports of devices presence has taken so far."""
        return REGISTRY.get_sample_value("hither_calls_total", {"method": _REPORTS, "code": "OK"}) or 0.0

    async def reported(self, since: float) -> None:
        """Returns when presence has taken another report than so many."""

        async def is_reported() -> bool:
            return self.reports() > since

        await until(is_reported)

    def now(self) -> datetime:
        """What the server calls now."""
        return datetime.fromtimestamp(self.clock.now_ms() / 1000, UTC)

    async def lose_cache(self) -> None:
        """What the cache held is gone: Redis is emptied, or the process that held it starts again, and hangs up on everybody."""
        if self._redis is not None:
            self._redis.ask("FLUSHALL")
            return
        await self.stop()
        await self.start()

    async def places(self, name: str) -> Sequence[FixRow]:
        """What the history has of a user, or of a live location, oldest first."""
        async with self._history() as history:
            return list(await history.read(name, 0, self.clock.now_ms() + 1, _MOST_PLACES))[::-1]

    @asynccontextmanager
    async def _history(self) -> AsyncIterator[LocationHistory]:
        """As an operator would open it."""
        data, registry = DataDirectory(self.data), EmbeddedRegistry(self.clock)
        health = EngineHealth(self.clock)
        async with open_engines(self.config, data, _NO_MATTER, registry, health, self.clock) as engines:
            yield await engines.history()

    @asynccontextmanager
    async def set_to(self, settings: Mapping[str, str]) -> AsyncIterator[None]:
        """Runs with these settings too for the time of the block: it is started again at both ends."""
        usual = self.config
        await self.stop()
        self.config = self._configured({**self._settings, **settings})
        await self.start()
        try:
            yield
        finally:
            await self.stop()
            self.config = usual
            await self.start()

    async def start(self) -> None:
        """Starts it, on the data that there are."""
        ready: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        running = self._running = asyncio.create_task(run_whole(self.config, ready.set_result, clock=self.clock))
        running.add_done_callback(lambda _: ready.cancel())
        await asyncio.wait({ready}, timeout=_START_S)
        if running.done():
            await running
        self.url = await asyncio.wait_for(ready, 0)
        for number in (signal.SIGTERM, signal.SIGINT):  # they are the test run's
            asyncio.get_running_loop().remove_signal_handler(number)

    async def stop(self) -> None:
        """Ends it, without a word to its clients."""
        assert self._running is not None
        self._running.cancel()
        await asyncio.wait({self._running}, timeout=_STOP_S)
        if not self._running.cancelled():
            await self._running


@asynccontextmanager
async def running_times(
    data: Path, settings: Mapping[str, str] | None = None, redis: RedisServer | None = None
) -> AsyncIterator[Times]:
    """A started one. Raises what ended it before its time."""
    times = Times(data, settings or {}, redis)
    await times.start()
    try:
        yield times
    finally:
        await times.stop()
