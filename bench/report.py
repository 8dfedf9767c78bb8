"""Turns results into one Markdown table, a JSON file and a plot."""

import json
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
_GENERATOR_LIMIT = 0.85
"""Above this share of its CPU the generator may have been what was measured."""


def write_report(result: dict[str, Any]) -> str:
    """Writes `results/`; returns the Markdown."""
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "latest.json").write_text(json.dumps(result, indent=1) + "\n")
    markdown = render(result)
    (RESULTS / "results.md").write_text(markdown)
    plot(result, RESULTS / "latency.svg")
    return markdown


def render(result: dict[str, Any]) -> str:
    """The table. Every row: what was measured, the number, its ceiling or budget, and how busy the generator was."""
    latency, fanout, idle = result["latency"], result["fanout"], result["idle"]
    rows = [
        load_row(run, result["p99_ms"]) for run in sorted(latency["runs"], key=lambda run: float(run["load_per_s"]))
    ]
    highest, half = latency["highest_load_per_s"], latency["half_load"]
    rows.append(
        (
            f"highest load with p99 < {result['p99_ms']:g} ms",
            f"**{highest:g} messages/s**",
            "budget 5,000/s",
            _busiest(latency),
        )
    )
    if half:
        share = _share(half["generator_share"])
        rows += [
            (
                f"send -> ack at half load ({half['load_per_s']:g}/s)",
                p50_p99(half["ack_ms"]),
                "budget p50 5 ms, p99 25 ms",
                share,
            ),
            ("send -> recipient at half load", p50_p99(half["delivery_ms"]), "budget p50 8 ms, p99 50 ms", share),
            ("server CPU for each message at half load", f"{half['server_us_per_message']:.0f} us", "", share),
        ]
    floor = f"bare loop of socket writes {fanout['floor_us_per_write']:.1f} us: ratio **{fanout['ratio']:.2f}** (budget 1.3)"
    share = _share(fanout["generator_share"])
    rows += [
        (
            f"fan-out to {fanout['connections']} connections, server CPU for each delivery ({fanout['frame_bytes']} B)",
            f"{fanout['server_us_per_delivery']:.1f} us",
            floor,
            share,
        ),
        (
            f"the same, {fanout['burst']} messages at once",
            f"{fanout['server_us_per_delivery_in_bursts']:.1f} us",
            "budget 2 us",
            share,
        ),
        (
            "send -> the last of them has it",
            f"median {fanout['all_reached_ms_median']:.0f} ms, max {fanout['all_reached_ms_max']:.0f} ms",
            f"floor {fanout['floor_us_per_write'] * fanout['connections'] / 1000:.0f} ms",
            share,
        ),
        (
            f"memory of an idle connection, of {idle['connections']}",
            f"{idle['bytes_per_connection'] / 1024:.1f} KiB",
            "budget 20 KiB",
            "",
        ),
        (
            "connecting",
            f"{idle['connects_per_s']:.0f} a second, {idle['server_us_per_connect']:.0f} us of server CPU",
            "",
            "",
        ),
    ]
    head = (
        f"Measured {result['date']} at {result['commit'] or 'an unknown commit'} ({result['mode']} mode) on {result['machine']}. "
        f"Server on {result['server_cpu']} and load generator (picows, prebuilt frames, on one CPU) are separate processes on one "
        f"machine; {result['users']} users, texts of 100 bytes, JSON frames, every ack durable on disk; open loop, latency from the "
        "intended send time.\n\n"
    )
    table = "| what | measured | ceiling | generator CPU |\n|---|---|---|---|\n"
    return head + table + "".join(f"| {' | '.join(row)} |\n" for row in rows)


def load_row(run: dict[str, Any], p99_ms: float) -> tuple[str, str, str, str]:
    """A row of a table: what was offered, and what came of it."""
    complete = run["acked"] == run["delivered"] == run["sent"] and not run["refused"]
    lost = (
        ""
        if complete
        else f"; {run['sent'] - run['delivered']} of {run['sent']} not delivered in time, {run['refused']} refused"
    )
    return (
        f"{run['load_per_s']:g} messages/s offered",
        f"ack {p50_p99(run['ack_ms'])}; recipient {p50_p99(run['delivery_ms'])}{lost}",
        f"p99 {p99_ms:g} ms; server CPU {run['server_share']:.0%}",
        f"{_share(run['generator_share'])}, writes late by p99 {run['late_ms']['p99']:.1f} ms",
    )


def p50_p99(values: dict[str, float]) -> str:
    """Two percentiles in milliseconds, for people."""
    return f"p50 {values['p50']:.1f} ms, p99 {values['p99']:.1f} ms"


def _share(share: float) -> str:
    return f"{share:.0%}" + (" (the limit)" if share > _GENERATOR_LIMIT else "")


def _busiest(latency: dict[str, Any]) -> str:
    busiest = max(run["generator_share"] for run in latency["runs"])
    return f"up to {busiest:.0%}: {'may have been' if busiest > _GENERATOR_LIMIT else 'was not'} the limit"


def plot(result: dict[str, Any], path: Path) -> None:
    """Latency to the recipient by percentile, a line for each load."""
    import matplotlib as mpl

    mpl.use("Agg")
    mpl.rcParams["svg.hashsalt"] = "hither"  # the same numbers make the same file
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 4.5))
    last_attempts = {float(run["load_per_s"]): run for run in result["latency"]["runs"]}
    for _, run in sorted(last_attempts.items()):
        nines = [1 / (1 - percentile / 100) for percentile, _ in run["delivery_curve"]]
        axes.plot(nines, [latency_ms for _, latency_ms in run["delivery_curve"]], label=f"{run['load_per_s']:g}/s")
    axes.axhline(result["p99_ms"], linestyle=":", color="grey")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xticks([1, 10, 100, 1000, 10000], ["0", "90", "99", "99.9", "99.99"])
    axes.set_xlabel("percentile")
    axes.set_ylabel("send -> recipient, ms")
    axes.set_title(f"Direct messages, {result['users']} users, open loop ({result['date']})")
    axes.legend(title="offered load")
    axes.grid(visible=True, which="major", alpha=0.3)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
