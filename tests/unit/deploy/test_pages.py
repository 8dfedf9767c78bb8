"""What the pages of deploy/ say is so."""

import re
import shlex

import pytest

from services.planning.command import Amount
from services.planning.costs import load_costs
from services.planning.sizing import plan
from services.planning.text import table
from services.planning.workload import Workload
from tests.support.deployment import DEPLOY, parsed
from tests.unit.deploy.test_kubernetes import FROM_OUTSIDE, KINDS

README = (DEPLOY / "README.md").read_text()
SIZING = (DEPLOY / "sizing.md").read_text()


@pytest.mark.parametrize("users", ["1M", "10M", "50M"])
def test_the_tables_of_sizes_are_what_the_plan_computes(users: str) -> None:
    found = plan(Workload(daily_users=Amount().convert(users, None, None)), load_costs())
    _, _, chapter = SIZING.partition(f"## {users} daily users\n")
    chapter = chapter.partition("\n## ")[0]
    assert table(found) in chapter, f"put the output of `hither plan --daily-users {users} --markdown` there"
    load = found.workload
    rates = (
        load.messages_per_s,
        load.peak_messages_per_s,
        load.connections,
        load.updates_per_s,
        load.peak_updates_per_s,
    )
    assert all(f"{rate:,.0f} " in chapter for rate in rates)
    assert f"; {found.partitions} partitions." in chapter


def test_every_command_in_the_readme_is_one() -> None:
    commands = re.findall(r"^ +hither (.*?)(?: +#.*)?$", README, re.MULTILINE)
    assert [shlex.split(command)[0] for command in commands] == ["init", "certs"]
    contexts = [parsed(shlex.split(command)) for command in commands]
    assert set(contexts[1].params["names"]) == set(KINDS)


def test_every_secret_that_pods_need_is_made_in_the_readme() -> None:
    made = set(re.findall(r"create secret \w+ (hither-[\w-]+)", README)) - {"hither-cert-"}
    assert made == {name for name in FROM_OUTSIDE if "-cert-" not in name} | {
        "hither-registry",
        "hither-engines",
        "hither-public-tls",
    }
    assert f"for kind in {' '.join(KINDS)}; do" in README


@pytest.mark.parametrize("page", ["README.md", "sizing.md"])
def test_links_lead_somewhere(page: str) -> None:
    links = re.findall(r"\]\(([^)#]+)\)", (DEPLOY / page).read_text())
    assert links
    assert [link for link in links if not (DEPLOY / link).exists()] == []
