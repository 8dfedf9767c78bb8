"""What a load needs follows from the facts about it and from what one of each costs."""

import click
import pytest
from click.testing import CliRunner

from services.cli import main
from services.planning.command import Amount
from services.planning.costs import FILE, Cost, Costs, load_costs
from services.planning.sizing import BUSY, EDGE_CONNECTIONS, plan
from services.planning.text import render, size, table
from services.planning.workload import Workload

NOTHING = Costs([])


def line(text: str, start: str) -> str:
    """The first line that starts so, without its indentation."""
    return next(stripped for each in text.splitlines() if (stripped := each.strip()).startswith(start))


def test_fifty_million_users_send_23_thousand_messages_a_second() -> None:
    load = Workload()
    assert round(load.messages_per_s) == 23_148
    assert load.text_bytes_a_day == 200e9
    assert 50_000 < load.peak_messages_per_s < 70_000


def test_ten_million_sharers_make_a_third_of_a_million_updates_a_second_and_20_terabytes_a_week() -> None:
    load = Workload(sharers=10e6)
    assert round(load.updates_per_s) == 333_333
    assert load.peak_updates_per_s == pytest.approx(666_667, abs=1)
    assert load.history_bytes_a_day == pytest.approx(2.88e12)
    assert load.history_bytes_a_day * load.history_days == pytest.approx(20.2e12, rel=0.01)


def test_the_defaults_are_these_estimates() -> None:
    said = CliRunner().invoke(main, ["plan"]).output
    assert line(said, "messages, average").endswith("= 23,148/s")
    assert line(said, "updates, average").endswith("10,000,000 sharers / 30 s" + " " * 33 + " = 333,333/s")
    assert line(said, "locations, history").endswith("= 20.2 TB")


def test_cores_are_rate_times_cost_and_no_core_is_fuller_than_the_rule() -> None:
    found = plan(Workload(), Costs([Cost("message", "messaging", cpu_us=1000.0)])).need("messaging")
    assert found.cores == pytest.approx(69.4, abs=0.1)
    assert found.instances == 116
    assert found.cores / found.instances <= BUSY
    assert found.bound_by == "CPU"


def test_edges_that_cost_no_time_are_bound_by_their_connections() -> None:
    found = plan(Workload(), NOTHING).need("edge")
    assert found.instances == 10_000_000 / EDGE_CONNECTIONS
    assert found.bound_by == "connections"


def test_everything_has_two_instances_and_what_votes_has_three() -> None:
    found = plan(Workload(daily_users=100), NOTHING)
    assert {need.instances for need in found.processes} == {2}
    assert found.need("etcd").instances == found.need("cassandra").instances == found.need("kafka").instances == 3
    assert found.need("redis-bus").instances == found.need("redis-bus").standbys == 1


def test_a_store_is_bound_by_its_disks_when_rows_are_kept_for_long() -> None:
    found = plan(Workload(message_days=3650), Costs([Cost("message", "cassandra", disk_bytes=400.0)]))
    cassandra = found.need("cassandra")
    assert cassandra.bound_by == "disk"
    assert found.stored_bytes["messages"] == pytest.approx(2e9 * 3650 * 400 * 3)
    assert cassandra.instances * cassandra.disk_bytes_each * 0.6 == pytest.approx(found.stored_bytes["messages"])


def test_what_nobody_has_measured_is_called_assumed() -> None:
    costs = [
        Cost("update", "location", 100.0, source="assumed: the budget"),
        Cost("message", "messaging", 1000.0, source="bench"),
    ]
    found = plan(Workload(), Costs(costs))
    assert found.need("location").assumed
    assert not found.need("messaging").assumed
    assert line(render(found), "update: 666,667 updates/s x 100 us").endswith("(assumed)")
    assert line(table(found), "| location").count("(assumed)") == 1


def test_every_cost_says_where_it_comes_from() -> None:
    costs = load_costs(FILE)
    assert all(cost.source for cost in costs.all())
    assert {"edge", "messaging", "kafka", "cassandra", "postgresql", "redis"} <= {
        cost.where for cost in costs.all() if cost.what == "message" and cost.cpu_us
    }
    assert costs.of("connection_s", "edge").memory_bytes > 0
    assert all(
        costs.of(what, where).cpu_us
        for what, where in [("update", "location"), ("update", "edge"), ("shown", "location")]
    )


def test_an_update_costs_more_where_more_friends_are_shown_it() -> None:
    costs = Costs([Cost("update", "location", 500.0), Cost("shown", "location", 25.0)])
    load = Workload(friends=400, concurrent_share=0.2, nearby_share=0.05)
    assert plan(load, costs).need("location").cores == pytest.approx(load.peak_updates_per_s * (500 + 4 * 25) / 1e6)


def test_partitions_are_enough_for_every_owner() -> None:
    found = plan(Workload(), Costs([Cost("message", "messaging", cpu_us=1000.0)]))
    assert found.partitions >= 4 * found.need("messaging").instances
    assert plan(Workload(daily_users=1e6), NOTHING).partitions == 256


@pytest.mark.parametrize(("said", "meant"), [("400", 400), ("2.5", 2.5), ("10K", 1e4), ("50M", 5e7), ("1.5b", 1.5e9)])
def test_numbers_may_end_in_a_letter(said: str, meant: float) -> None:
    assert Amount().convert(said, None, None) == meant


@pytest.mark.parametrize("said", ["", "-1", "many", "1e6", "5 M", "nan"])
def test_other_words_are_no_numbers(said: str) -> None:
    with pytest.raises(click.BadParameter):
        Amount().convert(said, None, None)


@pytest.mark.parametrize("option", ["--daily-users=0", "--concurrent-share=2", "--peak-factor=0.5", "--replication=0"])
def test_facts_that_cannot_be_meant_are_refused_by_name(option: str) -> None:
    refused = CliRunner().invoke(main, ["plan", option])
    assert refused.exit_code == 1
    assert option[2:].partition("=")[0].replace("-", "_") in refused.output


def test_sharers_are_a_fifth_of_the_users_unless_said() -> None:
    said = CliRunner().invoke(main, ["plan", "--daily-users=5M"]).output
    assert "1,000,000 sharers / 30 s" in said


def test_sizes_are_shown_in_three_digits() -> None:
    assert [size(999), size(1000), size(2.88e12), size(839.5e12)] == ["999 B", "1 kB", "2.88 TB", "840 TB"]
