"""Turns the simulation into Markdown tables and a plot."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from bench.ring.movement import Mean
from bench.ring.simulation import PER_INSTANCE, Fleets, Measured, RingMoves

_BARE: Final = 20.0
_TITLES: Final = (
    "moved share by ideal share",
    "lookup, us",
    "rebuild, ms",
    "the ring: fewer partitions for each instance",
)


def write_report(head: str, fleets: Sequence[Fleets], sweep: Sequence[RingMoves], folder: Path) -> str:
    """Writes `ring.md` and `ring.svg` into the folder; returns the Markdown."""
    folder.mkdir(exist_ok=True)
    markdown = render(head, fleets, sweep)
    (folder / "ring.md").write_text(markdown)
    plot(fleets, sweep, folder / "ring.svg")
    return markdown


def render(head: str, fleets: Sequence[Fleets], sweep: Sequence[RingMoves]) -> str:
    """All tables."""
    return "\n".join([
        "# The ring at scale",
        "",
        head,
        "",
        "![Movement, lookup and rebuild by size of fleet](ring.svg)",
        "",
        "## Hither's ring",
        "",
        f"The number of partitions is fixed for a cluster's life: choose the power of two that gives the largest fleet you foresee "
        f"{PER_INSTANCE} for each instance. An instance without a partition is idle, and with few the bound on the load (1.25 of the "
        "mean) is reached often: then one join or leave pushes other instances' partitions around, too. That is what this table "
        "does (256 at least); the last table shows what less costs.",
        "",
        "*moved by ideal* is the share of all partitions that one join or leave moves, divided by the share that the instance is due "
        "by its weight, of the larger of the two fleets: a mean over many joins and leaves (standard error). The target is 1.05. "
        "*needless* is the part of it that neither came from who left nor went to who joined. *max/mean* is the worst member of all "
        "fleets.",
        "",
        *_ring_table(fleets),
        "",
        "The same with weights of 50, 100 and 200 in equal numbers (*max/mean* by weight; rendezvous by its weighted form, by keys):",
        "",
        *_mixed_table(fleets),
        "",
        "## Beside other schemes, on the same keys",
        "",
        "Rendezvous hashing (Thaler and Ravishankar 1998), jump consistent hash (Lamping and Veach 2014) and Maglev hashing "
        "(Eisenbud et al. 2016; its table has 65,537 slots or 100 for each instance), written for this comparison in the same "
        "language; rendezvous scores all instances at once in numpy. Lookup and rebuild are medians of CPU "
            "time, schemes taking turns. *memory* "
        "is what stays after building, and its peak while building. Moves are counted in keys here, so they carry the sampling error "
        "of the keys. *max/mean of keys* also contains the luck of the keys; *by chance* is what even that many dice would show.",
        "",
        "Jump consistent hash can only let its last bucket go. Another instance that leaves makes either all after it close ranks, or "
        "the last one take its place; neither is what a crash needs. Nor does it know weights.",
        "",
        *_comparison(fleets),
        "",
        "## What decides the ring's movement",
        "",
        "Fewer partitions, fewer points, another bound; fleets of 100 around the values in use.",
        "",
        *_sweep_table(sweep),
        "",
    ])  # fmt: skip


def _ring_table(fleets: Sequence[Fleets]) -> list[str]:
    columns = (
        "instances|partitions|lookup|rebuild|memory (peak)|join: moved by ideal|leave: moved by ideal|needless|max/mean"
    )
    return _table(
        columns,
        [
            f"{fleet.size.instances:,}|{fleet.partitions:,}|{ring.lookup_us:.2f} us (budget 1)|{_rebuild(fleet, ring)}|"
            f"{_memory(ring)}|{_moved(fleet.even)}"
            for fleet in fleets
            for ring in fleet.schemes[:1]
        ],
    )


def _rebuild(fleet: Fleets, ring: Measured) -> str:
    return f"{ring.rebuild_ms:.3g} ms" + (" (budget 50)" if fleet.size.instances == 1_000 else "")


def _mixed_table(fleets: Sequence[Fleets]) -> list[str]:
    columns = "instances|join: moved by ideal|leave: moved by ideal|needless|max/mean|rendezvous: moved by ideal"
    rows = [f"{fleet.size.instances:,}|{_moved(fleet.mixed)}|{_mean(fleet.mixed_rendezvous)}" for fleet in fleets]
    return _table(columns, rows)


def _comparison(fleets: Sequence[Fleets]) -> list[str]:
    columns = "instances|scheme|lookup|rebuild|memory (peak)|join|leave|needless|max/mean of shares|of keys (by chance)"
    rows = [
        f"{fleet.size.instances:,}|{one.scheme}|{one.lookup_us:.2f} us|{one.rebuild_ms:.3g} ms|{_memory(one)}|"
        f"{_mean(one.join)}|{_mean(one.leave)}|{_ratio(one.needless)}|{one.shares_max_over_mean:.2f}|"
        f"{one.keys_max_over_mean:.2f} ({fleet.chance_max_over_mean:.2f})"
        for fleet in fleets
        for one in fleet.schemes
    ]
    return _table(columns, rows)


def _sweep_table(sweep: Sequence[RingMoves]) -> list[str]:
    columns = "instances|partitions|for each instance|points|bound|join|leave|needless|max/mean|rebuild"
    rows = [
        f"{one.instances:,}|{one.partitions:,}|{one.partitions / one.instances:.1f}|{one.points}|{one.bound:g}|{_moved(one)}|"
        f"{one.rebuild_ms:.3g} ms"
        for one in sweep
    ]
    return _table(columns, rows)


def _table(columns: str, rows: Sequence[str]) -> list[str]:
    """`columns` and each of `rows` have their cells parted by bars."""
    return [f"|{columns}|", "|---" * (columns.count("|") + 1) + "|", *(f"|{row}|" for row in rows)]


def _moved(ring: RingMoves) -> str:
    return f"{_mean(ring.join)}|{_mean(ring.leave)}|{_ratio(ring.needless)}|{ring.max_over_mean:.2f}"


def _mean(mean: Mean) -> str:
    return f"{_ratio(mean.value)} (± {_ratio(mean.error)})"


def _ratio(value: float) -> str:
    return f"{value:.3f}" if value < _BARE else f"{value:,.0f}"


def _memory(one: Measured) -> str:
    return f"{_bytes(one.kept_bytes)} ({_bytes(one.peak_bytes)})"


def _bytes(count: int) -> str:
    return f"{count / 1024:.0f} KiB" if count < 1 << 20 else f"{count / (1 << 20):.1f} MiB"


def plot(fleets: Sequence[Fleets], sweep: Sequence[RingMoves], path: Path) -> None:
    """Four panels: movement, lookup and rebuild by size of fleet, and movement by partitions for each instance."""
    import matplotlib as mpl

    mpl.use("Agg")
    mpl.rcParams["svg.hashsalt"] = "hither"  # the same numbers make the same file
    from matplotlib import pyplot as plt

    figure, ((moved, lookup), (rebuild, fewer)) = plt.subplots(2, 2, figsize=(11, 8))
    sizes = [fleet.size.instances for fleet in fleets]
    for place, name in enumerate(one.scheme for one in fleets[0].schemes):
        series = [fleet.schemes[place] for fleet in fleets]
        colour = f"C{place}"
        moved.plot(sizes, [one.leave.value for one in series], marker="o", color=colour, label=f"{name}: leave")
        moved.plot(sizes, [one.join.value for one in series], marker="x", color=colour, linestyle="--")
        lookup.plot(sizes, [one.lookup_us for one in series], marker="o", color=colour, label=name)
        rebuild.plot(sizes, [one.rebuild_ms for one in series], marker="o", color=colour, label=name)
    lookup.axhline(1, linestyle=":", color="grey")
    rebuild.plot([1_000], [50], marker="v", color="grey", linestyle="", label="budget")
    even, size = fleets[0].even, sweep[-1].instances
    swept = [one for one in sweep if (one.instances, one.points, one.bound) == (size, even.points, even.bound)]
    swept.sort(key=lambda one: one.partitions / one.instances)
    each = [one.partitions / one.instances for one in swept]
    fewer.plot(each, [one.leave.value for one in swept], marker="o", label="leave")
    fewer.plot(each, [one.join.value for one in swept], marker="x", linestyle="--", label="join")
    fewer.axhline(1.05, linestyle=":", color="grey")
    fewer.set_xlabel("partitions for each instance")
    fewer.set_xscale("log")
    for axes, title in zip((moved, lookup, rebuild, fewer), _TITLES, strict=True):
        axes.set_title(title)
        axes.grid(visible=True, which="major", alpha=0.3)
        axes.legend(fontsize=7)
        if axes is not fewer:
            axes.set_xscale("log")
            axes.set_yscale("log")
            axes.set_xlabel("instances")
    moved.set_title("moved share by ideal share (dashed: join)")
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
