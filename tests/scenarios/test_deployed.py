"""What deploy/compose.yaml describes works: its processes on real servers, each with its certificate, on keys that `hither init`
made and that no process writes to.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx

from tests.support.apart import Servers
from tests.support.deployment import compose_services, serving
from tests.support.people import WAIT_S, befriend, line, sign_up
from tests.support.runner import HitherProcess, run_hither, websocket_url

MOUNT = "/var/lib/hither"
HERE = {
    "HITHER_MESH_LISTEN": "127.0.0.1:0",
    "HITHER_MESH_ADVERTISE": "",
    "HITHER_TELEMETRY_METRICS_HOST": "127.0.0.1",
    "HITHER_TELEMETRY_METRICS_PORT": "0",
    "HITHER_PROCESS_HOST": "127.0.0.1",
    "HITHER_PROCESS_PORT": "0",
}
"""What differs where all of them share a machine: addresses."""


def process(name: str, folder: Path, engines: dict[str, str]) -> HitherProcess:
    described = serving()[name]
    environment = {key: value.replace(MOUNT, str(folder)) for key, value in described["environment"].items()}
    changed = {key: value for key, value in (engines | HERE).items() if key in environment}
    return HitherProcess(described["command"], folder / f"{name}.log", environment | changed)


@asynccontextmanager
async def deployed(folder: Path, servers: Servers) -> AsyncIterator[tuple[dict[str, HitherProcess], dict[str, str]]]:
    """The processes by name, and where each is ready."""
    for once in ("keys", "certificates"):
        command = compose_services()[once]["command"]
        await run_hither([argument.replace(MOUNT, str(folder)) for argument in command])
    (folder / "data/keys.lock").unlink()
    engines = servers.settings()
    processes = {name: process(name, folder, engines) for name in serving()}
    try:
        ready = await asyncio.gather(*(each.start() for each in processes.values()))
        yield processes, dict(zip(processes, ready, strict=True))
    finally:
        await asyncio.gather(*(each.kill() for each in processes.values()))


async def test_two_people_on_two_edges_talk_as_the_compose_file_has_it(servers: Servers, tmp_path: Path) -> None:
    async with (
        deployed(tmp_path, servers) as (processes, ready),
        httpx.AsyncClient(base_url=ready["edge-1"], timeout=WAIT_S) as http,
    ):
        files = {path.relative_to(tmp_path) for path in (tmp_path / "data").rglob("*")}
        alice, bob = await sign_up(http, "alice"), await sign_up(http, "bob")
        await befriend(alice, bob)
        async with (
            line(websocket_url(ready["edge-1"]), alice) as hers,
            line(websocket_url(ready["edge-2"]), bob) as his,
        ):
            ack = await hers.ask("send_message", to=bob.user_id, client_id="c1", text="hi")
            message = await his.next("message")
        statuses = [await each.terminate() for each in processes.values()]

    assert ack["status"] == "SENT"
    assert message["message"]["text"] == "hi"
    assert set(statuses) == {0}
    assert {path.relative_to(tmp_path) for path in (tmp_path / "data").rglob("*")} == files
