"""A client that this project did not write: buf, which learns the contract by reflection."""

import asyncio
import json
import sys
from pathlib import Path

from discovery.registry.embedded import EmbeddedRegistry
from tests.support.cluster import CLUSTER, MESSAGING, PARTITIONS, Keys, running_process

BUF = Path(sys.executable).parent / "buf"


async def buf_curl(address: str, method: str, token: str, body: dict[str, object]) -> tuple[int, dict[str, object]]:
    process = await asyncio.create_subprocess_exec(
        str(BUF),
        "curl",
        *("--protocol", "grpc", "--http2-prior-knowledge", "--reflect"),
        *("--header", f"authorization: Bearer {token}"),
        *("--data", json.dumps(body)),
        f"http://{address}/{method}",
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode is not None
    return process.returncode, json.loads(out or err)


async def test_buf_curl_reads_the_status_by_reflection() -> None:
    keys = Keys()
    async with running_process(EmbeddedRegistry(), keys, "served") as process:
        admin = keys.sign(sub="ops", rol="admin")

        code, answer = await buf_curl(process.server.address, "hither.mesh.v1.StatusService/GetStatus", admin, {})

    assert code == 0
    assert (answer["cluster"], answer["partitions"]) == (CLUSTER, PARTITIONS)


async def test_buf_curl_calls_a_service_in_a_users_name() -> None:
    keys = Keys()
    body: dict[str, object] = {"to": "bob", "client_id": "1", "text": "hi"}
    async with running_process(EmbeddedRegistry(), keys, "served") as process:
        code, answer = await buf_curl(process.server.address, f"{MESSAGING}/SendMessage", keys.sign(), body)

    assert (code, answer) == (0, {})
    assert process.servicer.seen[0][1].caller.user_id == "alice"


async def test_buf_curl_is_told_what_was_wrong() -> None:
    keys = Keys()
    async with running_process(EmbeddedRegistry(), keys, "served") as process:
        code, answer = await buf_curl(process.server.address, f"{MESSAGING}/SendMessage", keys.sign(), {"to": "bob"})

    assert code != 0
    assert answer["code"] == "invalid_argument"
    assert "client_id" in str(answer["message"])
