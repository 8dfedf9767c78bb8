"""The process itself: it stops politely, comes back with everything, and speaks to operators and to foreign clients."""

import asyncio
import json
import os
import shutil
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.people import WAIT_S, line, sign_up, until
from tests.support.runner import HITHER, Hither, HitherProcess, StartHither, running_hither
from tests.support.servers.etcd import EtcdCluster

SERVICES = {"Messaging", "Sessions", "Presence", "Location", "Push", "Directory"}
FOREIGN = Path(__file__).parent / "foreign"


async def test_what_was_acked_survives_a_stop_and_a_start(start_hither: StartHither, tmp_path: Path) -> None:
    async with (
        start_hither(tmp_path / "data") as server,
        httpx.AsyncClient(base_url=server.url, timeout=WAIT_S) as http,
    ):
        alice, bob = await sign_up(http, "alice"), await sign_up(http, "bob")
        async with line(server.websocket_url, alice) as hers:
            ack = await hers.ask("send_message", to=bob.user_id, client_id="c", text="keep me")
            stopping = asyncio.create_task(server.terminate())
            reconnect = await hers.next("reconnect")
            code, _ = await hers.closed()
        assert await stopping == 0
        assert int(reconnect["after_ms"]) >= 0
        assert reconnect["resume_token"]
        assert code == 4001
        await server.start()
        async with line(server.websocket_url, bob, cursor=0) as his:
            event = await his.next("message")
        async with line(server.websocket_url, alice) as hers:
            again = await hers.ask("send_message", to=bob.user_id, client_id="c", text="keep me")
    assert event["message"]["message_id"] == ack["message_id"]
    assert (again["message_id"], again["seq"]) == (ack["message_id"], ack["seq"])


async def test_a_resume_token_opens_the_next_connection(start_hither: StartHither, tmp_path: Path) -> None:
    async with start_hither(tmp_path / "data") as server:
        async with httpx.AsyncClient(base_url=server.url, timeout=WAIT_S) as http:
            alice = await sign_up(http, "alice")
        async with line(server.websocket_url, alice) as hers:
            stopping = asyncio.create_task(server.terminate())
            resume_token = (await hers.next("reconnect"))["resume_token"]
            await hers.closed()
        await stopping
        await server.start()
        resumed = type(alice)(alice.user_id, resume_token, http)
        async with line(server.websocket_url, resumed) as hers:
            await hers.send("ping", timestamp=1)
            assert (await hers.next("pong"))["timestamp"] == 1


async def test_a_second_process_is_kept_off_embedded_data(tmp_path: Path) -> None:
    async with running_hither(tmp_path / "data"):
        second = await asyncio.create_subprocess_exec(
            HITHER, "up", "--port", "0", "--data", str(tmp_path / "data"), stderr=asyncio.subprocess.PIPE
        )
        _, err = await asyncio.wait_for(second.communicate(), WAIT_S)
    assert second.returncode == 1
    assert b"another process runs on" in err


async def all_rows_of_status(hither: Hither) -> list[list[str]]:
    """Service, instance, address, zone, state, load, owned, "of", partitions."""
    return [line.split() for line in (await hither.run("status")).splitlines() if line.startswith("hither.")]


async def rows_of_status(hither: Hither) -> list[list[str]]:
    """The same without the edges."""
    return [row for row in await all_rows_of_status(hither) if not row[0].startswith("hither.edge.")]


async def test_status_shows_every_service_serving_and_every_partition_owned(hither: Hither) -> None:
    rows = await rows_of_status(hither)
    assert {row[0].rpartition(".")[2].removesuffix("Service") for row in rows} == SERVICES
    assert {row[4] for row in rows} == {"SERVING"}
    messaging = [row for row in rows if row[0] == "hither.messaging.v1.MessagingService"]
    assert sum(int(row[6]) for row in messaging) == int(messaging[0][8])


async def test_health_metrics_and_documents_are_served(http: httpx.AsyncClient) -> None:
    for path, says in (
        ("/healthz", "alive"),
        ("/readyz", "ready"),
        ("/metrics", "hither_"),
        ("/docs", "send_message"),
        ("/api/v1/openapi.json", "/api/v1/conversations/{conversation_id}/messages"),
        ("/api/v1/asyncapi.json", "send_message"),
    ):
        answer = await http.get(path)
        assert answer.status_code == 200, path
        assert says in answer.text, path


async def test_keys_are_readable_by_their_owner_alone(hither: Hither) -> None:
    for name in ("signing.pem", "resume.key"):
        assert (hither.data / "keys" / name).stat().st_mode & 0o077 == 0


async def test_a_foreign_client_speaks_the_json_frames(
    hither: Hither, http: httpx.AsyncClient, require: Callable[[bool, str], None]
) -> None:
    require(shutil.which("node") is not None, "node is not installed")
    require((FOREIGN / "node_modules" / "ws").is_dir(), "npm ci has not been run in tests/scenarios/foreign")
    alice, bob = await sign_up(http, "alice"), await sign_up(http, "bob")
    node = await asyncio.create_subprocess_exec(
        "node", str(FOREIGN / "talk.js"), hither.websocket_url, alice.token, bob.token, bob.user_id,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = await asyncio.wait_for(node.communicate(), WAIT_S * 2)
    assert node.returncode == 0, err.decode()
    frames = json.loads(out)
    assert frames["ack"]["status"] == "SENT"
    assert frames["message"]["message"]["text"] == "from a foreign client"
    assert frames["message"]["message"]["seq"] == frames["ack"]["seq"]
    assert frames["pong"]["timestamp"] == 1790000000000
    assert frames["seen"]["status"] == "SEEN"
    assert frames["page"]["messages"][0]["message_id"] == frames["ack"]["message_id"]
    assert frames["error"]["reason"] == "UNKNOWN_TYPE"


async def buf_curl(address: str, method: str, token: str, request: object) -> Any:
    """The answer to a call by reflection."""
    buf = await asyncio.create_subprocess_exec(
        HITHER.parent / "buf", "curl", "--protocol", "grpc", "--http2-prior-knowledge",
        "--header", f"authorization: Bearer {token}", "--data", json.dumps(request), f"http://{address}/{method}",
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = await asyncio.wait_for(buf.communicate(), WAIT_S * 2)
    assert buf.returncode == 0, err.decode()
    return json.loads(out)


async def test_buf_curl_calls_an_internal_service_by_reflection(hither: Hither, http: httpx.AsyncClient) -> None:
    alice = await sign_up(http, "alice")
    service = (await hither.run("token", "operator", "--role", "service")).strip()
    address = next(row[2] for row in await rows_of_status(hither) if row[0].endswith("DirectoryService"))
    method = "hither.directory.v1.DirectoryService/ListFriendIds"
    assert await buf_curl(address, method, service, {"userId": alice.user_id}) == {}


async def test_buf_curl_reaches_any_instance(hither: Hither) -> None:
    admin = (await hither.run("token", "operator", "--role", "admin")).strip()
    rows = await rows_of_status(hither)
    for address in {row[2] for row in rows}:
        answer = await buf_curl(address, "hither.mesh.v1.StatusService/GetStatus", admin, {})
        assert len([one for one in answer["instances"] if "Deliver" not in one["instance"]["service"]]) == len(rows)
        health = await buf_curl(address, "grpc.health.v1.Health/Check", admin, {})
        assert health == {"status": "SERVING"}


@pytest.mark.parametrize("arguments", [("up", "--host", "0.0.0.0"), ("up", "--config", "pyproject.toml")])
async def test_an_unsafe_or_unknown_setting_is_refused(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    process = await asyncio.create_subprocess_exec(
        HITHER, *arguments, "--port", "0", "--data", str(tmp_path / "data"), stderr=asyncio.subprocess.PIPE
    )
    _, err = await asyncio.wait_for(process.communicate(), WAIT_S)
    assert process.returncode == 1
    assert b"TLS" in err or b"no section" in err


async def edge_ids(server: Hither) -> set[str]:
    return {row[1] for row in await all_rows_of_status(server) if row[0].startswith("hither.edge.") and row[2] != "-"}


async def test_edges_beside_the_services_share_the_port_and_come_back_when_killed(tmp_path: Path) -> None:
    async with running_hither(tmp_path / "data", None, "--edges", "2") as server:
        async with httpx.AsyncClient(base_url=server.url, timeout=WAIT_S) as http:
            alice, bob = await sign_up(http, "alice"), await sign_up(http, "bob")
        before = await edge_ids(server)
        assert len(before) == 2

        os.kill(server.children()[0], signal.SIGKILL)

        async def came_back() -> bool:
            now = await edge_ids(server)
            return len(now - before) == 1

        await until(came_back)
        async with line(server.websocket_url, alice) as hers, line(server.websocket_url, bob) as his:
            await hers.ask("send_message", to=bob.user_id, client_id="c", text="across")
            assert await his.texts(1) == ["across"]
        edges = server.children()
        await server.kill()
        await until(lambda: all_are_gone(edges))


async def all_are_gone(pids: Sequence[int]) -> bool:
    return all(map(is_gone, pids))


def is_gone(pid: int) -> bool:
    """Whether the process has ended; nobody may have asked yet how."""
    try:
        return not Path(f"/proc/{pid}/cmdline").read_bytes()
    except FileNotFoundError:
        return True


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("serve", "messaging", "--registry", "etcd://127.0.0.1:1"), b"need engines that they can share"),
        (("edge",), b"find each other in a registry"),
        (("edge", "--registry", "http://127.0.0.1:1"), b"registry is"),
    ],
)
async def test_processes_that_could_not_work_together_do_not_start(
    tmp_path: Path, arguments: tuple[str, ...], says: bytes
) -> None:
    process = await asyncio.create_subprocess_exec(
        HITHER, *arguments, "--data", str(tmp_path / "data"), stderr=asyncio.subprocess.PIPE
    )
    _, err = await asyncio.wait_for(process.communicate(), WAIT_S)
    assert process.returncode == 1
    assert says in err


async def test_an_edge_is_not_ready_while_nobody_takes_messages(etcd_cluster: EtcdCluster, tmp_path: Path) -> None:
    registry = f"etcd://{','.join(etcd_cluster.endpoints)}"
    edge = HitherProcess(("edge", "--registry", registry, "--data", str(tmp_path / "data")), tmp_path / "log", {})
    url = await edge.start("--port", "0")
    try:
        async with httpx.AsyncClient(base_url=url, timeout=WAIT_S) as http:
            alive, ready = await http.get("/healthz"), await http.get("/readyz")
    finally:
        await edge.kill()
    assert alive.status_code == 200
    assert (ready.status_code, ready.json()["parts"]["mesh"]) == (503, "no messaging instance serves")
