from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench.latency import Run
from bench.peer import field
from bench.report import plot, render


def run(load_per_s: float = 1000.0, *, p99: float = 20.0, delivered: int = 100, generator_share: float = 0.2) -> Run:
    latencies = {"p50": 5.0, "p90": 10.0, "p99": p99, "p99.9": p99, "max": p99}
    curve = [(0.0, 5.0), (90.0, 10.0), (99.0, p99)]
    return Run(
        load_per_s, 100, 100, delivered, 0, latencies, latencies, latencies, 200.0, 0.9, generator_share, curve, curve
    )


def result(*runs: Run) -> dict[str, Any]:
    return {
        "date": "2026-01-01 12:00 UTC",
        "commit": "abc",
        "mode": "full",
        "machine": "2 x CPU",
        "server_cpu": "all CPUs",
        "p99_ms": 50.0,
        "users": 200,
        "latency": {
            "runs": [asdict(one) for one in runs],
            "highest_load_per_s": 1000.0,
            "half_load": asdict(run(500.0)),
        },
        "fanout": {
            "connections": 1000,
            "frame_bytes": 300,
            "server_us_per_delivery": 10.0,
            "burst": 8,
            "server_us_per_delivery_in_bursts": 2.0,
            "floor_us_per_write": 8.0,
            "ratio": 1.25,
            "all_reached_ms_median": 12.0,
            "all_reached_ms_max": 15.0,
            "generator_share": 0.3,
        },
        "idle": {
            "connections": 5000,
            "bytes_per_connection": 20480.0,
            "connects_per_s": 900.0,
            "server_us_per_connect": 500.0,
        },
    }


def test_a_load_is_met_only_if_everything_arrived_in_time() -> None:
    assert run().meets(50.0)
    assert not run(p99=51.0).meets(50.0)
    assert not run(delivered=99).meets(50.0)


def test_the_table_says_what_was_reached_and_whether_the_generator_was_the_limit() -> None:
    table = render(result(run(), run(2000.0, p99=80.0, generator_share=0.95)))
    assert "**1000 messages/s**" in table
    assert "ratio **1.25**" in table
    assert "20.0 KiB" in table
    assert "up to 95%: may have been the limit" in table


def test_a_load_that_was_not_delivered_in_full_says_so() -> None:
    assert "10 of 100 not delivered in time" in render(result(run(delivered=90)))


def test_the_plot_is_drawn(tmp_path: Path) -> None:
    plot(result(run()), tmp_path / "latency.svg")
    assert (tmp_path / "latency.svg").read_text().startswith("<?xml")


def test_a_field_is_found_in_the_bytes_of_a_frame() -> None:
    frame = b'{"type":"ack","id":"r1-7","client_id":"r1-7","seq":"3"}'
    assert field(frame, b"client_id") == b"r1-7"
    assert field(frame, b"pos") == b""
