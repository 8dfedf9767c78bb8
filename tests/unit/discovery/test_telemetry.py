import json
import logging
import time
from collections.abc import Iterator

import pytest
import structlog
from prometheus_client import CollectorRegistry, generate_latest

from discovery.rpc.call import Call
from discovery.rpc.telemetry import CallMetrics, TelemetrySettings, configure_logging
from hither.messaging.v1 import messaging_service_pb2 as pb
from tests.support.cluster import ALICE, SEND, Scripted, new_dispatcher


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


@pytest.mark.usefixtures("logging_as_it_was")
async def test_a_line_names_the_place_of_the_call_that_it_is_logged_in(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("info", json=True)
    servicer = Scripted()

    async def serve(_request: object) -> pb.SendMessageResponse:
        structlog.get_logger("t").info("inside")
        logging.getLogger("library").info("inside")
        structlog.get_logger("t").info("of another", trace_id="t-1")
        return pb.SendMessageResponse()

    servicer.behaviour = serve
    request = pb.SendMessageRequest(conversation_id="g.1", client_id="1", text="hi")
    await new_dispatcher(servicer).dispatch(SEND, request, Call(SEND, ALICE, time.monotonic() + 5, "t-0", "s-0"))
    structlog.get_logger("t").info("outside")

    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [(line.get("trace_id"), line.get("span_id")) for line in lines] == [
        ("t-0", "s-0"),
        ("t-0", "s-0"),
        ("t-1", None),
        (None, None),
    ]


@pytest.mark.parametrize(
    "settings",
    [
        {"trace_ratio": 1.5},
        {"trace_ratio": -0.1},
        {"otlp_endpoint": "collector:4317"},
        {"otlp_endpoint": "https://me:secret@collector:4317"},
    ],
)
def test_settings_that_cannot_be_meant_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(settings))):
        TelemetrySettings(**settings)  # type: ignore[arg-type] # one of each kind


def test_an_unknown_level_is_refused() -> None:
    with pytest.raises(ValueError, match="loud"):
        configure_logging("loud", json=True)
