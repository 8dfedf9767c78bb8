"""The port of a process that has no public one."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress

import httpx
import pytest
from prometheus_client import CollectorRegistry, Gauge

from discovery.health import HealthReport
from discovery.rpc import metrics_server
from discovery.rpc.metrics_server import MOST_CONNECTIONS, MetricsServer


class Operated:
    """A server, what it shows, and its operator."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.parts = {"log": "", "ring": ""}
        self.engines: dict[str, str] = {}
        self.server = MetricsServer(lambda: HealthReport(self.parts, self.engines), "127.0.0.1", 0, self.registry)

    async def get(self, path: str) -> httpx.Response:
        async with httpx.AsyncClient(base_url=f"http://{self.server.address}") as http:
            return await http.get(path)


@pytest.fixture
async def operated() -> AsyncIterator[Operated]:
    operated = Operated()
    async with operated.server:
        yield operated


async def test_it_shows_the_metrics_of_its_registry(operated: Operated) -> None:
    Gauge("hither_test", "A test.", registry=operated.registry).set(7)

    answer = await operated.get("/metrics")

    assert (answer.status_code, answer.headers["content-type"].split(";")[0]) == (200, "text/plain")
    assert "hither_test 7.0" in answer.text


async def test_a_process_that_lives_is_alive(operated: Operated) -> None:
    assert (await operated.get("/healthz")).json() == {"status": "alive"}


async def test_it_is_ready_when_every_part_is(operated: Operated) -> None:
    ready = await operated.get("/readyz")
    operated.parts["log"] = "the log is away"
    unready = await operated.get("/readyz")

    assert (ready.status_code, ready.json()["status"]) == (200, "ready")
    assert unready.status_code == 503
    assert unready.json() == {
        "status": "not ready",
        "parts": {"log": "the log is away", "ring": "ready"},
        "engines": {},
    }


async def test_an_engine_that_is_away_degrades_a_process_and_leaves_it_ready(operated: Operated) -> None:
    operated.engines["cache"] = "away"

    answer = await operated.get("/readyz")

    assert (answer.status_code, answer.json()["status"]) == (200, "degraded")
    assert answer.json()["engines"] == {"cache": "away"}


async def test_it_has_nothing_else_and_changes_nothing(operated: Operated) -> None:
    async with httpx.AsyncClient(base_url=f"http://{operated.server.address}") as http:
        assert (await http.get("/docs")).status_code == 404
        assert (await http.post("/metrics")).status_code == 405


async def test_a_connection_too_many_is_hung_up_on_and_the_others_go_on(operated: Operated) -> None:
    host, _, port = operated.server.address.partition(":")
    open_ones = [await asyncio.open_connection(host, int(port)) for _ in range(MOST_CONNECTIONS)]

    with pytest.raises(httpx.TransportError):
        await operated.get("/healthz")
    reader, writer = open_ones[0]
    writer.write(b"GET /healthz HTTP/1.1\r\nHost: here\r\n\r\n")

    assert (await reader.readline()).startswith(b"HTTP/1.1 200")
    for _, opened in open_ones:
        opened.close()


async def test_a_request_that_does_not_come_to_its_end_is_hung_up_on(
    operated: Operated, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics_server, "REQUEST_TIMEOUT_S", 0.05)
    host, _, port = operated.server.address.partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(b"GET /healthz HTTP/1.1\r\n")

    with suppress(ConnectionResetError):
        assert await asyncio.wait_for(reader.read(), 30) == b""
    writer.close()


async def test_leaving_hangs_up() -> None:
    operated = Operated()
    async with httpx.AsyncClient() as http:
        async with operated.server:
            address = operated.server.address
            await http.get(f"http://{address}/healthz")
        with pytest.raises(httpx.TransportError):
            await http.get(f"http://{address}/healthz")
