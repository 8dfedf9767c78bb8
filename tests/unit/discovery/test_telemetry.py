import json
import logging
from collections.abc import Iterator

import pytest
import structlog
from prometheus_client import CollectorRegistry, generate_latest

from discovery.rpc.telemetry import CallMetrics, configure_logging


@pytest.fixture
def logging_as_it_was() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    structlog.reset_defaults()
    root.handlers[:] = handlers
    root.setLevel(level)


def test_counted_calls_become_metrics() -> None:
    registry = CollectorRegistry()
    metrics = CallMetrics(registry)
    metrics.in_flight = 3
    metrics.retries = 2
    metrics.of("/a.A/B").observe("OK", 0.003)
    metrics.of("/a.A/B").observe("NOT_FOUND", 20.0)

    text = generate_latest(registry).decode()

    assert 'hither_calls_total{code="OK",method="/a.A/B"} 1.0' in text
    assert 'hither_calls_total{code="NOT_FOUND",method="/a.A/B"} 1.0' in text
    assert 'hither_call_seconds_bucket{le="0.0025",method="/a.A/B"} 0.0' in text
    assert 'hither_call_seconds_bucket{le="0.005",method="/a.A/B"} 1.0' in text
    assert 'hither_call_seconds_bucket{le="10.0",method="/a.A/B"} 1.0' in text
    assert 'hither_call_seconds_bucket{le="+Inf",method="/a.A/B"} 2.0' in text
    assert 'hither_call_seconds_count{method="/a.A/B"} 2.0' in text
    assert "hither_calls_in_flight 3.0" in text
    assert "hither_call_retries_total 2.0" in text


@pytest.mark.usefixtures("logging_as_it_was")
def test_a_failure_is_one_json_line_without_local_variables(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("info", json=True)
    password = "hunter2"  # noqa: F841 (a local variable that must not be printed)

    try:
        dict[str, str]()["why"]
    except KeyError:
        structlog.get_logger("t").exception("it failed", trace_id="t-1")

    [line] = capsys.readouterr().err.splitlines()
    entry = json.loads(line)
    assert (entry["event"], entry["trace_id"], entry["level"]) == ("it failed", "t-1", "error")
    assert entry["exception"][0]["exc_type"] == "KeyError"
    assert "hunter2" not in json.dumps([frame.get("locals") for frame in entry["exception"][0]["frames"]])


@pytest.mark.usefixtures("logging_as_it_was")
def test_text_for_people_shows_no_local_variables_either(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("info", json=False)
    password = "hunter" + str(2)  # noqa: F841 (a local variable that must not be printed)

    try:
        dict[str, str]()["why"]
    except KeyError:
        structlog.get_logger("t").exception("it failed")

    printed = capsys.readouterr().err
    assert "KeyError" in printed
    assert "hunter2" not in printed


@pytest.mark.usefixtures("logging_as_it_was")
def test_lines_below_the_level_are_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("warning", json=True)

    structlog.get_logger("t").info("too little")
    logging.getLogger("library").info("too little")
    logging.getLogger("library").warning("enough")

    assert [json.loads(line)["event"] for line in capsys.readouterr().err.splitlines()] == ["enough"]


def test_an_unknown_level_is_refused() -> None:
    with pytest.raises(ValueError, match="loud"):
        configure_logging("loud", json=True)
