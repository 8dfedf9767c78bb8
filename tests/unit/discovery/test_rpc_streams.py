"""The streams of a process over loopback gRPC, as another process sees them."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import TypeVar

import grpc
import pytest
from google.protobuf.message import Message

from discovery.registry.embedded import EmbeddedRegistry
from discovery.rpc.deliver import EDGE_KEY
from discovery.rpc.status import from_status
from hither.edge.v1.deliver_pb2 import DeliverBatch
from hither.edge.v1.deliver_service_pb2_grpc import DeliverServiceStub
from hither.mesh.v1 import caller_pb2, options_pb2, relay_pb2
from hither.mesh.v1.relay_service_pb2_grpc import RelayServiceStub
from hither.messaging.v1 import messaging_service_pb2 as pb
from tests.support.cluster import SEND, Keys, Process, running_process

USER = caller_pb2.Caller(role=options_pb2.ACCESS_USER, user_id="alice", device_id="phone")
Any_ = TypeVar("Any_")


@pytest.fixture
async def process() -> AsyncIterator[Process]:
    async with running_process(EmbeddedRegistry(), Keys(), "served") as process:
        yield process


@pytest.fixture
async def channel(process: Process) -> AsyncIterator[grpc.aio.Channel]:
    async with grpc.aio.insecure_channel(process.server.address) as channel:
        yield channel


def metadata(process: Process, edge_id: str = "") -> tuple[tuple[str, str], ...]:
    token = process.mesh._peers._token
    assert token is not None
    return (("authorization", f"Bearer {token()}"), (EDGE_KEY, edge_id))


def ask(*numbers: int) -> list[relay_pb2.RelayEnvelope]:
    requests = [pb.SendMessageRequest(conversation_id="g.1", client_id=str(number), text="hi") for number in numbers]
    return [
        relay_pb2.RelayEnvelope(
            correlation_id=int(request.client_id),
            request=relay_pb2.RelayRequest(
                method=SEND, caller=USER, payload=request.SerializeToString(), timeout_ms=5000
            ),
        )
        for request in requests
    ]


async def read(stream: "grpc.aio.StreamStreamCall[relay_pb2.RelayBatch, relay_pb2.RelayBatch]") -> relay_pb2.RelayBatch:
    batch = await asyncio.wait_for(stream.read(), 30)
    assert isinstance(batch, relay_pb2.RelayBatch)
    return batch


async def end_of(stream: "grpc.aio.StreamStreamCall[Any_, Any_]") -> grpc.StatusCode:
    """The status that the stream ends with: gRPC tells it only to who has read everything before it."""
    async with asyncio.timeout(30):
        with suppress(grpc.aio.AioRpcError):
            while await stream.read() is not grpc.aio.EOF:
                pass
        return await stream.code()


async def test_a_thousand_relayed_requests_are_all_answered(process: Process, channel: grpc.aio.Channel) -> None:
    stream = RelayServiceStub(channel).Exchange(metadata=metadata(process))
    credit = (await read(stream)).credit
    answered: list[int] = []
    asked = seq = 0
    while len(answered) < 1000:
        size = min(credit, 100, 1000 - asked)
        if size:
            seq += 1
            await stream.write(relay_pb2.RelayBatch(seq=seq, envelopes=ask(*range(asked, asked + size))))
            asked, credit = asked + size, credit - size
        batch = await read(stream)
        credit += batch.credit
        answered += [envelope.correlation_id for envelope in batch.envelopes if envelope.HasField("response")]
    await stream.done_writing()

    assert sorted(answered) == list(range(1000))
    assert await stream.read() is grpc.aio.EOF


async def test_nobody_relays_for_an_operator(process: Process, channel: grpc.aio.Channel) -> None:
    stream = RelayServiceStub(channel).Exchange(metadata=metadata(process))
    await read(stream)
    [envelope] = ask(1)
    envelope.request.caller.CopyFrom(caller_pb2.Caller(role=options_pb2.ACCESS_ADMIN, service="ops"))
    await stream.write(relay_pb2.RelayBatch(seq=1, envelopes=[envelope]))

    [answer] = (await read(stream)).envelopes

    assert from_status(answer.error).reason == "ACCESS_DENIED"
    assert not process.servicer.seen


async def test_a_requester_beyond_its_credit_is_cut_off(process: Process, channel: grpc.aio.Channel) -> None:
    async def hang(_request: Message) -> Message:
        await asyncio.Event().wait()
        raise AssertionError

    process.servicer.behaviour = hang
    stream = RelayServiceStub(channel).Exchange(metadata=metadata(process))
    credit = (await read(stream)).credit
    for seq in range(credit // 100 + 1):
        envelopes = ask(*range(seq * 100, (seq + 1) * 100))
        await stream.write(relay_pb2.RelayBatch(seq=seq + 1, envelopes=envelopes))

    assert await end_of(stream) is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_bytes_that_are_no_batch_end_the_stream(process: Process, channel: grpc.aio.Channel) -> None:
    method: grpc.aio.StreamStreamMultiCallable[bytes, bytes] = channel.stream_stream(
        "/hither.mesh.v1.RelayService/Exchange"
    )
    stream = method(metadata=metadata(process))
    await stream.write(b"\xff\xff")

    assert await end_of(stream) is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_drain_does_not_wait_for_idle_streams(process: Process, channel: grpc.aio.Channel) -> None:
    process.mesh.attach_edge("edge-1", lambda _: [])
    relay = RelayServiceStub(channel).Exchange(metadata=metadata(process))
    await relay.read()
    deliver = DeliverServiceStub(channel).Deliver(metadata=metadata(process, "edge-1"))
    await deliver.write(DeliverBatch(seq=1))
    await deliver.read()

    await asyncio.wait_for(process.server.drain(60), 30)

    assert await end_of(relay) is grpc.StatusCode.OK
    assert await end_of(deliver) is grpc.StatusCode.OK


async def test_a_hung_up_stream_cancels_its_requests(process: Process, channel: grpc.aio.Channel) -> None:
    begun, ended = asyncio.Event(), asyncio.Event()

    async def hang(_request: Message) -> Message:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        raise AssertionError

    process.servicer.behaviour = hang
    stream = RelayServiceStub(channel).Exchange(metadata=metadata(process))
    await stream.read()
    await stream.write(relay_pb2.RelayBatch(seq=1, envelopes=ask(1)))
    await begun.wait()

    stream.cancel()

    await asyncio.wait_for(ended.wait(), 30)


async def test_batches_for_an_edge_must_be_numbered_without_gaps(process: Process, channel: grpc.aio.Channel) -> None:
    process.mesh.attach_edge("edge-1", lambda _: [])
    stream = DeliverServiceStub(channel).Deliver(metadata=metadata(process, "edge-1"))

    await stream.write(DeliverBatch(seq=2))

    assert await end_of(stream) is grpc.StatusCode.INVALID_ARGUMENT
