"""Alerts ask for metrics that the code exports, with labels that these have, and the README says what each means."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml

from tests.support.deployment import DEPLOY

ROOMS = ("discovery", "services", "edge")
RULES: list[dict[str, Any]] = [
    rule for group in yaml.safe_load((DEPLOY / "alerts.yaml").read_text())["groups"] for rule in group["rules"]
]
_SUFFIXES = {"Counter": ("_total",), "Gauge": ("",), "Histogram": ("_bucket", "_sum", "_count")}
_KINDS = {
    **{kind: kind for kind in _SUFFIXES},
    **{f"{kind}MetricFamily": kind for kind in _SUFFIXES},
    "_labelled": "Counter",  # of edge/metrics.py
}
_ALWAYS = {"instance", "job", "le"}
_OF_OTHERS: dict[str, set[str]] = {"up": set(), "process_cpu_seconds_total": set()}
"""What Prometheus and its client library show of every process."""


def exported() -> dict[str, set[str]]:
    """The names of the metrics that the code makes, with their labels."""
    calls = (
        node
        for room in ROOMS
        for file in (DEPLOY.parent / room).rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Call)
    )
    return {name: labels for call in calls for name, labels in _made_by(call)}


def _made_by(call: ast.Call) -> Iterator[tuple[str, set[str]]]:
    kind = _KINDS.get(getattr(call.func, "id", ""))
    name = call.args[0].value if call.args and isinstance(call.args[0], ast.Constant) else None
    if kind is None or not isinstance(name, str) or not name.startswith("hither_"):
        return
    given = [*call.args[2:3], *(each.value for each in call.keywords if each.arg in ("labels", "labelnames"))]
    labels = {node.value for each in given for node in ast.walk(each) if isinstance(node, ast.Constant)}
    for suffix in _SUFFIXES[kind]:
        yield name.removesuffix("_total") + suffix, {label for label in labels if isinstance(label, str)}


METRICS = exported() | _OF_OTHERS


def selectors(node: object) -> Iterator[tuple[str, set[str]]]:
    """What an expression takes its numbers from: metrics, and the labels that it looks at."""
    if isinstance(node, promql_parser.VectorSelector):
        yield str(node.name), {matcher.name for matcher in node.matchers.matchers}
    for part in ("lhs", "rhs", "expr", "args", "vector_selector"):
        below = getattr(node, part, None)
        for each in below if isinstance(below, list) else [below]:
            if each is not None:
                yield from selectors(each)


def test_the_code_is_read_as_it_exports() -> None:
    assert METRICS["hither_calls_total"] == {"method", "code"}
    assert METRICS["hither_edge_closes_total"] == {"code"}
    assert METRICS["hither_projection_lag_seconds"] == {"projection", "partition"}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: str(rule["alert"]))
def test_an_alert_asks_for_what_is_exported(rule: dict[str, Any]) -> None:
    found = list(selectors(promql_parser.parse(rule["expr"])))
    assert found
    named = {name for name, _ in found}
    assert set(re.findall(r"\bhither_\w+", rule["expr"])) == named - _OF_OTHERS.keys()
    assert named <= METRICS.keys()
    assert all(labels <= METRICS[name] | _ALWAYS for name, labels in found)
    known = set().union(*(METRICS[name] for name in named)) | _ALWAYS
    grouped = {label.strip() for group in re.findall(r"by \(([^)]*)\)", rule["expr"]) for label in group.split(",")}
    assert grouped <= known
    assert set(re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"])) <= known


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: str(rule["alert"]))
def test_an_alert_says_how_much_it_matters_and_is_explained(rule: dict[str, Any]) -> None:
    assert rule.keys() <= {"alert", "expr", "for", "labels", "annotations"}
    assert rule["labels"]["severity"] in ("page", "look")
    assert f"| {rule['alert']} |" in (DEPLOY / "README.md").read_text()


def test_alerts_have_names_of_their_own_and_prometheus_reads_them() -> None:
    assert len({rule["alert"] for rule in RULES}) == len(RULES)
    prometheus = yaml.safe_load((DEPLOY / "prometheus.yaml").read_text())
    assert [Path(file).name for file in prometheus["rule_files"]] == ["alerts.yaml"]


def test_calls_are_told_apart_by_methods_that_exist() -> None:
    contract = "".join(path.read_text() for path in (DEPLOY.parent / "proto/hither").rglob("*_service.proto"))
    asked = {
        name
        for rule in RULES
        for match in re.findall(r'\.\*/\(?([\w|]+)\)?"', rule["expr"])
        for name in match.split("|")
    }
    assert asked
    assert all(f"rpc {name}(" in contract for name in asked)
