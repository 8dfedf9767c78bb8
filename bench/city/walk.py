"""The city's people connect to a real server, and report their places to it: how long a friend waits for a place, and what one costs.

Open loop, as in bench.latency: an update is due at a fixed time, whatever became of those before it. The generator knows where
everybody is, so it knows which friends an update is to reach: those it waits for, and nobody else's event counts as one. (A viewer
who moves is told anew of friends whose places are old by then; that is no answer to their updates.)
"""

import asyncio
import itertools
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Final

import numpy as np
from hdrh.histogram import HdrHistogram

from bench.city.designs import RADIUS_M
from bench.city.streets import People, Streets, acquaint
from bench.peer import Peer, connect_peers, disconnect, field
from bench.processes import exact_cpu_s

_TICK_S: Final = 0.001
_DRAIN_S: Final = 2.0
_IDLE_S: Final = 5.0
_HIGHEST_US: Final = 60_000_000
_CITY_S_A_ROUND: Final = 5.0
"""How far the city goes on while everybody reports once."""
_CLEARLY_NEAR: Final = float(np.cos((RADIUS_M - 20.0) / 6_371_008.8))
_GOOD_P99_MS: Final = 1_000.0
_CLIMB: Final = 1.3
_FULL: Final = 0.85
"""Of a CPU: nothing more is to be had."""


@dataclass(frozen=True, slots=True)
class Sent:
    """What frames of one kind came to: CPU of the server for each, with what it uses when nothing is sent taken off, and shares of a
    CPU as they were.
    """

    sent: int
    answered: int
    server_us: float
    server_share: float
    generator_share: float


@dataclass(frozen=True, slots=True)
class Walked:
    """What one offered load came to. Latencies in milliseconds, from when an update was due to when a friend has it."""

    load_per_s: float
    updates: Sent
    expected: int
    """Friends that updates were to reach."""
    reached: int
    told: int
    """Events in all, those included that a viewer's own move made."""
    p50_ms: float
    p99_ms: float
    longest_ms: float
    ping: Sent | None
    call: Sent | None


class Walk:
    """The connections of the people who are online, by their number in the city."""

    def __init__(
        self, url: str, people: int, friends: int, online: list[int], names: list[str], tokens: list[str], server_pid: int
    ) -> None:  # fmt: skip
        self._url = url
        self._online = online
        self._names = [names[person].encode() for person in online]
        self._tokens = tokens
        self._server_pid = server_pid
        self._peers: list[Peer] = []
        turns = {person: turn for turn, person in enumerate(online)}
        circles = acquaint(people, friends)
        self._friends: list[People] = [
            np.array([turns[other] for other in circles[person].tolist() if other in turns]) for person in online
        ]
        self._vectors = np.zeros((len(online), 3))
        self._waiting: dict[tuple[bytes, bytes], tuple[float, set[int]]] = {}
        self._numbers = itertools.count(1)
        self._latencies = HdrHistogram(1, _HIGHEST_US, 3)
        self._answered = self._expected = self._reached = self._told = 0
        self._idle_share = 0.0

    async def open(self) -> float:
        """Connects everybody; returns how many seconds that took."""
        begun_s = time.perf_counter()
        self._peers = await connect_peers([self._url], self._tokens, self._on_frame)
        return time.perf_counter() - begun_s

    async def close(self) -> None:
        """Disconnects everybody."""
        disconnect(self._peers)

    async def rest(self) -> float:
        """Sends nothing for a while; the share of a CPU that the server uses meanwhile."""
        begun_s, server_s = time.perf_counter(), exact_cpu_s(self._server_pid)
        await asyncio.sleep(_IDLE_S)
        self._idle_share = (exact_cpu_s(self._server_pid) - server_s) / (time.perf_counter() - begun_s)
        return self._idle_share

    async def ping(self, load_per_s: float, seconds: float) -> Sent:
        """Frames that the edge answers by itself."""
        return await self._send(load_per_s, seconds, lambda turn, _: self._peers[turn].send(b'{"type":"ping"}'))

    async def call(self, load_per_s: float, seconds: float) -> Sent:
        """Frames that a service is called for, which finds that nothing has changed."""

        def report(turn: int, _: float) -> None:
            self._peers[turn].send(b'{"type":"set_presence","id":"%d","status":"ONLINE"}' % next(self._numbers))

        return await self._send(load_per_s, seconds, report)

    async def offer(
        self, city: Streets, load_per_s: float, seconds: float, ping: Sent | None = None, call: Sent | None = None
    ) -> Walked:
        """Everybody reports in turn, so many updates a second in all."""
        self._latencies.reset()
        self._waiting.clear()
        self._expected = self._reached = self._told = 0
        places: list[tuple[float, float]] = []

        def report(turn: int, due_s: float) -> None:
            if turn == 0:
                city.advance(_CITY_S_A_ROUND)
                places[:] = zip(city.lat.tolist(), city.lng.tolist(), strict=True)
            self._report(turn, *places[self._online[turn]], due_s)

        updates = await self._send(load_per_s, seconds, report)
        p50_ms, p99_ms, longest_ms = (self._latencies.get_value_at_percentile(at) / 1000 for at in (50, 99, 100))
        return Walked(
            load_per_s, updates, self._expected, self._reached, self._told, p50_ms, p99_ms, longest_ms, ping, call
        )

    async def _send(self, load_per_s: float, seconds: float, send: Callable[[int, float], None]) -> Sent:
        """Has one after the other send, so many a second, and waits for answers a little longer."""
        self._answered = 0
        server_s, own_s = exact_cpu_s(self._server_pid), time.process_time()
        begun_s, sent, count = time.perf_counter(), 0, round(load_per_s * seconds)
        while sent < count:
            now_s = time.perf_counter()
            while sent < count and (due_s := begun_s + sent / load_per_s) <= now_s:
                send(sent % len(self._online), due_s)
                sent += 1
            await asyncio.sleep(_TICK_S)
        busy_s, own_s = time.perf_counter() - begun_s, time.process_time() - own_s
        await asyncio.sleep(_DRAIN_S)
        wall_s, server_s = time.perf_counter() - begun_s, exact_cpu_s(self._server_pid) - server_s
        net_s = server_s - self._idle_share * wall_s
        return Sent(sent, self._answered, net_s / sent * 1e6, (net_s / busy_s) + self._idle_share, own_s / busy_s)

    def _report(self, turn: int, lat: float, lng: float, due_s: float) -> None:
        number = next(self._numbers)
        lat += number % 1000 * 1e-9  # a tenth of a millimetre, so that each place of a person is another
        phi, theta = np.radians(lat), np.radians(lng)
        vector = self._vectors[turn] = np.cos(phi) * np.cos(theta), np.cos(phi) * np.sin(theta), np.sin(phi)
        friends = self._friends[turn]
        near = set(friends[self._vectors[friends] @ vector >= _CLEARLY_NEAR].tolist())
        place = b"%r" % lat
        self._waiting[self._names[turn], place] = due_s, near
        self._expected += len(near)
        self._peers[turn].send(b'{"type":"location_update","id":"%d","lat":%b,"lng":%r}' % (number, place, lng))

    def _on_frame(self, peer: Peer, data: bytes) -> None:
        if data.startswith(b'{"type":"friend_location_update"'):
            self._told += 1
            due_s, near = self._waiting.get((field(data, b"friend_id"), _number(data, b"lat")), (0.0, _NOBODY))
            if peer.index in near:
                near.discard(peer.index)
                self._reached += 1
                waited_us = round((time.perf_counter() - due_s) * 1e6)
                self._latencies.record_value(min(_HIGHEST_US, max(1, waited_us)))
        elif data.startswith((b'{"type":"ok"', b'{"type":"pong"')):
            self._answered += 1


_NOBODY: set[int] = set()


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


def _is_held(run: Walked) -> bool:
    """Whether more may be tried."""
    updates = run.updates
    return (
        run.p99_ms < _GOOD_P99_MS
        and run.reached >= 0.99 * run.expected
        and updates.answered == updates.sent
        and max(updates.server_share, updates.generator_share) < _FULL
    )


async def measure_city(
    url: str, server_pid: int, people: int, friends: int, side_m: float, online: list[int], names: list[str],
    tokens: list[str], loads: list[float], seconds: float, climb: bool,
) -> dict[str, object]:  # fmt: skip
    """At once after everybody has connected, then one load after the other, in a city of that size; with `climb` on to the highest
    load with a good p99.
    """
    city = Streets(people, side_m=side_m)
    bench = Walk(url, people, friends, online, names, tokens, server_pid)
    connect_s = await bench.open()
    try:
        cold_load_per_s = 100.0
        cold = await bench.offer(city, cold_load_per_s, len(online) / cold_load_per_s)
        await asyncio.sleep(_DRAIN_S)
        idle_share = await bench.rest()
        walked = []
        for load in loads:
            ping = await bench.ping(load, seconds)
            call = await bench.call(load, seconds)
            walked.append(await bench.offer(city, load, seconds, ping, call))
        while climb and _is_held(walked[-1]):
            walked.append(await bench.offer(city, round(walked[-1].load_per_s * _CLIMB, -1), seconds))
        return {
            "connect_s": connect_s,
            "idle_share": idle_share,
            "cold": asdict(cold),
            "walked": [asdict(one) for one in walked],
        }
    finally:
        await bench.close()
