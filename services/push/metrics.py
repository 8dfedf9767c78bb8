"""What push tells its operators: one place for the names and the meaning of its metrics."""

from typing import Final

from prometheus_client import Counter, Gauge, Histogram

RECORDS = Counter("hither_push_records", "Records of the log that were read, after a crash some of them again.")
MESSAGES_DROPPED = Counter(
    "hither_push_dropped_messages", "Messages for which nobody was woken up, whatever the device.", ["reason"]
)
GATHERED = Counter("hither_push_gathered_messages", "Messages that went along in the push of an earlier one.", ["kind"])
EXPEDITED = Counter("hither_push_expedited", "Gatherings that were sent before their time, for want of room.", ["why"])
WAKE_UPS = Counter(
    "hither_push_wake_ups", "What became of pushes to devices, and why.", ["platform", "kind", "fate", "reason"]
)
CONFLATED = Counter(
    "hither_push_conflated", "Pushes that took the place of one that still waited for the provider.", ["platform"]
)
ATTEMPTS = Counter("hither_push_attempts", "Attempts to send, by the provider's verdict.", ["platform", "outcome"])
LATENCY = Histogram(
    "hither_push_latency_seconds",
    "From the acceptance of a push's newest message to the provider's acceptance of the push.",
    ["platform", "kind"],
    buckets=(0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 3600.0),
)
QUEUED = Gauge("hither_push_queued", "Pushes that wait for the provider.", ["platform"])
IN_FLIGHT = Gauge("hither_push_in_flight", "Pushes that the provider is being sent.", ["platform"])
PROVIDER_UP = Gauge("hither_push_provider_up", "0 while the provider fails again and again.", ["platform"])
HELD = Gauge("hither_push_held_messages", "Messages that are gathered.")
ENGINE_FAILURES = Counter(
    "hither_push_engine_failures", "Times that the log, the store or another service did not answer.", ["asked"]
)
UNRECORDED = Counter("hither_push_unrecorded", "Fates that the delivery log does not have: too many waited for it.")

_MOST_REASONS = 100
_reasons: set[str] = set()
OTHER: Final = "OTHER"


def reason_label(reason: str) -> str:
    """The reason as a label: a provider's words are its own, and their number must not be."""
    if reason not in _reasons:
        if len(_reasons) >= _MOST_REASONS:
            return OTHER
        _reasons.add(reason)
    return reason
