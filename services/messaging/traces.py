"""The spans of a message's way through the log: appended, sequenced, put into inboxes.

A batch of a projection holds messages of different traces: each message whose trace is sampled gets a span of its own, as
long as the work on the batch was; the others cost nothing. Both projections' spans come out of the span of the appending,
whose place stands in the records: what a record holds may not depend on who projects, so it cannot name a projection's.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace

from opentelemetry.trace import SpanKind

from discovery.rpc.call import find_call
from discovery.rpc.tracing import MESSAGING_SYSTEM, OpenSpan, onward, open_span, read_traceparent
from services.messaging.inboxing import Arrival


def open_append(message_id: int, log: str) -> tuple[OpenSpan | None, str]:
    """The span of appending the message that the current call sends, and the `traceparent` for its record; None and an
    empty one if the trace is not sampled.
    """
    call = find_call()
    if call is None or not call.sampled:
        return None, ""
    span = open_span(
        f"append {log}",
        SpanKind.PRODUCER,
        call,
        {
            "messaging.system": MESSAGING_SYSTEM,
            "messaging.operation.name": "append",
            "messaging.operation.type": "send",
            "messaging.destination.name": log,
            "messaging.message.id": str(message_id),
        },
    )
    return span, onward(span, call)


def projected(traceparents: Iterable[str], log: str, group: str, partition: int, began_ns: int) -> dict[str, str]:
    """Records that the messages of these places were projected in a batch that ends now; returns the place after it for each.
    Empty strings are left out.
    """
    after: dict[str, str] = {}
    sampled = dict.fromkeys(value for value in traceparents if value)
    for value in sampled:
        place = read_traceparent(value)
        if place is None:
            continue
        span = open_span(
            f"project {log}",
            SpanKind.CONSUMER,
            place,
            {
                "messaging.system": MESSAGING_SYSTEM,
                "messaging.operation.name": "project",
                "messaging.operation.type": "process",
                "messaging.destination.name": log,
                "messaging.destination.partition.id": str(partition),
                "messaging.consumer.group.name": group,
                "hither.batch.sampled": len(sampled),
            },
            began_ns,
        )
        after[value] = onward(span, place)
        if span is not None:
            span.end()
    return after


def inboxed(arrivals: Sequence[Arrival], log: str, group: str, partition: int, began_ns: int) -> Sequence[Arrival]:
    """As `projected`, for arrivals in inboxes; returns them with the places after it."""
    after = projected((arrival.traceparent for arrival in arrivals), log, group, partition, began_ns)
    if not after:
        return arrivals
    return [
        replace(arrival, traceparent=after[arrival.traceparent]) if arrival.traceparent in after else arrival
        for arrival in arrivals
    ]
