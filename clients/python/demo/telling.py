"""Prints the story: in colour on a terminal, plain elsewhere."""

import sys
from collections.abc import Iterable
from pathlib import Path

try:
    from rich.console import Console
except ImportError:  # it is a tool of development, not a need
    Console = None  # type: ignore[assignment, misc]

from demo.record import Record, Sighting, Verdict, percentile


class Teller:
    """Prints as things happen. `picture` is where `draw` writes it all as an SVG."""

    def __init__(self, picture: Path | None = None) -> None:
        self._picture = picture
        self._console = Console(record=True, width=112) if Console is not None and picture else None
        if self._console is None and Console is not None and sys.stdout.isatty():
            self._console = Console()
        self.hushed = False
        """While true, deliveries are not told one by one."""

    def draw(self) -> None:
        """Writes what was printed as an SVG, if a picture was asked for."""
        if self._console is not None and self._picture is not None:
            self._console.save_svg(str(self._picture), title="make demo")

    def act(self, title: str) -> None:
        """A new part of the story begins."""
        self._print(f"\n== {title}", "bold cyan")

    def say(self, text: str = "") -> None:
        """Something happens."""
        self._print(f"   {text}".rstrip())

    def delivery(self, sighting: Sighting) -> None:
        """A device was handed a message."""
        if self.hushed:
            return
        what = f"{sighting.message.sender_id}: {sighting.message.text}"
        late = "" if sighting.live else "  (missed, caught up)"
        self._print(f"   {sighting.device:<14} <- {what:<52}{sighting.latency_s * 1000:8.1f} ms{late}", "dim")

    def summary(self, record: Record, verdict: Verdict, losses: int) -> None:
        """What the clients saw, in the end."""
        self.act("What the clients saw")
        self.say(f"sent {verdict.sent}, acked {verdict.acked}, in history {verdict.in_history}")
        self._count("never answered", verdict.unanswered)
        self._count("acked and not in history", verdict.acked_but_not_in_history)
        self._count("acked with another place than history has", verdict.acked_elsewhere)
        self._count("twice in history", verdict.doubled_in_history)
        self._count("gaps in history", verdict.gaps_in_history)
        self.say(f"connections and attempts that failed on the way: {losses}")
        self.say()
        self.say(f"{'device':<16}{'seen':>6}{'missing':>9}{'doubled':>9}{'out of order':>14}")
        for one in verdict.devices:
            self.say(f"{one.device:<16}{one.seen:>6}{one.missing:>9}{one.doubled:>9}{one.out_of_order:>14}")
        self.say()
        self._latency("send -> ack", record.ack_latencies_of(burst=False))
        self._latency("send -> device", record.latencies_s(live=True))
        self._latency("send -> device that was away", record.latencies_s(live=False))
        self._latency("send -> ack, in the burst and the crash", record.ack_latencies_of(burst=True))
        self._latency("send -> device, in the burst and the crash", record.burst_latencies_s())
        self.say()
        if verdict.held:
            self._print("   All of it held.", "bold green")
        else:
            self._print("   IT DID NOT HOLD.", "bold red")

    def _count(self, what: str, count: int) -> None:
        self._print(f"   {what}: {count}", "red" if count else "")

    def _latency(self, what: str, values_s: Iterable[float]) -> None:
        values = list(values_s)
        p50_ms, p99_ms = (percentile(values, share) * 1000 for share in (0.5, 0.99))
        self.say(f"{what:<46}{len(values):>6}   p50 {p50_ms:8.1f} ms   p99 {p99_ms:8.1f} ms")

    def _print(self, text: str, style: str = "") -> None:
        if self._console is None:
            print(text, flush=True)
        else:
            self._console.print(text, style=style or None, markup=False, highlight=False)
