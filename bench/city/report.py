"""Turns the city's figures into Markdown, a picture of the city and a plot."""

from pathlib import Path
from typing import Any, Final

import numpy as np

from bench.city.comparison import FRIENDS, PEOPLE
from bench.city.designs import DESIGNS, INSTANCES, RADIUS_M
from bench.city.streets import Pace, Streets, acquaint

_SHOWN_PEOPLE: Final = 4_000
_MINUTES: Final = 30


def write_report(result: dict[str, Any], folder: Path) -> str:
    """Writes `city.md`, `city.svg` and `city-growth.svg`; returns the Markdown."""
    markdown = render(result)
    (folder / "city.md").write_text(markdown)
    picture(folder / "city.svg")
    growth(result, folder / "city-growth.svg")
    return markdown


def render(result: dict[str, Any]) -> str:
    """All tables."""
    return "\n".join([
        "# Friends in a city",
        "",
        f"Measured {result['date']} at {result['commit'] or 'an unknown commit'} on {result['machine']}.",
        "",
        "![People on the streets, and the friends of one of them](city.svg)",
        "",
        "People stand, walk and drive along the streets of a square of 40 km, from one random waypoint to the next, and report their "
        f"place as the server asks them to. Half of them are online; friends see each other within {RADIUS_M / 1609.344:g} miles.",
        "",
        "## Three designs",
        "",
        f"The same updates, on {INSTANCES} instances. *Bus* is messages for each update, counted for each instance that gets one; "
        "*looked at* is persons whose place or friendship is checked. CPU is the designs' own, without the bus.",
        "",
        *_designs(result["by_people"], "people"),
        "",
        f"The same with {PEOPLE:,} people:",
        "",
        *_designs(result["by_friends"], "friends"),
        "",
        "![How cost grows with people and with friends](city-growth.svg)",
        "",
        "Following each friend costs what a person has friends online, whatever the city holds: that is what Hither does. Cells and "
        "scans look at everybody who is around and throw nearly all of them away, so they cost what the city holds. Cells would win "
        "where strangers are to be found, or where somebody has more friends than people around; each move over a border of theirs "
        "also costs subscriptions.",
        "",
        "## At a server",
        "",
        f"801 people with {FRIENDS} friends, 401 of them connected to one `hither up` (embedded engines; sockets and JSON included). "
        "Latency is from when an update was due until a friend's socket has it. The generator shares the machine.",
        "",
        *_walked(result["at_a_server"]),
        "",
    ])  # fmt: skip


def _designs(costs: list[dict[str, Any]], by: str) -> list[str]:
    lines = [
        f"| {by} | " + " | ".join(f"{make.name}: CPU, bus, looked at" for make in DESIGNS) + " | shown to |",
        "|---|" + "---|" * (len(DESIGNS) + 1),
    ]
    for value in dict.fromkeys(cost[by] for cost in costs):
        row = {cost["design"]: cost for cost in costs if cost[by] == value}
        cells = [
            f"{one['us']:.0f} us, {one['bus_messages']:.1f}, {one['checks']:,.0f}"
            for one in (row[make.name] for make in DESIGNS)
        ]
        lines.append(f"| {value:,} | {' | '.join(cells)} | {row[DESIGNS[0].name]['shown']:.0f} |")
    return lines


def _walked(runs: dict[str, Any]) -> list[str]:
    lines = [
        "| where | updates/s offered | accepted | shown to friends | latency p50, p99 | CPU of the server | for an update | "
        "for a friend shown |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for where, found in runs.items():
        for run in found["walked"]:
            shown = run["shown"]
            each = f"{run['server_us_per_update'] * run['sent'] / shown:.0f} us" if shown else "-"
            latency = f"{run['p50_ms']:.1f} ms, {run['p99_ms']:.1f} ms" if shown else "-"
            lines.append(
                f"| {where} | {run['load_per_s']:g} | {run['accepted']} of {run['sent']} | {shown:,} | {latency} | "
                f"{run['server_share']:.0%} | {run['server_us_per_update']:.0f} us | {each} |"
            )
    return lines


def picture(path: Path) -> None:
    """People on the streets, and one of them with friends and radius."""
    plt = _pyplot()
    city = Streets(_SHOWN_PEOPLE)
    for _ in range(_MINUTES):
        city.advance(60.0)
    centre = int(np.argmin((city.x_m - 20_000) ** 2 + (city.y_m - 20_000) ** 2))
    friends = acquaint(_SHOWN_PEOPLE, FRIENDS)[centre]
    near = np.hypot(city.x_m[friends] - city.x_m[centre], city.y_m[friends] - city.y_m[centre]) <= RADIUS_M
    figure, axes = plt.subplots(figsize=(7, 7))
    for pace, colour in ((Pace.STILL, "#c8c8c8"), (Pace.WALKING, "#9ecae1"), (Pace.DRIVING, "#fdae6b")):
        of_pace = city.pace == pace
        axes.scatter(
            city.x_m[of_pace] / 1000,
            city.y_m[of_pace] / 1000,
            s=2,
            color=colour,
            label=pace.name.lower(),
            rasterized=True,
        )
    for some, colour, label in (
        (friends[~near], "#756bb1", "friends"),
        (friends[near], "#31a354", "friends within 5 miles"),
    ):
        axes.scatter(city.x_m[some] / 1000, city.y_m[some] / 1000, s=9, color=colour, label=label)
    axes.add_patch(
        plt.Circle((city.x_m[centre] / 1000, city.y_m[centre] / 1000), RADIUS_M / 1000, fill=False, color="#31a354")
    )
    axes.scatter([city.x_m[centre] / 1000], [city.y_m[centre] / 1000], s=60, marker="*", color="black", zorder=3)
    axes.set(xlabel="km", ylabel="km", xlim=(0, 40), ylim=(0, 40), aspect="equal")
    axes.set_title(f"{_SHOWN_PEOPLE:,} people after {_MINUTES} minutes, and the friends of one")
    axes.legend(loc="upper right", fontsize=8)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None}, dpi=120)
    plt.close(figure)


def growth(result: dict[str, Any], path: Path) -> None:
    """CPU of an update by people and by friends."""
    plt = _pyplot()
    figure, both = plt.subplots(1, 2, figsize=(10, 4), sharey=True)
    for axes, costs, by in zip(both, (result["by_people"], result["by_friends"]), ("people", "friends"), strict=True):
        for make in DESIGNS:
            its = [cost for cost in costs if cost["design"] == make.name]
            axes.plot([cost[by] for cost in its], [cost["us"] for cost in its], marker="o", label=make.name)
        axes.set(xscale="log", yscale="log", xlabel=by)
        axes.grid(visible=True, which="major", alpha=0.3)
    both[0].set_ylabel("CPU of an update, us")
    both[0].legend()
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def _pyplot() -> Any:
    import matplotlib as mpl

    mpl.use("Agg")
    mpl.rcParams["svg.hashsalt"] = "hither"  # the same numbers make the same file
    from matplotlib import pyplot as plt

    return plt
