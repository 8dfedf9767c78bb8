"""Tells the session registry, presence and location which connections this edge holds: at every change, and again and again.

Whatever fails is counted and tried again; connections live and local delivery goes on without the registry.
"""

import asyncio
import random
from collections import defaultdict
from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import Final, TypeVar

import structlog

from discovery.clock import Clock
from discovery.errors import HitherError
from discovery.mesh import Mesh
from edge.metrics import EdgeMetrics
from edge.settings import EdgeSettings
from hither.location.v1 import location_service_pb2
from hither.location.v1.location_service_pb2_grpc import LocationServiceStub
from hither.presence.v1 import presence_service_pb2
from hither.presence.v1.presence_service_pb2_grpc import PresenceServiceStub
from hither.sessions.v1 import sessions_pb2, sessions_service_pb2
from hither.sessions.v1.sessions_service_pb2_grpc import SessionsServiceStub

log = structlog.get_logger(__name__)

T = TypeVar("T", sessions_pb2.Connection, presence_service_pb2.DeviceReport)

_BATCH: Final = 1000
_AT_ONCE: Final = 8
_MOST_WAITING: Final = 100_000
"""Closed connections that wait to be reported; of more the registry learns when their records run out."""
_RETRY_S: Final = 5.0
_REGISTER_AGAIN_S: Final = 1.0

Connections = Callable[[], Iterable[sessions_pb2.Connection]]


class Registrar:
    """See the module. `connections` gives the open connections; `replaced` is told which of them are not wanted any more, and
    `late` which of those that were open without the registry it knows now.
    """

    def __init__(
        self,
        mesh: Mesh,
        settings: EdgeSettings,
        metrics: EdgeMetrics,
        clock: Clock,
        connections: Connections,
        replaced: Callable[[int], None],
        late: Callable[[int], None],
    ) -> None:
        self._mesh = mesh
        self._settings = settings
        self._metrics = metrics
        self._clock = clock
        self._connections = connections
        self._replaced = replaced
        self._late = late
        self._sessions = mesh.stub(SessionsServiceStub)
        self._presence = mesh.stub(PresenceServiceStub)
        self._location = mesh.stub(LocationServiceStub)
        self._reports: dict[int, presence_service_pb2.DeviceReport] = {}
        self._removals: dict[int, sessions_pb2.Connection] = {}
        self._unregistered: dict[int, sessions_pb2.Connection] = {}
        self._unregistered_news = asyncio.Event()
        self._news = asyncio.Event()
        self._settling = asyncio.Lock()

    def opened(self, connection: sessions_pb2.Connection, *, registered: bool) -> None:
        """The connection is open: one that the registry could not be told of is renewed until it knows it."""
        if not registered:
            self._unregistered[connection.connection_id] = connection
            self._unregistered_news.set()
        self._reports[connection.connection_id] = _report(connection, connected=True)
        self._news.set()

    def closed(self, connection: sessions_pb2.Connection) -> None:
        """The connection is gone."""
        self._unregistered.pop(connection.connection_id, None)
        if len(self._removals) >= _MOST_WAITING:
            return
        self._reports[connection.connection_id] = _report(connection, connected=False)
        self._removals[connection.connection_id] = connection
        self._news.set()

    async def run(self) -> None:
        """Works until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._keep_renewing(), name="edge renewals")
            group.create_task(self._keep_registering(), name="edge registrations")
            group.create_task(self._keep_reporting(), name="edge reports")

    async def settle(self) -> None:
        """Reports what waits, once, after what is being reported already."""
        async with self._settling:
            reports, self._reports = self._reports, {}
            removals, self._removals = self._removals, {}
            self._news.clear()
            calls = [
                *(self._report(chunk) for chunk in self._chunks(reports.values())),
                *(self._report_viewers(chunk) for chunk in self._chunks(reports.values())),
                *(self._remove(chunk) for chunk in self._chunks(removals.values())),
            ]
            await _gather(calls)

    async def _keep_reporting(self) -> None:
        due_s = self._clock.monotonic_s() + self._settings.report_s
        while True:
            wait_s = max(0.0, due_s - self._clock.monotonic_s())
            try:
                async with asyncio.timeout(wait_s):
                    await self._news.wait()
            except TimeoutError:
                due_s = self._clock.monotonic_s() + self._settings.report_s
                for connection in self._connections():
                    self._reports.setdefault(connection.connection_id, _report(connection, connected=True))
            await self.settle()

    async def _keep_renewing(self) -> None:
        wait_s = self._settings.renew_s
        while True:
            await asyncio.sleep(wait_s * random.uniform(0.9, 1.1))  # noqa: S311 (spreads load, guards nothing)
            renewed = await _gather([self._renew(chunk) for chunk in self._chunks(self._connections())])
            wait_s = self._settings.renew_s if all(renewed) else min(_RETRY_S, self._settings.renew_s)

    async def _keep_registering(self) -> None:
        while True:
            await self._unregistered_news.wait()
            self._unregistered_news.clear()
            if not all(await _gather([self._renew(chunk) for chunk in self._chunks(self._unregistered.values())])):
                self._unregistered_news.set()
                await asyncio.sleep(_REGISTER_AGAIN_S * random.uniform(0.5, 1.5))  # noqa: S311 (spreads load, guards nothing)

    async def _renew(self, connections: Sequence[sessions_pb2.Connection]) -> bool:
        request = sessions_service_pb2.RenewConnectionsRequest(connections=connections)
        try:
            response = await self._sessions.RenewConnections(request, timeout=self._settings.registry_timeout_s)
        except HitherError as error:
            self._failed("RenewConnections", error)
            return False
        for connection_id in response.replaced_connection_ids:
            self._replaced(connection_id)
        for connection in connections:
            if self._unregistered.pop(connection.connection_id, None) is not None:
                self._late(connection.connection_id)
        return True

    async def _remove(self, connections: Sequence[sessions_pb2.Connection]) -> bool:
        request = sessions_service_pb2.RemoveConnectionsRequest(connections=connections)
        try:
            await self._sessions.RemoveConnections(request, timeout=self._settings.registry_timeout_s)
        except HitherError as error:
            self._failed("RemoveConnections", error)
            if len(self._removals) < _MOST_WAITING:  # goes with the next round
                self._removals.update((connection.connection_id, connection) for connection in connections)
            return False
        return True

    async def _report(self, reports: Sequence[presence_service_pb2.DeviceReport]) -> bool:
        request = presence_service_pb2.ReportDevicesRequest(reports=reports)
        try:
            await self._presence.ReportDevices(request, timeout=self._settings.registry_timeout_s)
        except HitherError as error:
            self._failed("ReportDevices", error)
            for report in reports:  # those that are connected are reported again anyway
                if not report.connected and len(self._reports) < _MOST_WAITING:
                    self._reports.setdefault(report.connection_id, report)
            return False
        return True

    async def _report_viewers(self, reports: Sequence[presence_service_pb2.DeviceReport]) -> bool:
        """What presence is told, told to location too. What it does not get it learns from the next report, or by its absence."""
        request = location_service_pb2.ReportViewersRequest(
            reports=(
                location_service_pb2.ViewerReport(
                    user_id=report.user_id,
                    connected=report.connected,
                    connection_id=report.connection_id,
                    edge_id=report.edge_id,
                )
                for report in reports
            )
        )
        try:
            await self._location.ReportViewers(request, timeout=self._settings.registry_timeout_s)
        except HitherError as error:
            self._failed("ReportViewers", error)
            return False
        return True

    def _chunks(self, items: Iterable[T]) -> list[list[T]]:
        groups: defaultdict[int, list[T]] = defaultdict(list)
        for item in items:
            groups[self._mesh.partition_of(item.user_id)].append(item)
        return [group[start : start + _BATCH] for group in groups.values() for start in range(0, len(group), _BATCH)]

    def _failed(self, method: str, error: HitherError) -> None:
        self._metrics.registry_failures[method] += 1
        log.warning("registry.failed", method=method, reason=error.reason, error=error.message)


def _report(connection: sessions_pb2.Connection, *, connected: bool) -> presence_service_pb2.DeviceReport:
    return presence_service_pb2.DeviceReport(
        user_id=connection.user_id,
        device_id=connection.device_id,
        connected=connected,
        connection_id=connection.connection_id,
        edge_id=connection.edge_id,
    )


async def _gather(calls: Sequence[Coroutine[None, None, bool]]) -> list[bool]:
    """Runs the calls, a few beside each other; what each said."""
    at_once = asyncio.Semaphore(_AT_ONCE)

    async def run(call: Coroutine[None, None, bool]) -> bool:
        async with at_once:
            return await call

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(run(call)) for call in calls]
    return [task.result() for task in tasks]
