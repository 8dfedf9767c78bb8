"""`python -m bench.ring [--quick]`: simulates, prints the tables, writes `bench/results/ring.md` and `ring.svg`."""

import argparse
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from fractions import Fraction
from pathlib import Path

from bench.processes import machine
from bench.report import RESULTS
from bench.ring.report import write_report
from bench.ring.simulation import FULL, QUICK, Fleets, RingMoves, Size, measure, ring_moves

_SWEEP = Size(100, fleets=20, events=10, slow_events=0, keys=0, lookups=0, rebuilds=0)
_QUICK_SWEEP = Size(100, fleets=2, events=2, slow_events=0, keys=0, lookups=0, rebuilds=0)


def sweep(size: Size) -> list[RingMoves]:
    """The ring with more and fewer partitions and points, and with other bounds; and with 256 partitions for 10 instances."""
    small = Size(10, size.fleets * 4, size.events, 0, 0, 0, 0)
    return [
        ring_moves(small, 256),
        *(ring_moves(size, partitions) for partitions in (256, 512, 1_024, 2_048, 4_096, 8_192, 16_384)),
        *(ring_moves(size, 8_192, points=points) for points in (16, 32, 64, 256)),
        *(ring_moves(size, 8_192, bound=bound) for bound in (Fraction(11, 10), Fraction(3, 2))),
    ]


def simulate(sizes: Sequence[Size]) -> list[Fleets]:
    """All sizes of fleet, one after the other."""
    fleets = []
    for size in sizes:
        print(f"-- {size.instances:,} instances", file=sys.stderr, flush=True)
        fleets.append(measure(size))
    return fleets


def main(arguments: Sequence[str] | None = None) -> None:
    """See the module."""
    parser = argparse.ArgumentParser(prog="python -m bench.ring", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="some ten seconds instead of minutes; small fleets only")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for the results (default: bench/results)")
    options = parser.parse_args(arguments)
    started_s = time.monotonic()
    fleets = simulate(QUICK if options.quick else FULL)
    swept = sweep(_QUICK_SWEEP if options.quick else _SWEEP)
    took = f"{time.monotonic() - started_s:.0f} s"
    date = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    mode = "quick" if options.quick else "full"
    print(
        write_report(f"Simulated {date} ({mode} mode, {took}) on {machine()}, one process.", fleets, swept, options.out)
    )


if __name__ == "__main__":
    main()
