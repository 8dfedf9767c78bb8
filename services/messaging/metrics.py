"""What messaging tells its operators: one place for the names and the meaning of its metrics."""

from prometheus_client import Counter, Gauge

LAG = Gauge(
    "hither_projection_lag_seconds",
    "Age of the newest message that the projection has applied, when it applied it; 0 when it has nothing left to apply.",
    ["projection", "partition"],
)
UNHEALTHY = Gauge(
    "hither_projection_unhealthy",
    "1 while the projection has failed and not come through since.",
    ["projection", "partition"],
)
BATCHES = Counter("hither_projection_batches", "Batches whose rows are durable.", ["projection"])
RECORDS = Counter("hither_projection_records", "Records that were applied, repeated ones among them.", ["projection"])
ROWS = Counter("hither_projection_rows", "Rows that were written.", ["projection"])
COMMITS = Counter(
    "hither_projection_commits", "Times that a projection's place in its log became durable.", ["projection"]
)
FAILURES = Counter("hither_projection_failures", "Times that a projection stopped and began again.", ["projection"])
REPEATED = Counter(
    "hither_messaging_repeated_sends", "Accepted messages that repeated an earlier one and were dropped."
)
REDELIVERED = Counter("hither_messaging_redelivered", "Inbox rows that were there before and were told of again.")
RETOLD = Counter("hither_messaging_retold", "Events told again because it was not sure that they had been taken.")
UNDELIVERED = Counter("hither_messaging_dropped_deliveries", "Events that were not told to connected devices.", ["why"])
PUSHED = Counter("hither_messaging_push_records", "Messages handed to push.")
SENDS_WAITING = Gauge("hither_messaging_waiting_sends", "Sends that wait for their outcome.")
APPENDS = Counter("hither_messaging_appends", "Calls that appended accepted messages; each holds what had gathered.")
SIGNALS_DROPPED = Counter(
    "hither_messaging_dropped_signals", "Conflated events that were dropped because too many waited."
)
ACKNOWLEDGED = Counter("hither_messaging_acknowledgements", "Acknowledgements that were worked off, after coalescing.")
ACKNOWLEDGEMENT_FAILURES = Counter(
    "hither_messaging_acknowledgement_failures", "Times that working off acknowledgements failed; they were kept."
)
TAIL_READS = Counter(
    "hither_messaging_tail_reads",
    "Reads of conversations that looked into a layer of tails (process, shared): hit, stale (extended by what it lacked) or miss.",
    ["layer", "outcome"],
)
SHARED_TAILS = Counter(
    "hither_messaging_shared_tails",
    "What became of the tails that instances share: stored or dropped; and of the cache: failed (then left alone), skipped meanwhile.",
    ["outcome"],
)
