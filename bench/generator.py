"""The load generator: a process of its own on a CPU of its own. Reads a job from standard input, prints the result, both JSON."""

import asyncio
import json
import os
import sys
from collections.abc import Awaitable
from typing import Any

import uvloop

from bench.city.walk import measure_city
from bench.fanout import measure_fanout
from bench.idle import measure_idle
from bench.latency import LatencyBench, find_ceiling

_JOB_TIMEOUT_S = 900.0


async def _latency(
    urls: list[str], user_ids: list[str], tokens: list[str], server_pids: list[int], **plan: Any
) -> dict[str, object]:
    bench = LatencyBench(urls, user_ids, tokens, server_pids)
    await bench.open()
    try:
        await bench.introduce()
        runs, highest, half = await find_ceiling(bench, **plan)
    finally:
        await bench.close()
    return {"runs": runs, "highest_load_per_s": highest, "half_load": half}


def _start(name: str, arguments: dict[str, Any]) -> Awaitable[dict[str, object]]:
    if name == "latency":
        return _latency(**arguments)
    if name == "fanout":
        return measure_fanout(**arguments)
    if name == "city":
        return measure_city(**arguments)
    if name == "idle":
        return measure_idle(**arguments)
    raise ValueError(f"no job {name}")


def main() -> None:
    """See the module."""
    job = json.load(sys.stdin)
    os.sched_setaffinity(0, {job["cpu"]})
    json.dump(uvloop.run(_started(job["name"], job["arguments"])), sys.stdout)


async def _started(name: str, arguments: dict[str, Any]) -> dict[str, object]:
    return await _start(name, arguments)


async def generate(name: str, cpu: int, **arguments: Any) -> dict[str, Any]:
    """Runs a job in a generator process."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "bench.generator", stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    job = json.dumps({"name": name, "cpu": cpu, "arguments": arguments}).encode()
    async with asyncio.timeout(_JOB_TIMEOUT_S):
        out, _ = await process.communicate(job)
    if process.returncode:
        raise RuntimeError(f"the generator failed at {name}")
    result: dict[str, Any] = json.loads(out)
    return result


if __name__ == "__main__":
    main()
