"""A process that appends until it is killed; test_log_kill runs it.

Arguments: the adapter's name in LOGS, its folder, the number of concurrent appenders. After each acknowledged append one
line "partition offset value" goes to standard output, in one write.
"""

import asyncio
import os
import sys
from itertools import count
from pathlib import Path

from services.ports.log import Log
from tests.conformance.conftest import LOGS

PARTITIONS = 4


async def append_for_ever(log: Log, name: int) -> None:
    partition = name % PARTITIONS
    for n in count():
        value = f"{name}.{n}"
        (offset,) = await log.append("t", partition, [value.encode()])
        os.write(1, f"{partition} {offset} {value}\n".encode())


async def main() -> None:
    adapter, folder, appenders = sys.argv[1:]
    log = await LOGS[adapter](Path(folder)).open()
    async with asyncio.TaskGroup() as tasks:
        for name in range(int(appenders)):
            tasks.create_task(append_for_ever(log, name))


if __name__ == "__main__":
    asyncio.run(main())
