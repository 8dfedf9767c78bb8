"""Certificates as an operator uses them: made by `hither certs`, given to `hither up`, presented by `hither status`."""

import asyncio
import json
import os
from pathlib import Path

from tests.support.runner import HITHER, running_hither

WAIT_S = 60.0


async def run(*arguments: str, **variables: str) -> tuple[int, str]:
    """The exit status of a command, and all that it said."""
    process = await asyncio.create_subprocess_exec(
        *arguments, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT, env={**os.environ, **variables}
    )
    out, _ = await asyncio.wait_for(process.communicate(), WAIT_S)
    assert process.returncode is not None
    return process.returncode, out.decode()


def certificate(pki: Path, name: str) -> dict[str, str]:
    return {
        "HITHER_TLS_CA": f"{pki}/ca.pem",
        "HITHER_TLS_CERT": f"{pki}/{name}.pem",
        "HITHER_TLS_KEY": f"{pki}/{name}.key",
    }


async def test_a_process_with_certificates_tells_its_status_to_an_operator_only(tmp_path: Path) -> None:
    pki, data = tmp_path / "pki", tmp_path / "data"
    made, said = await run(str(HITHER), "certs", "--out", str(pki), "hither", "admin")
    assert (made, said.split()) == (0, [f"{pki}/hither.pem", f"{pki}/admin.pem"])
    status = (str(HITHER), "status", "--data", str(data))

    async with running_hither(data, certificate(pki, "hither")) as server:
        as_operator = await run(*status, **certificate(pki, "admin"))
        as_process = await run(*status, **certificate(pki, "hither"))
        as_nobody = await run(*status)
        address = json.loads((data / "run.json").read_text())["grpc_address"]
        by_buf = await run(
            str(HITHER.parent / "buf"), "curl", "--protocol", "grpc", "--data", "{}",
            "--cacert", f"{pki}/ca.pem", "--cert", f"{pki}/admin.pem", "--key", f"{pki}/admin.key",
            f"https://{address}/hither.mesh.v1.StatusService/GetStatus",
        )  # fmt: skip
        log = server.log()

    assert as_operator[0] == 0
    assert "hither.messaging.v1.MessagingService" in as_operator[1]
    assert as_process[0] != 0
    assert "ACCESS_DENIED" in as_process[1]
    assert as_nobody[0] != 0
    assert by_buf[0] == 0
    assert f"{pki}/hither.key" in log
    assert "PRIVATE KEY" not in log
    assert (pki / "hither.key").read_text().splitlines()[1] not in log


async def test_certificates_that_do_not_hold_are_refused_at_start(tmp_path: Path) -> None:
    up = (str(HITHER), "up", "--port", "0", "--data", str(tmp_path / "data"))

    half = await run(*up, HITHER_TLS_CA="/pki/ca.pem")
    missing = await run(*up, **certificate(tmp_path, "hither"))

    assert half[0] != 0
    assert "tls: ca, cert and key go together" in half[1]
    assert missing[0] != 0
    assert f"{tmp_path}/ca.pem: No such file" in missing[1]


async def test_certs_says_what_it_will_not_do(tmp_path: Path) -> None:
    certs = (str(HITHER), "certs", "--out", str(tmp_path))
    await run(*certs, "--cluster", "blue", "--host", "edge.example", "--days", "7", "edge")

    other = await run(*certs, "--cluster", "green", "edge")
    unknown = await run(*certs, "kitchen")
    too_long = await run(*certs, "--days", "9999", "edge")

    assert (other[0], other[1]) == (1, f"Error: the authority in {tmp_path} is of cluster blue, not green\n")
    assert unknown[0] == 1
    assert "kitchen in hither: no such name" in unknown[1]
    assert too_long[0] == 2
