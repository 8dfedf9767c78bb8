"""What a process has used, from /proc, and what machine it ran on. Linux only."""

import os
import platform
import time
from pathlib import Path

_CPUCLOCK_SCHED = 2
"""From the kernel's encoding of a process's clock, as clock_getcpuclockid(3) makes it."""
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def cpu_s(pid: int) -> float:
    """CPU time of a process, all threads, user and system, in seconds; exact to 10 ms."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S


def exact_cpu_s(pid: int) -> float:
    """As cpu_s, exact to much less than a microsecond: the CPU-time clock of the process."""
    return time.clock_gettime((~pid << 3) | _CPUCLOCK_SCHED)


def rss_bytes(pid: int) -> int:
    """Resident memory of a process, in bytes."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise ProcessLookupError(pid)


def cpus() -> tuple[int, int]:
    """A CPU for the server and one for the generator: two different ones where the machine has them."""
    usable = sorted(os.sched_getaffinity(0))
    return usable[0], usable[-1]


def machine() -> str:
    """The machine in a few words."""
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    memory_gib = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    usable = len(os.sched_getaffinity(0))
    return f"{usable} x {model}, {memory_gib:.0f} GiB, Linux {platform.release()}, Python {platform.python_version()}"
