import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from discovery.errors import Unavailable
from edge.metrics import EdgeMetrics
from edge.registrar import Registrar
from edge.settings import EdgeSettings
from hither.sessions.v1 import sessions_pb2, sessions_service_pb2
from tests.support.clock import ShiftedClock
from tests.support.fake_mesh import FakeMesh


def connection(number: int, user_id: str = "") -> sessions_pb2.Connection:
    return sessions_pb2.Connection(
        user_id=user_id or f"user-{number}", device_id="phone", edge_id="edge-1", connection_id=number
    )


class Desk:
    """A registrar with the connections that it is to report."""

    def __init__(self, **settings: float) -> None:
        self.mesh = FakeMesh()
        self.clock = ShiftedClock()
        self.metrics = EdgeMetrics()
        self.open: list[sessions_pb2.Connection] = []
        self.replaced: list[int] = []
        self.late: asyncio.Queue[int] = asyncio.Queue()
        self.registrar = Registrar(
            self.mesh.as_mesh(),
            EdgeSettings(**settings),  # type: ignore[arg-type]  # the numbers that a test names
            self.metrics,
            self.clock,
            lambda: self.open,
            self.replaced.append,
            self.late.put_nowait,
        )

    @asynccontextmanager
    async def at_work(self) -> AsyncIterator[None]:
        async with asyncio.TaskGroup() as group:
            running = group.create_task(self.registrar.run())
            yield
            running.cancel()


async def test_a_connection_that_opens_is_reported() -> None:
    desk = Desk()
    async with desk.at_work():
        desk.registrar.opened(connection(1), registered=True)
        [made] = await desk.mesh.until("ReportDevices")
    [report] = made.request.reports
    assert (report.user_id, report.device_id, report.connected, report.connection_id) == ("user-1", "phone", True, 1)


async def test_location_is_told_of_whoever_presence_is_told_of() -> None:
    desk = Desk()
    desk.mesh.fail("ReportViewers", Unavailable("away"))
    desk.registrar.opened(connection(1), registered=True)
    await desk.registrar.settle()
    [made] = desk.mesh.made("ReportViewers")
    [report] = made.request.reports
    assert (report.user_id, report.edge_id, report.connected, report.connection_id) == (
        "user-1",
        connection(1).edge_id,
        True,
        1,
    )
    assert dict(desk.metrics.registry_failures) == {"ReportViewers": 1}


async def test_a_connection_that_closes_is_removed_and_reported() -> None:
    desk = Desk()
    async with desk.at_work():
        desk.registrar.closed(connection(1))
        [removed] = await desk.mesh.until("RemoveConnections")
        [reported] = await desk.mesh.until("ReportDevices")
    assert list(removed.request.connections) == [connection(1)]
    assert [report.connected for report in reported.request.reports] == [False]


async def test_reports_are_grouped_by_partition_and_bounded() -> None:
    desk = Desk()
    for number in range(1, 2501):
        desk.registrar.opened(connection(number, user_id="alice"), registered=True)
    desk.registrar.opened(connection(9999, user_id="bob"), registered=True)
    await desk.registrar.settle()
    sizes = sorted(len(made.request.reports) for made in desk.mesh.made("ReportDevices"))
    assert sizes == [1, 500, 1000, 1000]


async def test_open_connections_are_reported_again_and_again() -> None:
    desk = Desk(report_s=0.01)
    desk.open = [connection(1)]
    async with desk.at_work():
        made = await desk.mesh.until("ReportDevices", 3)
    assert all([report.connection_id for report in one.request.reports] == [1] for one in made)


async def test_open_connections_are_renewed_again_and_again() -> None:
    desk = Desk(renew_s=0.01)
    desk.open = [connection(1), connection(2, user_id="user-1")]
    async with desk.at_work():
        made = await desk.mesh.until("RenewConnections", 3)
    assert [one.connection_id for one in made[2].request.connections] == [1, 2]


async def test_after_a_sleep_all_are_renewed_at_once_and_look_again_for_what_nobody_told_them() -> None:
    desk = Desk()
    desk.open = [connection(1), connection(2)]
    async with desk.at_work():
        desk.registrar.opened(connection(2), registered=True)
        await desk.mesh.until("ReportDevices")
        desk.clock.advance(34)
        await desk.mesh.until("RenewConnections")
        assert desk.late.empty()
        desk.clock.advance(70)
        async with asyncio.timeout(30):
            assert {await desk.late.get(), await desk.late.get()} == {1, 2}


async def test_a_replaced_connection_is_closed() -> None:
    desk = Desk(renew_s=0.01)
    desk.open = [connection(1)]

    async def replaced(request: object, caller: object) -> sessions_service_pb2.RenewConnectionsResponse:
        return sessions_service_pb2.RenewConnectionsResponse(replaced_connection_ids=[1])

    desk.mesh.handlers["RenewConnections"] = replaced
    async with desk.at_work():
        await desk.mesh.until("RenewConnections", 2)
    assert 1 in desk.replaced


async def test_failures_are_counted_and_what_failed_is_tried_again() -> None:
    desk = Desk()
    for method in ("RemoveConnections", "ReportDevices"):
        desk.mesh.fail(method, Unavailable("away"))
    desk.registrar.closed(connection(1))
    await desk.registrar.settle()
    assert dict(desk.metrics.registry_failures) == {"RemoveConnections": 1, "ReportDevices": 1}
    await desk.registrar.settle()
    assert len(desk.mesh.made("RemoveConnections")) == 2
    assert [report.connected for report in desk.mesh.made("ReportDevices")[1].request.reports] == [False]


async def test_a_renewal_that_failed_does_not_end_the_work() -> None:
    desk = Desk(renew_s=0.01)
    desk.open = [connection(1)]
    desk.mesh.fail("RenewConnections", Unavailable("away"))
    async with desk.at_work():
        await desk.mesh.until("RenewConnections", 3)


async def test_a_connection_that_the_registry_could_not_be_told_of_is_renewed_until_it_knows_it() -> None:
    desk = Desk()
    desk.mesh.fail("RenewConnections", Unavailable("away"))
    async with desk.at_work():
        desk.registrar.opened(connection(1), registered=False)
        desk.registrar.opened(connection(2), registered=True)
        await desk.mesh.until("RenewConnections")
        assert desk.late.empty()
        del desk.mesh.handlers["RenewConnections"]
        async with asyncio.timeout(30):
            assert await desk.late.get() == 1
    assert all(list(one.request.connections) == [connection(1)] for one in desk.mesh.made("RenewConnections"))


async def test_a_connection_that_closes_before_the_registry_knew_it_is_not_renewed() -> None:
    desk = Desk()
    desk.registrar.opened(connection(1), registered=False)
    desk.registrar.closed(connection(1))
    async with desk.at_work():
        await desk.mesh.until("RemoveConnections")
    assert desk.mesh.made("RenewConnections") == []
