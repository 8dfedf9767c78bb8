"""How long a direct message takes, at an offered load: 200 users in pairs, texts of 100 bytes.

Open loop: message k is due at a fixed time, k / load after the start, whatever became of those before it, and its latency
counts from then: a server (or a generator) that stalls cannot hide it by being asked less.
"""

import asyncio
import contextlib
import math
import resource
import time
from array import array
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from hdrh.histogram import HdrHistogram

from bench.peer import Peer, connect_peers, disconnect, field
from bench.processes import cpu_s

_TICK_S = 0.001
_ACKNOWLEDGE_S = 0.1
_INTRODUCE_S = 10.0
_TEXTS = (b"x" * 100,)
_HIGHEST_US = 60_000_000
_DIGITS = 3
_DRAIN_S = 20.0
_ATTEMPTS = 2
"""A load that fails is offered once more: a machine that others share has its moments."""
_PERCENTILES = (50.0, 90.0, 99.0, 99.9, 100.0)


@dataclass(frozen=True, slots=True)
class Run:
    """What one offered load came to. Latencies in milliseconds."""

    load_per_s: float
    sent: int
    acked: int
    delivered: int
    refused: int
    ack_ms: dict[str, float]
    delivery_ms: dict[str, float]
    late_ms: dict[str, float]
    """How late the generator wrote its frames: what it adds by itself."""
    server_us_per_message: float
    server_share: float
    """CPU of the server; 1.0 is one core."""
    generator_share: float
    ack_curve: list[tuple[float, float]]
    delivery_curve: list[tuple[float, float]]
    """Percentile and latency, for the plot."""

    def meets(self, p99_ms: float) -> bool:
        """All was acked and delivered, with both p99 below."""
        complete = not self.refused and self.acked == self.delivered == self.sent
        return complete and self.ack_ms["p99"] < p99_ms and self.delivery_ms["p99"] < p99_ms


class LatencyBench:
    """The users' connections, over which one load after the other is offered; the messages' texts are `texts` in turn. Both of a
    pair connect to different URLs, where there are several; the CPU of all of `server_pids` is counted.
    """

    def __init__(
        self,
        urls: list[str],
        user_ids: list[str],
        tokens: list[str],
        server_pids: list[int],
        texts: Sequence[bytes] = _TEXTS,
    ) -> None:
        if len(user_ids) % 2:
            raise ValueError("users talk in pairs")
        self._urls = urls
        self._user_ids = user_ids
        self._tokens = tokens
        self._server_pids = server_pids
        self._texts = texts
        self._peers: list[Peer] = []
        self._places: list[int] = []
        self._said: list[int] = []
        self._load: _Load | None = None
        self._runs = 0
        self._ticker: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Connects everybody."""
        self._peers = await connect_peers(self._urls, self._tokens, self._on_frame)
        self._places = [0] * len(self._peers)
        self._said = [0] * len(self._peers)
        self._ticker = asyncio.create_task(self._acknowledge())

    async def introduce(self) -> None:
        """Everybody says a first word, one after the other: it makes the conversations, which is no part of a message's way."""
        users = [user_id.encode() for user_id in self._user_ids]
        for index in range(len(users)):
            self._load = _Load(
                b"hello%d-" % index, [users[index ^ 1]] * 2, self._peers[index : index + 1], self._texts, 1.0, 0.0, 1.0
            )
            await self._load.finish(time.perf_counter())
            await self._load.first_ack(_INTRODUCE_S)

    async def close(self) -> None:
        """Disconnects everybody."""
        if self._ticker is not None:
            self._ticker.cancel()
        disconnect(self._peers)

    async def offer(self, load_per_s: float, *, warm_up_s: float, measure_s: float, drain_s: float) -> Run:
        """Offers a load for `warm_up_s` and `measure_s`, of which the latter counts, and waits for the rest to arrive."""
        self._runs += 1
        users = [user_id.encode() for user_id in self._user_ids]
        load = _Load(f"r{self._runs}-".encode(), users, self._peers, self._texts, load_per_s, warm_up_s, measure_s)
        self._load = load
        begun_s = await load.warm()
        server_s, generator_s, wall_s = self._server_cpu_s(), _own_cpu_s(), time.perf_counter()
        await load.finish(begun_s)
        wall_s = time.perf_counter() - wall_s
        server_s, generator_s = self._server_cpu_s() - server_s, _own_cpu_s() - generator_s
        await load.drain(drain_s)
        return load.result(server_s=server_s, generator_s=generator_s, wall_s=wall_s)

    def _server_cpu_s(self) -> float:
        return sum(cpu_s(pid) for pid in self._server_pids)

    def _on_frame(self, peer: Peer, data: bytes) -> None:
        if data.startswith(b'{"type":"message",'):
            self._places[peer.index] = int(field(data, b"pos"))
            if self._load is not None:
                self._load.delivered(peer.index, data)
        elif data.startswith(b'{"type":"ack"'):
            if self._load is not None:
                self._load.acked(data)
        elif data.startswith(b'{"type":"error"') and self._load is not None:
            self._load.refused += 1

    async def _acknowledge(self) -> None:
        """Says `received` for each user, as an SDK would, for all that has come within 0.1 s."""
        while True:
            await asyncio.sleep(_ACKNOWLEDGE_S)
            for index, place in enumerate(self._places):
                if place > self._said[index]:
                    self._said[index] = place
                    self._peers[index].send(b'{"type":"received","pos":"%d"}' % place)


class _Load:
    def __init__(
        self,
        prefix: bytes,
        users: list[bytes],
        peers: list[Peer],
        texts: Sequence[bytes],
        load_per_s: float,
        warm_up_s: float,
        measure_s: float,
    ) -> None:
        self.refused = 0
        self._prefix = prefix
        self._users = users
        self._peers = peers
        self._texts = texts
        self._load_per_s = load_per_s
        self._first = round(load_per_s * warm_up_s)
        self._total = self._first + round(load_per_s * measure_s)
        nan = array("d", [math.nan])
        self._due_s = nan * self._total
        self._written_s = nan * self._total
        self._acked_s = nan * self._total
        self._delivered_s = nan * self._total
        self._left = 2 * self._total
        self._complete = asyncio.Event()
        self._some_ack = asyncio.Event()

    async def warm(self) -> float:
        begun_s = time.perf_counter()
        await self._write(begun_s, 0, self._first)
        return begun_s

    async def finish(self, begun_s: float) -> None:
        await self._write(begun_s, self._first, self._total)

    async def _write(self, begun_s: float, number: int, end: int) -> None:
        count = len(self._peers)
        while number < end:
            now_s = time.perf_counter()
            while number < end and (due_s := begun_s + number / self._load_per_s) <= now_s:
                sender = number % count
                name = b"%s%d" % (self._prefix, number)
                frame = b'{"type":"send_message","id":"%b","client_id":"%b","to":"%b","text":"%b"}' % (
                    name,
                    name,
                    self._users[sender ^ 1],
                    self._texts[number % len(self._texts)],
                )
                self._due_s[number] = due_s
                self._written_s[number] = time.perf_counter()
                self._peers[sender].send(frame)
                number += 1
            await asyncio.sleep(_TICK_S)

    def acked(self, data: bytes) -> None:
        number = self._number(data)
        if number >= 0 and math.isnan(self._acked_s[number]):
            self._acked_s[number] = time.perf_counter()
            self._some_ack.set()
            self._done_one()

    def delivered(self, index: int, data: bytes) -> None:
        number = self._number(data)
        if number < 0 or index != (number % len(self._peers)) ^ 1:
            return  # of another run, or the sender's own copy
        if math.isnan(self._delivered_s[number]):
            self._delivered_s[number] = time.perf_counter()
            self._done_one()

    def _number(self, data: bytes) -> int:
        name = field(data, b"client_id")
        return int(name[len(self._prefix) :]) if name.startswith(self._prefix) else -1

    def _done_one(self) -> None:
        self._left -= 1
        if not self._left:
            self._complete.set()

    async def first_ack(self, timeout_s: float) -> None:
        async with asyncio.timeout(timeout_s):
            await self._some_ack.wait()

    async def drain(self, drain_s: float) -> None:
        with contextlib.suppress(TimeoutError):  # what is missing shows in the counts
            async with asyncio.timeout(drain_s):
                await self._complete.wait()

    def result(self, *, server_s: float, generator_s: float, wall_s: float) -> Run:
        measured = range(self._first, self._total)
        acks, deliveries, lateness = _histogram(), _histogram(), _histogram()
        for number in measured:
            _record(acks, self._acked_s[number] - self._due_s[number])
            _record(deliveries, self._delivered_s[number] - self._due_s[number])
            _record(lateness, self._written_s[number] - self._due_s[number])
        return Run(
            load_per_s=self._load_per_s,
            sent=len(measured),
            acked=acks.get_total_count(),
            delivered=deliveries.get_total_count(),
            refused=self.refused,
            ack_ms=_percentiles(acks),
            delivery_ms=_percentiles(deliveries),
            late_ms=_percentiles(lateness),
            server_us_per_message=server_s / max(1, len(measured)) * 1e6,
            server_share=server_s / wall_s,
            generator_share=generator_s / wall_s,
            ack_curve=_curve(acks),
            delivery_curve=_curve(deliveries),
        )


def _own_cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def _histogram() -> HdrHistogram:
    return HdrHistogram(1, _HIGHEST_US, _DIGITS)


def _record(histogram: HdrHistogram, value_s: float) -> None:
    if not math.isnan(value_s):
        histogram.record_value(min(_HIGHEST_US, max(1, round(value_s * 1e6))))


def _percentiles(histogram: HdrHistogram) -> dict[str, float]:
    names = {100.0: "max"}
    return {
        names.get(percentile, f"p{percentile:g}"): histogram.get_value_at_percentile(percentile) / 1000
        for percentile in _PERCENTILES
    }


def _curve(histogram: HdrHistogram) -> list[tuple[float, float]]:
    nines = [100 * (1 - 10 ** (-step / 10)) for step in range(41)]
    return [(percentile, histogram.get_value_at_percentile(percentile) / 1000) for percentile in nines]


async def find_ceiling(
    bench: LatencyBench, loads: list[float], *, p99_ms: float, warm_up_s: float, measure_s: float, halvings: int
) -> tuple[list[dict[str, object]], float, dict[str, object] | None]:
    """All runs; the highest load that met `p99_ms` (0 if none did); and a longer run at half of it."""
    runs: list[Run] = []
    best, failed = 0.0, 0.0

    async def meets(load_per_s: float) -> bool:
        for _ in range(_ATTEMPTS):
            run = await bench.offer(load_per_s, warm_up_s=warm_up_s, measure_s=measure_s, drain_s=_DRAIN_S)
            runs.append(run)
            if run.meets(p99_ms):
                return True
        return False

    for load_per_s in loads:
        if not await meets(load_per_s):
            failed = load_per_s
            break
        best = load_per_s
    for _ in range(halvings if failed else 0):
        middle = round((best + failed) / 2, -1)
        best, failed = (middle, failed) if await meets(middle) else (best, middle)
    half = None
    if best:
        half = await bench.offer(best / 2, warm_up_s=warm_up_s, measure_s=2 * measure_s, drain_s=_DRAIN_S)
    return [asdict(run) for run in runs], best, asdict(half) if half else None
