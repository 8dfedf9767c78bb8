"""`hither plan`: an option for each fact of the workload."""

import re
from collections.abc import Callable
from dataclasses import fields
from typing import Any, Final

import click

from services.planning.costs import load_costs
from services.planning.sizing import plan as make_plan
from services.planning.text import render, table
from services.planning.workload import Workload

_NUMBER: Final = re.compile(r"(\d+(?:\.\d+)?)([kKmMgGbBtT]?)")
_FACTORS: Final = {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9, "b": 1e9, "t": 1e12}
_MEANINGS: Final = {
    "daily_users": "Users on a day.",
    "messages_each": "Messages that each sends on a day.",
    "message_bytes": "Bytes of a text.",
    "peak_factor": "The busiest time, relative to the average.",
    "message_days": "Days that messages are kept.",
    "concurrent_share": "Share of the users that is connected at the busiest time, 0 to 1.",
    "connects_each": "Times that a user connects on a day.",
    "sharers": "Users who share their location at the same time. Default: a fifth of the daily users.",
    "update_interval_s": "Seconds between two updates of a sharer.",
    "update_peak_factor": "The busiest time for updates, relative to the average.",
    "location_bytes": "Bytes of a location in the history.",
    "history_days": "Days that the history of locations is kept.",
    "friends": "Friends of a user.",
    "nearby_share": "Share of the connected friends within the radius, 0 to 1.",
    "log_hours": "Hours of messages that the log has room for.",
    "replication": "Copies in the log and in the message store.",
}


class Amount(click.ParamType[float]):
    """A number that may end in K, M, B (or G) or T."""

    name = "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """The number; fails for anything else."""
        if isinstance(value, float | int):
            return float(value)
        found = _NUMBER.fullmatch(str(value))
        if found is None:
            self.fail(f"{value!r} is no number such as 400, 2.5, 10K, 50M or 1.5B", param, ctx)
        return float(found[1]) * _FACTORS[found[2].lower()]


def _options(command: Callable[..., None]) -> Callable[..., None]:
    for fact in reversed(fields(Workload)):
        name = "--" + fact.name.replace("_", "-")
        given = (
            None if fact.default is None else f"{fact.default:g}" if fact.default < 1e6 else f"{fact.default / 1e6:g}M"
        )
        command = click.option(
            name, type=Amount(), default=given, show_default=given or False, help=_MEANINGS[fact.name]
        )(command)
    return command


@click.command("plan")
@_options
@click.option("--markdown", is_flag=True, help="Only how many of what, as a table.")
def plan(markdown: bool, **facts: float | None) -> None:
    """What a load needs: rates, storage, and how many of each process and engine, with the arithmetic. Numbers may end in K, M,
    B or T.
    """
    try:
        workload = Workload(**facts)  # type: ignore[arg-type] # only `sharers` may be None
    except ValueError as error:
        raise click.ClickException(str(error)) from error
    found = make_plan(workload, load_costs())
    click.echo(table(found) if markdown else render(found))
