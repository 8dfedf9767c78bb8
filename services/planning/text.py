"""A plan in words: every figure with the arithmetic that it comes from."""

from typing import Final

from services.planning.sizing import BUSY, FULL, SHAPES, STANDBYS, Need, Plan, Term

_STEPS: Final = ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
_WHAT: Final = {
    "message": "messages/s",
    "connect": "connects/s",
    "connection_s": "connections",
    "update": "updates/s",
    "history_row": "updates/s",
    "fix": "updates/s",
    "delivery": "updates/s",
    "shown": "updates/s",
    "publish": "news/s",
    "publish_delivery": "news/s",
}


def count(value: float) -> str:
    """A number with its thousands apart."""
    return f"{value:,.0f}" if value >= 100 else f"{value:,.3g}"


def size(value: float) -> str:
    """Bytes in decimal units: "2.88 TB"."""
    for step, prefix in _STEPS:
        if value >= step:
            return f"{value / step:.3g} {prefix}B" if value < 999.5 * step else f"{value / step:,.0f} {prefix}B"
    return f"{value:.0f} B"


def memory(value: float) -> str:
    """Bytes of memory in binary units."""
    return f"{value / 2**30:.1f} GiB" if value >= 2**30 else f"{value / 2**20:.0f} MiB"


def render(plan: Plan) -> str:
    """The whole plan."""
    parts = [_rates(plan), _needs("Processes of Hither", plan.processes), _needs("Engines", plan.engines)]
    return "\n\n".join([*parts, _partitions(plan), _costs(plan)])


def table(plan: Plan) -> str:
    """How many of what, as a table in Markdown."""
    lines = [
        "| what | instances | each | busy at the peak | decided by |",
        "|---|---|---|---|---|",
    ]
    for need in (*plan.processes, *plan.engines):
        standbys = f" + {count(need.standbys)} standby" if need.standbys else ""
        cores = f"{need.cores:,.1f} cores" if need.terms else "not by traffic"
        mark = " (assumed)" if need.assumed else ""
        lines.append(
            f"| {need.kind} | {count(need.instances)}{standbys} | {_each(need)} | {cores}{mark} | {need.bound_by} |"
        )
    return "\n".join(lines)


def _rates(plan: Plan) -> str:
    load = plan.workload
    nearby = load.connected_friends * load.nearby_share
    rows = (
        ("messages a day", f"{count(load.daily_users)} users x {load.messages_each:g}", count(load.messages_a_day)),
        ("messages, average", f"{count(load.messages_a_day)} / 86,400 s", f"{count(load.messages_per_s)}/s"),
        ("messages, peak", f"{count(load.messages_per_s)}/s x {load.peak_factor:g}", f"{count(load.peak_messages_per_s)}/s"),
        ("texts a day", f"{count(load.messages_a_day)} x {load.message_bytes:g} B", size(load.text_bytes_a_day)),
        ("messages stored", _stored_as(plan, "message", load.messages_a_day, load.message_days), size(plan.stored_bytes["messages"])),
        ("connections", f"{count(load.daily_users)} users x {load.concurrent_share:g}", count(load.connections)),
        (
            "connects, peak",
            f"{count(load.daily_users)} users x {load.connects_each:g} / 86,400 s x {load.peak_factor:g}",
            f"{count(load.peak_connects_per_s)}/s",
        ),
        ("updates, average", f"{count(load.sharing)} sharers / {load.update_interval_s:g} s", f"{count(load.updates_per_s)}/s"),
        ("updates, peak", f"{count(load.updates_per_s)}/s x {load.update_peak_factor:g}", f"{count(load.peak_updates_per_s)}/s"),
        (
            "locations a day",
            f"{count(load.updates_per_s)}/s x 86,400 s x {load.location_bytes:g} B",
            size(load.history_bytes_a_day),
        ),
        (
            "locations, history",
            f"{size(load.history_bytes_a_day)} x {load.history_days:g} days",
            size(load.history_bytes_a_day * load.history_days),
        ),
        (
            "history stored",
            _stored_as(plan, "history_row", load.updates_per_s * 86_400, load.history_days),
            size(plan.stored_bytes["history"]),
        ),
        ("followers connected", f"{load.friends:g} friends x {load.concurrent_share:g}", count(load.connected_friends)),
        ("of them nearby", f"{count(load.connected_friends)} x {load.nearby_share:g}", f"{nearby:g}"),
    )  # fmt: skip
    return "\n".join(["Rates and volumes", *(f"  {name:20} {formula:58} = {value}" for name, formula, value in rows)])


def _stored_as(plan: Plan, what: str, a_day: float, days: float) -> str:
    row_bytes = plan.costs.of(what, "cassandra").disk_bytes
    return f"{count(a_day)} x {days:g} days x {row_bytes:.0f} B x {plan.workload.replication:g} copies"


def _needs(title: str, needs: tuple[Need, ...]) -> str:
    return "\n".join([f"{title} (a core at most {BUSY:.0%} busy, a disk at most {FULL:.0%} full)", *map(_need, needs)])


def _need(need: Need) -> str:
    lines = [_term(term) for term in need.terms]
    standbys = f" and {count(need.standbys)} standby" if need.standbys else ""
    busy = f"{need.cores:,.1f} cores busy" if need.terms else "not sized by traffic"
    lines.append(f"    = {busy} -> {count(need.instances)}{standbys}, each {_each(need)}; decided by {need.bound_by}")
    return "\n".join([f"  {need.kind}", *lines])


def _term(term: Term) -> str:
    times = f" x {term.times:g}" if term.times != 1 else ""
    of_what = f"{term.what}: {count(term.per_s)} {_WHAT[term.what]} x {term.cpu_us:,.4g} us{times}"
    return f"    {of_what:72} = {term.cores:,.2f} cores{'  (assumed)' if term.assumed else ''}"


def _each(need: Need) -> str:
    cores = f"{need.cores_each} core{'s' if need.cores_each > 1 else ''}"
    held = memory(need.memory_bytes_each) if need.memory_bytes_each else "memory not measured"
    disk = f", {size(need.disk_bytes_each)} disk" if need.disk_bytes_each else ""
    return f"{cores}, {held}{disk}"


def _partitions(plan: Plan) -> str:
    lines = [
        "Partitions (fixed for the life of the data)",
        f"  {plan.partitions}: {plan.writes_per_partition:,.0f} messages/s in each at the peak (watch above 5,000)",
        "Not sized",
        "  push: nobody has measured it yet; logins: a password costs what [directory] hash_* says",
    ]
    split = [plan.need(kind) for kind in STANDBYS if plan.need(kind).instances > 1]
    lines += [
        f"  {need.kind}: one server is not enough; the load has to be split over {need.instances}" for need in split
    ]
    return "\n".join(lines)


def _costs(plan: Plan) -> str:
    lines = [f"Costs of one (measured {plan.costs.measured})"]
    for cost in plan.costs.all():
        figures = (
            f"{cost.cpu_us:,.4g} us" if cost.cpu_us else "",
            f"{size(cost.disk_bytes)} on disk" if cost.disk_bytes else "",
            f"{size(cost.memory_bytes)} of memory" if cost.memory_bytes else "",
        )
        if any(figures):
            lines.append(f"  {cost.what:17}{cost.where:12}{', '.join(filter(None, figures)):42}{cost.source}")
    shapes = ", ".join(f"{kind} {shape.cores} cores" for kind, shape in SHAPES.items())
    lines.append(f"Servers are counted in sizes that are a choice: {shapes}.")
    lines.append("A follower of a log or of a partition is counted as its leader is; it costs less.")
    return "\n".join(lines)
