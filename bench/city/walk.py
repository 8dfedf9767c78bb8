"""The city's people connect to a real server, and report their places to it: how long a friend waits for a place, and what one costs.

Open loop, as in bench.latency: an update is due at a fixed time, whatever became of those before it.
"""

import asyncio
import itertools
import time
from dataclasses import asdict, dataclass
from typing import Final

from hdrh.histogram import HdrHistogram

from bench.city.streets import Streets
from bench.peer import Peer, connect_peers, disconnect, field
from bench.processes import cpu_s

_TICK_S: Final = 0.001
_DRAIN_S: Final = 2.0
_SETTLE_S: Final = 5.0
_HIGHEST_US: Final = 60_000_000
_CITY_S_A_ROUND: Final = 5.0
"""How far the city goes on while everybody reports once."""


@dataclass(frozen=True, slots=True)
class Walked:
    """What one offered load came to. Latencies in milliseconds, from when an update was due to when a friend has it."""

    load_per_s: float
    sent: int
    accepted: int
    shown: int
    p50_ms: float
    p99_ms: float
    server_us_per_update: float
    server_share: float


class Walk:
    """The connections of the people who are online, by their number in the city."""

    def __init__(self, url: str, online: list[int], names: list[str], tokens: list[str], server_pid: int) -> None:
        self._url = url
        self._online = online
        self._names = names
        self._tokens = tokens
        self._server_pid = server_pid
        self._peers: list[Peer] = []
        self._due_s: dict[tuple[bytes, bytes], float] = {}
        self._numbers = itertools.count(1)
        self._latencies = HdrHistogram(1, _HIGHEST_US, 3)
        self._accepted = 0
        self._shown = 0

    async def open(self) -> None:
        """Connects everybody, and lets the server find out who is whose friend."""
        self._peers = await connect_peers([self._url], self._tokens, self._on_frame)
        await asyncio.sleep(_SETTLE_S)

    async def close(self) -> None:
        """Disconnects everybody."""
        disconnect(self._peers)

    async def offer(self, city: Streets, load_per_s: float, seconds: float) -> Walked:
        """Everybody reports in turn, so many updates a second in all."""
        self._latencies.reset()
        self._accepted = self._shown = 0
        server_s, begun_s, sent = cpu_s(self._server_pid), time.perf_counter(), 0
        count = round(load_per_s * seconds)
        while sent < count:
            now_s = time.perf_counter()
            while sent < count and (due_s := begun_s + sent / load_per_s) <= now_s:
                if sent % len(self._online) == 0:
                    city.advance(_CITY_S_A_ROUND)
                    lat, lng = city.lat.tolist(), city.lng.tolist()
                turn = sent % len(self._online)
                self._report(turn, lat[self._online[turn]], lng[self._online[turn]], due_s)
                sent += 1
            await asyncio.sleep(_TICK_S)
        wall_s, server_s = time.perf_counter() - begun_s, cpu_s(self._server_pid) - server_s
        await asyncio.sleep(_DRAIN_S)
        return Walked(
            load_per_s, sent, self._accepted, self._shown,
            self._latencies.get_value_at_percentile(50) / 1000, self._latencies.get_value_at_percentile(99) / 1000,
            server_s / sent * 1e6, server_s / wall_s,
        )  # fmt: skip

    def _report(self, turn: int, lat: float, lng: float, due_s: float) -> None:
        number = next(self._numbers)
        lat += number % 1000 * 1e-9  # a tenth of a millimetre, so that each place of a person is another
        place = b"%r" % lat
        self._due_s[self._names[self._online[turn]].encode(), place] = due_s
        self._peers[turn].send(b'{"type":"location_update","id":"%d","lat":%b,"lng":%r}' % (number, place, lng))

    def _on_frame(self, peer: Peer, data: bytes) -> None:
        if data.startswith(b'{"type":"friend_location_update"'):
            due_s = self._due_s.get((field(data, b"friend_id"), _number(data, b"lat")))
            if due_s is not None:
                self._shown += 1
                waited_us = round((time.perf_counter() - due_s) * 1e6)
                self._latencies.record_value(min(_HIGHEST_US, max(1, waited_us)))
        elif data.startswith(b'{"type":"ok"'):
            self._accepted += 1


def _number(data: bytes, name: bytes) -> bytes:
    """The text of the first number of that name; empty if there is none."""
    start = data.find(b'"' + name + b'":')
    if start < 0:
        return b""
    start += len(name) + 3
    end = start
    while data[end] not in b",}":
        end += 1
    return data[start:end]


async def measure_city(
    url: str, server_pid: int, people: int, side_m: float, online: list[int], names: list[str], tokens: list[str],
    loads: list[float], seconds: float,
) -> dict[str, object]:  # fmt: skip
    """One load after the other, in a city of that size."""
    city = Streets(people, side_m=side_m)
    bench = Walk(url, online, names, tokens, server_pid)
    await bench.open()
    try:
        return {"walked": [asdict(await bench.offer(city, load, seconds)) for load in loads]}
    finally:
        await bench.close()
