"""`python -m bench.apart`: a direct message's latency by offered load where everything runs apart, on real engines.

Three etcd members, Kafka, Cassandra, PostgreSQL, Redis, the processes of Hither and the load generator share this machine.
Prints a table and writes it to `bench/results/apart.md`, with every percentile in `apart.json`.
"""

import argparse
import asyncio
import json
import sys
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.__main__ import commit
from bench.generator import generate
from bench.processes import cpus, machine
from bench.report import RESULTS, load_row, p50_p99
from bench.server import RAISED_LIMITS, sign_up
from tests.support.apart import SERVICES, TWO_OF_ALL, Servers, running_cluster, running_servers

_USERS = 200
_P99_MS = 100.0
_LOADS = (100, 200, 300, 400, 600, 800, 1000, 1500, 2000)
_LAYOUTS: dict[str, tuple[Sequence[Sequence[str]], int]] = {
    "one process of services, one edge": ((SERVICES,), 1),
    "two processes of all services, two edges": (TWO_OF_ALL, 2),
}


async def measure(servers: Servers, folder: Path, layout: str, *, warm_up_s: float, measure_s: float) -> dict[str, Any]:
    """The latencies of one layout, by load."""
    services, edges = _LAYOUTS[layout]
    async with running_cluster(folder / layout / "data", servers, RAISED_LIMITS, services, edges) as cluster:
        users = [f"user{number}" for number in range(_USERS)]
        await sign_up(cluster.url, users)
        tokens = (await cluster.run("token", *users, "--device", "bench")).split()
        pids = [process.pid for process in cluster.processes.values()]
        return await generate(
            "latency", cpus()[1], urls=cluster.urls, user_ids=users, tokens=tokens, server_pids=pids,
            loads=list(_LOADS), p99_ms=_P99_MS, warm_up_s=warm_up_s, measure_s=measure_s, halvings=2,
        )  # fmt: skip


def render(result: dict[str, Any]) -> str:
    """A table for each layout."""
    text = (
        f"Measured {result['date']} at {result['commit'] or 'an unknown commit'} on {result['machine']}, which three etcd members, "
        "Kafka, Cassandra, PostgreSQL, Redis, all processes of Hither and the load generator share. "
        f"{_USERS} users in pairs, texts of 100 bytes, JSON frames, every ack durable in Kafka; open loop, latency from the "
        "intended send time.\n"
    )
    for layout, found in result["layouts"].items():
        text += (
            f"\n## {layout[0].upper()}{layout[1:]}\n| what | measured | ceiling | generator CPU |\n|---|---|---|---|\n"
        )
        for run in sorted(found["runs"], key=lambda run: float(run["load_per_s"])):
            text += f"| {' | '.join(load_row(run, _P99_MS))} |\n"
        text += f"| highest load with p99 < {_P99_MS:g} ms | **{found['highest_load_per_s']:g} messages/s** | | |\n"
        if half := found["half_load"]:
            text += (
                f"| send -> ack at half of it ({half['load_per_s']:g}/s) | {p50_p99(half['ack_ms'])} | | |\n"
                f"| send -> recipient at half of it | **{p50_p99(half['delivery_ms'])}** | p99 {_P99_MS:g} ms | |\n"
                f"| CPU of Hither's processes for each message | {half['server_us_per_message']:.0f} us | | |\n"
            )
    return text


async def run(*, warm_up_s: float, measure_s: float) -> dict[str, Any]:
    """All layouts, one after the other, on the same servers."""
    result: dict[str, Any] = {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "commit": commit(),
        "machine": machine(),
        "layouts": {},
    }
    with tempfile.TemporaryDirectory(prefix="hither-bench-") as name, running_servers(Path(name)) as servers:
        for layout in _LAYOUTS:
            print(f"-- {layout}", file=sys.stderr, flush=True)
            (Path(name) / layout).mkdir()
            result["layouts"][layout] = await measure(
                servers, Path(name), layout, warm_up_s=warm_up_s, measure_s=measure_s
            )
    return result


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(prog="python -m bench.apart", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="coarser")
    quick = parser.parse_args().quick
    result = asyncio.run(run(warm_up_s=1.0 if quick else 3.0, measure_s=3.0 if quick else 10.0))
    (RESULTS / "apart.json").write_text(json.dumps(result, indent=1) + "\n")
    markdown = render(result)
    (RESULTS / "apart.md").write_text(markdown)
    print(markdown)


if __name__ == "__main__":
    main()
