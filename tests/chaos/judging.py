"""What a fault cost the people of a storm, and whether anything is wrong after it."""

import os
import time
from pathlib import Path

from tests.chaos.storm import Storm


async def judge(storm: Storm, fault: str, since_s: float) -> None:
    """Waits until everybody's messages are acked again, reports what the fault cost, and checks everything.

    The report is printed, and appended to the file that HITHER_TEST_REPORT names.
    """
    await storm.everybody_acked(time.monotonic(), times=2)
    report(f"{fault}: {storm.figures(since_s)}")
    assert await storm.problems() == []


def report(line: str) -> None:
    """Prints the line, and appends it to the file that HITHER_TEST_REPORT names."""
    print(line)  # noqa: T201 (shown with -s, and when a test fails)
    if name := os.environ.get("HITHER_TEST_REPORT"):
        with Path(name).open("a") as file:
            file.write(line + "\n")
