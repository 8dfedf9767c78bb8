"""`python -m bench.city [--quick]`: three designs in a simulated city, and its people at a real server.

Prints the tables and writes `bench/results/city.md`, `city.json` and two pictures; and, unless quick, what `hither plan` reads of an
update's cost.
"""

import argparse
import asyncio
import json
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any, Final

from bench.__main__ import commit
from bench.city.census import settle
from bench.city.comparison import CIRCLES, FRIENDS, PEOPLE, SIZES, compare
from bench.city.decision import decide
from bench.city.report import FAR_APART, IN_A_CITY, costs, write_report
from bench.city.streets import acquaint
from bench.generator import generate
from bench.processes import cpus, machine
from bench.report import RESULTS
from bench.server import BenchServer
from services.planning.costs import LOCATION_FILE

_AT_THE_SERVER: Final = 801
SIDES_M: Final = {IN_A_CITY: 40_000.0, FAR_APART: 4_000_000.0}


async def at_a_server(loads: list[float], seconds: float, side_m: float, *, climb: bool) -> dict[str, Any]:
    """People with 400 friends each, half of them online, at `hither up`."""
    names = [f"walker{number}" for number in range(_AT_THE_SERVER)]
    online = list(range(0, _AT_THE_SERVER, 2))
    server = BenchServer()
    await settle(server.data, names, acquaint(_AT_THE_SERVER, FRIENDS))
    async with server:
        tokens = await server.tokens([names[number] for number in online])
        return await generate(
            "city", cpus()[1], url=server.url, server_pid=server.pid, people=_AT_THE_SERVER, friends=FRIENDS, side_m=side_m,
            online=online, names=names, tokens=tokens, loads=loads, seconds=seconds, climb=climb,
        )  # fmt: skip


async def measure(*, quick: bool) -> dict[str, Any]:
    """Everything, one thing after the other."""
    updates = 500 if quick else 3_000
    result: dict[str, Any] = {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "commit": commit(),
        "machine": machine(),
        "by_people": [asdict(cost) for people in SIZES for cost in compare(people, FRIENDS, updates)],
        "by_friends": [asdict(cost) for friends in CIRCLES for cost in compare(PEOPLE, friends, updates)],
        "decided": [],
        "at_a_server": {},
    }
    for name, side_m in SIDES_M.items():
        for friends in (FRIENDS // 2, FRIENDS):
            for at_once in (1, 10):
                result["decided"].append(asdict(await decide(name, friends, side_m, at_once, 4 * updates // 5)))
    for name, side_m in SIDES_M.items():
        loads, seconds = ([25.0, 100.0], 3.0) if quick else ([25.0, 100.0, 200.0], 8.0)
        result["at_a_server"][name] = await at_a_server(loads, seconds, side_m, climb=not quick)
    return result


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(prog="python -m bench.city", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a minute instead of several; coarser")
    quick = parser.parse_args().quick
    result = asyncio.run(measure(quick=quick))
    (RESULTS / "city.json").write_text(json.dumps(result, indent=1) + "\n")
    if not quick:
        LOCATION_FILE.write_text(json.dumps(costs(result), indent=1) + "\n")
    print(write_report(result, RESULTS))


if __name__ == "__main__":
    main()
