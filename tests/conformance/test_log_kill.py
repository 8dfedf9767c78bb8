"""What was acknowledged is there after a kill -9, in order and once."""

import asyncio
import os
import random
import signal
import sys
from collections import defaultdict
from pathlib import Path

import pytest

from services.ports.log import Log
from tests.conformance.conftest import LOGS
from tests.conformance.log_appender import PARTITIONS

ROUNDS = 4
APPENDERS = 24


async def append_until_killed(adapter: str, folder: Path, acks: int) -> list[tuple[int, int, str]]:
    """Lets a process append, kills it once it has printed that many acks, and gives all that it printed."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.conformance.log_appender", adapter, str(folder), str(APPENDERS)),
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert process.stdout is not None
    lines: list[bytes] = []
    try:
        async with asyncio.timeout(60):
            while len(lines) < acks:
                lines.append(await process.stdout.readline())
                assert lines[-1], "the appender died by itself"
    finally:
        process.send_signal(signal.SIGKILL)
    lines += (await process.stdout.read()).splitlines(keepends=True)
    assert await process.wait() == -signal.SIGKILL
    whole = [line.decode().split() for line in lines if line.endswith(b"\n")]
    return [(int(partition), int(offset), value) for partition, offset, value in whole]


async def read_values(log: Log, partition: int) -> dict[int, str]:
    values: dict[int, str] = {}
    offset = 0
    while page := await log.read("t", partition, offset, 500):
        assert [record.offset for record in page] == sorted({record.offset for record in page} - values.keys())
        values |= {record.offset: record.value.decode() for record in page}
        offset = page[-1].offset + 1
    return values


def check_order(values: dict[int, str]) -> None:
    """Each appender of each round counted up by one, so its records stand in that order and without a gap."""
    expected: dict[str, int] = defaultdict(int)
    for value in values.values():
        name, _, n = value.partition(".")
        # A new round begins again at zero; within a round nothing may be missing, doubled or out of order.
        assert int(n) in (expected[name], 0)
        expected[name] = int(n) + 1


@pytest.mark.parametrize("adapter", list(LOGS))
async def test_every_acked_record_survives_a_kill_in_its_place(adapter: str, tmp_path: Path) -> None:
    acked: dict[tuple[int, int], str] = {}
    for round_ in range(ROUNDS):
        acks = await append_until_killed(adapter, tmp_path, random.Random(round_).randrange(1, 3_000))
        assert not {(partition, offset) for partition, offset, _ in acks} & acked.keys()
        acked |= {(partition, offset): value for partition, offset, value in acks}

    log = await LOGS[adapter](tmp_path).open()
    found = {partition: await read_values(log, partition) for partition in range(PARTITIONS)}
    await log.close()

    assert {place: found[place[0]].get(place[1]) for place in acked} == acked
    for values in found.values():
        check_order(values)
