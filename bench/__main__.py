"""`python -m bench [--quick]`: measures, prints the table, writes `bench/results/`."""

import argparse
import asyncio
import contextlib
import subprocess
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from bench.generator import generate
from bench.processes import cpus, machine
from bench.report import write_report
from bench.server import BenchServer

_USERS = 200
_MEMBERS = 100
_DEVICES = 10
_P99_MS = 50.0


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured."""

    loads: tuple[float, ...]
    warm_up_s: float
    measure_s: float
    halvings: int
    rounds: int
    idle: int


FULL = Plan((250, 500, 1000, 1500, 2000, 3000, 4000, 5000, 7000, 10000), 2.0, 8.0, 3, 100, 5000)
QUICK = Plan((250, 1000, 2000, 4000), 0.5, 2.0, 1, 20, 1000)


async def measure(plan: Plan, *, pin: bool) -> dict[str, Any]:
    """Everything, one thing after the other."""
    server_cpu, generator_cpu = cpus()
    pinned = server_cpu if pin else None
    result: dict[str, Any] = {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "commit": commit(),
        "machine": machine(),
        "server_cpu": "one CPU" if pin else "all CPUs",
        "p99_ms": _P99_MS,
        "users": _USERS,
    }
    async with BenchServer(pinned) as server:
        _say(f"latency: {_USERS} users, loads up to {max(plan.loads):g}/s")
        users = [f"user{number}" for number in range(_USERS)]
        await server.sign_up(users)
        result["latency"] = await generate(
            "latency", generator_cpu, urls=[server.url], user_ids=users, tokens=await server.tokens(users), server_pids=[server.pid],
            loads=list(plan.loads), p99_ms=_P99_MS, warm_up_s=plan.warm_up_s, measure_s=plan.measure_s, halvings=plan.halvings,
        )  # fmt: skip
    async with BenchServer(server_cpu) as server:
        _say(f"fan-out: {_MEMBERS} members x {_DEVICES} devices")
        members = [f"member{number}" for number in range(_MEMBERS)]
        await server.sign_up(members)
        tokens = [token for device in range(_DEVICES) for token in await server.tokens(members, f"device{device}")]
        group_id = await server.group(members, tokens[:_MEMBERS])
        result["fanout"] = await generate(
            "fanout", generator_cpu, url=server.url, tokens=tokens, conversation_id=group_id, server_pid=server.pid,
            rounds=plan.rounds, burst=8, floor_cpu=server_cpu,
        )  # fmt: skip
    async with BenchServer(pinned) as server:
        _say(f"idle connections: {plan.idle}")
        tokens = await server.tokens([f"idle{number}" for number in range(plan.idle)])
        result["idle"] = await generate("idle", generator_cpu, url=server.url, tokens=tokens, server_pid=server.pid)
    return result


def commit() -> str:
    """Which commit is measured; empty if that is not known."""
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        return subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()
    return ""


def _say(text: str) -> None:
    print(f"-- {text}", file=sys.stderr, flush=True)


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="about a minute instead of some four; coarser")
    parser.add_argument("--pin", action="store_true", help="keep the server on one CPU, all of its threads")
    options = parser.parse_args()
    plan = QUICK if options.quick else FULL
    result = asyncio.run(measure(plan, pin=options.pin))
    result["mode"] = "quick" if options.quick else "full"
    print(write_report(result))


if __name__ == "__main__":
    main()
