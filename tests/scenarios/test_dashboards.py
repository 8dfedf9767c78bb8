"""What the dashboard asks for is what a running server shows."""

import itertools
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
from prometheus_client.parser import text_string_to_metric_families

from tests.support.people import WAIT_S, befriend, line, sign_up
from tests.support.runner import Hither, running_hither

BOARD = json.loads((Path(__file__).parents[2] / "deploy/dashboards/hither.json").read_text())
PANELS: list[dict[str, Any]] = BOARD["panels"]
SHOWN = [panel for panel in PANELS if panel["type"] != "row"]
_SUFFIXES = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_sum", "_count")}
_GROUPED = re.compile(r"by \(([^)]*)\) \((?:\w+\()?(hither_\w+)")


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def hither(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Hither]:
    """A process that is everything, and exports its spans, so that it has every metric that there is."""
    settings = {"HITHER_TELEMETRY_OTLP_ENDPOINT": "http://127.0.0.1:1"}
    async with running_hither(tmp_path_factory.mktemp("shown") / "data", settings) as server:
        yield server


@pytest_asyncio.fixture
async def http(hither: Hither) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=hither.url, timeout=WAIT_S) as client:
        yield client


def expressions() -> list[str]:
    return [target["expr"] for panel in SHOWN for target in panel["targets"]]


async def exported(http: httpx.AsyncClient) -> dict[str, set[str]]:
    """The names that a server exports, with the labels of their samples so far."""
    families = text_string_to_metric_families((await http.get("/metrics")).text)
    return {
        family.name + suffix: {label for sample in family.samples for label in sample.labels}
        for family in families
        for suffix in _SUFFIXES.get(family.type, ())
    }


async def test_every_metric_of_the_dashboard_is_exported(http: httpx.AsyncClient) -> None:
    names = await exported(http)
    variables = [variable["definition"] for variable in BOARD["templating"]["list"] if "definition" in variable]

    asked = set(re.findall(r"hither_\w+", " ".join(expressions() + variables)))

    assert asked - names.keys() == set()


async def test_every_label_that_the_dashboard_groups_by_is_there(http: httpx.AsyncClient, hither: Hither) -> None:
    alice, bob = await sign_up(http, "alice"), await sign_up(http, "bob")
    await befriend(alice, bob)
    async with line(hither.websocket_url, alice) as hers, line(hither.websocket_url, bob) as his:
        await hers.ask("send_message", to=bob.user_id, client_id="c1", text="hi")
        await his.next("message")
        names = await exported(http)

    grouped = [
        (name, label.strip())
        for expression in expressions()
        for labels, name in _GROUPED.findall(expression)
        for label in labels.split(",")
    ]

    assert len(grouped) > 20
    of_prometheus = {"instance"}
    missing = {(name, label) for name, label in grouped if names[name] and label not in names[name] | of_prometheus}
    assert missing == set()


def test_panels_have_numbers_of_their_own_and_do_not_overlap() -> None:
    places = [panel["gridPos"] for panel in PANELS]
    cells = [
        (x, y)
        for place in places
        for x, y in itertools.product(
            range(place["x"], place["x"] + place["w"]), range(place["y"], place["y"] + place["h"])
        )
    ]

    assert len({panel["id"] for panel in PANELS}) == len(PANELS)
    assert len(set(cells)) == len(cells)
    assert max(x for x, _ in cells) < 24


@pytest.mark.parametrize("panel", SHOWN, ids=lambda panel: str(panel["title"]))
def test_a_panel_says_what_it_shows_and_heeds_the_variables(panel: dict[str, Any]) -> None:
    assert panel["description"]
    assert panel["fieldConfig"]["defaults"]["unit"]
    for target in panel["targets"]:
        assert target["datasource"]["uid"] == "${datasource}"
        assert 'instance=~"$instance"' in target["expr"]
        assert target["expr"].count("(") == target["expr"].count(")")
