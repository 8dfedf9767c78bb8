"""Turns the city's figures into Markdown, a picture of the city and a plot."""

from pathlib import Path
from typing import Any, Final

import numpy as np

from bench.city.comparison import FRIENDS, PEOPLE
from bench.city.designs import DESIGNS, INSTANCES, RADIUS_M
from bench.city.streets import Pace, Streets, acquaint

BUDGET_US: Final = 100.0
GOOD_P99_MS: Final = 1_000.0
IN_A_CITY: Final = "a city of 40 km"
FAR_APART: Final = "a country of 4,000 km, nobody near"
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
        "People stand, walk and drive along the streets of a square of 40 km, from one random waypoint to the next, and report "
        f"their place as the server asks them to. Half of them are online; friends see each other within {RADIUS_M / 1609.344:g} "
        "miles.",
        "",
        "## Three designs",
        "",
        f"The same updates, on {INSTANCES} instances. *Bus* is messages for each update, counted for each instance that gets "
        "one; *looked at* is persons whose place or friendship is checked. CPU is the designs' own, without the bus.",
        "",
        *_designs(result["by_people"], "people"),
        "",
        f"The same with {PEOPLE:,} people:",
        "",
        *_designs(result["by_friends"], "friends"),
        "",
        "![How cost grows with people and with friends](city-growth.svg)",
        "",
        "Following each friend costs what a person has friends online, whatever the city holds: that is what Hither does. Cells "
        "and scans look at everybody who is around and throw nearly all of them away, so they cost what the city holds. Cells "
        "would win where strangers are to be found, or where somebody has more friends than people around; each move over a "
        "border of theirs also costs subscriptions.",
        "",
        "## What Hither decides",
        "",
        f"The budget: an update of somebody with {FRIENDS} friends costs at most {BUDGET_US:.0f} us of CPU. Measured with the "
        "service's own classes in one process: from the message on the bus to the events for friends, without sockets, JSON and "
        "the mesh. All friends are connected to this one instance, which is the worst case: more instances share them.",
        "",
        *_decided(result["decided"]),
        "",
        "## At a server",
        "",
        f"801 people with {FRIENDS} friends, 401 of them connected to one `hither up` (one process with embedded engines; "
        "sockets and JSON included). Latency is from when an update was due until a friend's socket has it, for each friend "
        "that it is to reach; the generator knows who that is. *In the same run and at the same rate* frames were sent that "
        "cost less: `ping`, which the edge answers by itself, and `set_presence`, for which a service is called that finds "
        "nothing changed. CPU for one of them has what the server uses when nobody sends anything taken off. The generator "
        "shares the machine, on a CPU of its own where there are two.",
        "",
        *_cold(result["at_a_server"]),
        "",
        *_walked(result["at_a_server"]),
        "",
        *_highest(result["at_a_server"]),
        "",
        "Where the CPU of an update goes, by what is left when the cheaper frame is taken off the dearer one:",
        "",
        *_parts(result["at_a_server"]),
        "",
        *_verdict(result),
        "",
    ])  # fmt: skip


def _decided(costs: list[dict[str, Any]]) -> list[str]:
    lines = [
        "| where | friends, connected | updates at once | events | CPU | for an event | budget |",
        "|---|---|---|---|---|---|---|",
    ]
    for cost in costs:
        each = f"{cost['us'] / cost['events']:.0f} us" if cost["events"] >= 1 else "-"
        met = "met" if cost["us"] <= BUDGET_US else f"{cost['us'] / BUDGET_US:.1f} x"
        lines.append(
            f"| {cost['where']} | {cost['friends']} | {cost['at_once']} | {cost['events']:.1f} | {cost['us']:.0f} us | {each} | "
            f"{met} |"
        )
    return lines


def _cold(runs: dict[str, Any]) -> list[str]:
    lines = [
        "Cold: everybody connects at once to a server that has just started, and reports for the first time as soon as all are "
        "connected, without any warm-up:",
        "",
        "| where | 401 connected in | updates/s | reached | latency p50, p99, longest | CPU for an update |",
        "|---|---|---|---|---|---|",
    ]
    for where, found in runs.items():
        cold = found["cold"]
        lines.append(
            f"| {where} | {found['connect_s']:.1f} s | {cold['load_per_s']:g} | {cold['reached']:,} of {cold['expected']:,} | "
            f"{_latency(cold)} | {cold['updates']['server_us']:.0f} us |"
        )
    return [
        *lines,
        "",
        "A viewer who moves is told anew of friends whose places may be old by then. Such an event answers none of their "
        "updates and is not counted: counted, it made a p99 of seconds in the first turn of everybody, which nobody had waited "
        "for.",
        "",
        "Warm: everybody has reported once, and the server has rested for 7 s:",
    ]


def _walked(runs: dict[str, Any]) -> list[str]:
    lines = [
        "| where | updates/s | answered | friends reached | latency p50, p99, longest | `ping` | `set_presence` | an update | "
        "busy: server, generator |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for where, found in runs.items():
        for run in found["walked"]:
            updates = run["updates"]
            floors = [f"{one['server_us']:.0f} us" if one else "-" for one in (run["ping"], run["call"])]
            lines.append(
                f"| {where} | {run['load_per_s']:g} | {updates['answered']:,} of {updates['sent']:,} | {run['reached']:,} of "
                f"{run['expected']:,} | {_latency(run)} | {floors[0]} | {floors[1]} | {updates['server_us']:.0f} us | "
                f"{updates['server_share']:.0%}, {updates['generator_share']:.0%} |"
            )
        lines.append(f"| {where} | 0 | | | | | | | {found['idle_share']:.1%} |")
    return lines


def _latency(run: dict[str, Any]) -> str:
    if not run["reached"]:
        return "-"
    return f"{run['p50_ms']:.1f} ms, {run['p99_ms']:.1f} ms, {run['longest_ms']:.0f} ms"


def _highest(runs: dict[str, Any]) -> list[str]:
    lines = []
    for where, found in runs.items():
        good = [run for run in found["walked"] if is_sustained(run)]
        if good:
            best = max(good, key=lambda run: float(run["load_per_s"]))
            per_core = best["load_per_s"] / best["updates"]["server_share"]
            latency = f" with p99 {best['p99_ms']:.0f} ms" if best["reached"] else ""
            lines.append(
                f"Highest load that was held in {where}: **{best['load_per_s']:g} updates/s**{latency}, the server at "
                f"{best['updates']['server_share']:.0%} of a CPU: {per_core:.0f} updates/s for each core."
            )
    return lines


def is_sustained(run: dict[str, Any]) -> bool:
    """Whether all was answered, nearly every friend was reached, and that in less than a second."""
    updates = run["updates"]
    return bool(
        updates["answered"] == updates["sent"]
        and run["reached"] >= 0.99 * run["expected"]
        and run["p99_ms"] < GOOD_P99_MS
    )


def parts(run: dict[str, Any], far: dict[str, Any]) -> dict[str, float]:
    """Microseconds of an update in a city, where `far` is the run at the same rate with nobody near; the last one is for each friend
    that is told.
    """
    ping, call, nobody = far["ping"]["server_us"], far["call"]["server_us"], far["updates"]["server_us"]
    told = run["told"] / run["updates"]["sent"]
    return {
        "a frame in and out (`ping`)": ping,
        "the mesh: limits, validation, a call in the process, the answer as JSON (`set_presence` less `ping`)": call
        - ping,
        "taking the place, cache, bus, history, and the decision with nobody near (an update less `set_presence`)": nobody
        - call,
        f"telling friends ({told:.0f} each): sight, event, audit log, delivery, JSON, a socket's write": run["updates"][
            "server_us"
        ]
        - nobody,
        "of that, for each friend told": (run["updates"]["server_us"] - nobody) / told,
    }


def costs(result: dict[str, Any]) -> dict[str, Any]:
    """What `hither plan` is told: at the edge a frame, at location the rest of an update with nobody near, and each friend shown."""
    far = next(run for run in reversed(result["at_a_server"][FAR_APART]["walked"]) if run["ping"])
    decided = {(one["where"], one["friends"], one["at_once"]): one for one in result["decided"]}
    near, nobody = decided[IN_A_CITY, FRIENDS, 1], decided[FAR_APART, FRIENDS, 1]
    found = {
        ("update", "edge"): far["ping"]["server_us"],
        ("update", "location"): far["updates"]["server_us"] - far["ping"]["server_us"],
        ("shown", "location"): (near["us"] - nobody["us"]) / near["events"],
    }
    source = f"bench.city at {far['load_per_s']:g} updates/s: one process with embedded engines"
    return {
        "date": result["date"],
        "commit": result["commit"],
        "machine": result["machine"],
        "costs": [
            {"what": what, "where": where, "cpu_us": round(us, 1), "source": source}
            for (what, where), us in found.items()
        ],
    }


def _parts(runs: dict[str, Any]) -> list[str]:
    near = {run["load_per_s"]: run for run in runs[IN_A_CITY]["walked"] if run["ping"]}
    far = {run["load_per_s"]: run for run in runs[FAR_APART]["walked"] if run["ping"]}
    lines = ["| updates/s | part | CPU |", "|---|---|---|"]
    for load, run in near.items():
        lines += [f"| {load:g} | {part} | {us:.0f} us |" for part, us in parts(run, far[load]).items()]
    return lines


def _verdict(result: dict[str, Any]) -> list[str]:
    alone = next(
        one for one in result["decided"] if (one["where"], one["friends"], one["at_once"]) == (FAR_APART, FRIENDS, 1)
    )
    far = result["at_a_server"][FAR_APART]["walked"]
    cheapest = min(far, key=lambda run: float(run["updates"]["server_us"]))
    beside = min((run for run in far if run["call"]), key=lambda run: float(run["call"]["server_us"]))
    return [
        f"**The budget of {BUDGET_US:.0f} us**: finding out who of {FRIENDS} connected friends is near, when nobody is, costs "
        f"{alone['us']:.0f} us: {'met' if alone['us'] <= BUDGET_US else 'not met'}. Each friend who is near costs on top of "
        "that, as there is an event to make: with friends near it is not met. The whole way of an update through a server, "
        f"socket and JSON included, is not within it either: at {beside['load_per_s']:g} frames a second one for which a service "
        f"does nothing costs {beside['call']['server_us']:.0f} us and an update with nobody near "
        f"{beside['updates']['server_us']:.0f} us; at {cheapest['load_per_s']:g} a second, where more is done in one turn of the "
        f"loop, an update costs {cheapest['updates']['server_us']:.0f} us. At low rates everything costs more, as each frame "
        "wakes the process up and finds its caches cold; at 25 a second, what the server does by itself makes a figure "
        "uncertain by some 100 us.",
        "",
        "On the bus an update is one message, whoever is near: with N instances, one for each that has friends of the user "
        "connected (see the first tables).",
    ]


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
