"""One message to 1,000 connections of one group, beside a bare loop of socket writes to as many sockets."""

import asyncio
import json
import resource
import sys
import time
from statistics import median

from bench.peer import Peer, connect_peers, disconnect
from bench.processes import cpu_s

_DEADLINE_S = 30.0
_FLOOR_READY = b"ready\n"


class _Count:
    """Counts message frames; `reached` waits for a number of them."""

    def __init__(self) -> None:
        self.frames = 0
        self.size = 0
        self._goal = 0
        self._there = asyncio.Event()

    def on_frame(self, _peer: Peer, data: bytes) -> None:
        if not data.startswith(b'{"type":"message",'):
            return
        self.frames += 1
        self.size = len(data)
        if self.frames >= self._goal:
            self._there.set()

    async def reached(self, goal: int) -> None:
        self._goal = goal
        self._there.clear()
        if self.frames < goal:
            async with asyncio.timeout(_DEADLINE_S):
                await self._there.wait()


async def measure_fanout(
    url: str, tokens: list[str], conversation_id: str, server_pid: int, *, rounds: int, burst: int, floor_cpu: int
) -> dict[str, object]:
    """CPU of the server for each delivery, of single messages and of bursts, and that of the floor."""
    count = _Count()
    peers = await connect_peers([url], tokens, count.on_frame)
    await _send(peers[0], conversation_id, 0, count, len(peers))  # warm
    single_us, spread_ms, share = await _rounds(peers, conversation_id, count, server_pid, rounds=rounds, burst=1)
    burst_us, _, _ = await _rounds(
        peers, conversation_id, count, server_pid, rounds=max(2, rounds // burst), burst=burst
    )
    size = count.size
    disconnect(peers)
    floor_us = await _measure_floor(len(peers), size, rounds=max(20, rounds), cpu=floor_cpu)
    return {
        "connections": len(peers),
        "frame_bytes": size,
        "rounds": rounds,
        "server_us_per_delivery": single_us,
        "burst": burst,
        "server_us_per_delivery_in_bursts": burst_us,
        "floor_us_per_write": floor_us,
        "ratio": single_us / floor_us,
        "all_reached_ms_median": median(spread_ms),
        "all_reached_ms_max": max(spread_ms),
        "generator_share": share,
    }


async def _rounds(
    peers: list[Peer], conversation_id: str, count: _Count, server_pid: int, *, rounds: int, burst: int
) -> tuple[float, list[float], float]:
    spread_ms: list[float] = []
    server_s, own_s, begun_s = cpu_s(server_pid), _own_cpu_s(), time.perf_counter()
    for number in range(rounds):
        sent_s = time.perf_counter()
        await _send(peers[0], conversation_id, number, count, len(peers), burst=burst)
        spread_ms.append((time.perf_counter() - sent_s) * 1000)
    wall_s = time.perf_counter() - begun_s
    deliveries = rounds * burst * len(peers)
    return (cpu_s(server_pid) - server_s) / deliveries * 1e6, spread_ms, (_own_cpu_s() - own_s) / wall_s


async def _send(
    peer: Peer, conversation_id: str, number: int, count: _Count, receivers: int, *, burst: int = 1
) -> None:
    goal = count.frames + burst * receivers
    for part in range(burst):
        name = f"{time.monotonic_ns()}-{number}-{part}"
        frame = {
            "type": "send_message",
            "id": name,
            "client_id": name,
            "conversation_id": conversation_id,
            "text": "x" * 100,
        }
        peer.send(json.dumps(frame).encode())
    await count.reached(goal)


def _own_cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


class _Sink(asyncio.Protocol):
    def __init__(self) -> None:
        self.size = 0

    def data_received(self, data: bytes) -> None:
        self.size += len(data)


async def _measure_floor(connections: int, size: int, *, rounds: int, cpu: int) -> float:
    """CPU of a process that does nothing but write `size` bytes to each socket in turn, for each write, in microseconds."""
    floor = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "bench.floor", str(connections), str(size), str(rounds), str(cpu),
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert floor.stdin is not None
    assert floor.stdout is not None
    async with asyncio.timeout(4 * _DEADLINE_S):
        port = int(await floor.stdout.readline())
        loop = asyncio.get_running_loop()
        sinks = [(await loop.create_connection(_Sink, "127.0.0.1", port))[0] for _ in range(connections)]
        if await floor.stdout.readline() != _FLOOR_READY:
            raise RuntimeError("the floor did not get its connections")
        floor.stdin.write(b"go\n")
        per_write_us = float(await floor.stdout.readline())
        for transport in sinks:
            transport.close()
        await floor.wait()
    return per_write_us
