"""The spans of messages that are projected in batches."""

import asyncio

from hither.messaging.v1 import records_pb2
from tests.support.memory_ports import Life
from tests.support.tracing import parent_of, place_of, recording
from tests.unit.messaging.harness import World, accepted, partition_of

SPAN = "b7ad6b7169203331"
ONE, OTHER = (f"00-{digit * 32}-{SPAN}-01" for digit in "12")


def traced(message_id: int, traceparent: str) -> bytes:
    record = records_pb2.AcceptedMessage.FromString(accepted(message_id))
    record.traceparent = traceparent
    return record.SerializeToString()


async def project(*records: bytes) -> World:
    world = World()
    world.teller.connected = {"ben1"}
    for record in records:
        world.accept(record)
    async with asyncio.timeout(30):
        await world.live(Life())
    return world


async def test_each_sampled_message_of_a_batch_has_spans_in_its_own_trace_and_the_others_have_none() -> None:
    with recording(ratio=0.0) as recorded:
        world = await project(traced(1, ONE), accepted(2), traced(3, OTHER))

    assert len(world.disk.messages["g.0"]) == 3
    spans = recorded.named("project messages")
    assert [place_of(span).trace_id[0] for span in spans] == ["1", "2"]
    assert {parent_of(span) for span in spans} == {SPAN}
    assert len({(span.start_time, (span.attributes or {})["hither.batch.sampled"]) for span in spans}) == 1
    inboxes = sorted((place_of(span).trace_id[0], parent_of(span)) for span in recorded.named("project inbox"))
    assert inboxes == [("1", SPAN), ("1", SPAN), ("2", SPAN), ("2", SPAN)]  # ann's partition and ben's


async def test_devices_are_told_from_the_span_of_their_inbox() -> None:
    with recording(ratio=0.0) as recorded:
        world = await project(traced(1, ONE), accepted(2))

    [told, untraced] = world.teller.told
    spans = {place_of(span).span_id for span in recorded.named("project inbox")}
    assert told.traceparent.split("-")[2] in spans
    assert untraced.traceparent == ""


async def test_a_record_for_inboxes_does_not_depend_on_who_made_it() -> None:
    with recording(ratio=1.0):
        one = await project(traced(1, ONE))
    other = await project(traced(1, ONE))

    records = [world.disk.records["inbox", partition_of("ben1")] for world in (one, other)]
    assert [record.value for record in records[0]] == [record.value for record in records[1]]
    assert records_pb2.InboxRecord.FromString(records[0][0].value).entries[0].traceparent == ONE
