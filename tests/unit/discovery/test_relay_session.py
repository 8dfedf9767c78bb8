import asyncio
from collections.abc import AsyncIterator
from itertools import count

import pytest
from google.protobuf.message import Message

from discovery.errors import HitherError, InvalidArgument, ResourceExhausted
from discovery.rpc.call import Role
from discovery.rpc.relay import MAX_ENVELOPES, RelaySession
from discovery.rpc.status import from_status
from hither.mesh.v1 import caller_pb2, options_pb2, relay_pb2
from hither.messaging.v1 import messaging_service_pb2 as pb
from tests.support.cluster import SEND, Scripted, new_dispatcher

CREDIT = 8
USER = caller_pb2.Caller(role=options_pb2.ACCESS_USER, user_id="alice", device_id="phone")


class Requester:
    """The other end of a stream, without a network in between."""

    def __init__(self, servicer: Scripted, credit: int = CREDIT) -> None:
        self.sent: asyncio.Queue[relay_pb2.RelayBatch | None] = asyncio.Queue()
        self.answers: asyncio.Queue[relay_pb2.RelayBatch] = asyncio.Queue()
        self.serving = asyncio.ensure_future(self._serve(servicer, credit))
        self._seq = count(1)

    async def _serve(self, servicer: Scripted, credit: int) -> None:
        failed: HitherError | None = None
        async with asyncio.TaskGroup() as group:
            self.session = RelaySession(new_dispatcher(servicer), group, credit=credit)
            try:
                await self.session.serve(self._requests(), self._write)
            except HitherError as error:
                failed = error
            finally:
                self.session.close()
        if failed is not None:
            raise failed

    async def _requests(self) -> AsyncIterator[bytes]:
        while (batch := await self.sent.get()) is not None:
            yield batch.SerializeToString()

    async def _write(self, message: bytes) -> None:
        await self.answers.put(relay_pb2.RelayBatch.FromString(message))

    async def send(self, *envelopes: relay_pb2.RelayEnvelope) -> None:
        await self.sent.put(relay_pb2.RelayBatch(seq=next(self._seq), envelopes=envelopes))

    async def next(self) -> relay_pb2.RelayBatch:
        return await asyncio.wait_for(self.answers.get(), 30)

    async def end(self) -> None:
        await self.sent.put(None)
        await asyncio.wait_for(self.serving, 30)


def ask(number: int, *, method: str = SEND, text: str = "hi", timeout_ms: int = 5000) -> relay_pb2.RelayEnvelope:
    payload = pb.SendMessageRequest(conversation_id="g.1", client_id=str(number), text=text).SerializeToString()
    request = relay_pb2.RelayRequest(method=method, caller=USER, payload=payload, timeout_ms=timeout_ms)
    return relay_pb2.RelayEnvelope(correlation_id=number, request=request)


@pytest.fixture
def servicer() -> Scripted:
    return Scripted()


@pytest.fixture
async def requester(servicer: Scripted) -> AsyncIterator[Requester]:
    requester = Requester(servicer)
    first = await requester.next()
    assert (first.seq, first.credit, len(first.envelopes)) == (0, CREDIT, 0)
    yield requester
    requester.serving.cancel()
    await asyncio.wait([requester.serving])


def reason(envelope: relay_pb2.RelayEnvelope) -> str:
    return from_status(envelope.error).reason


async def test_a_request_is_answered_under_its_number(requester: Requester, servicer: Scripted) -> None:
    await requester.send(ask(17))

    batch = await requester.next()

    [envelope] = batch.envelopes
    assert (batch.seq, batch.ack, batch.credit, envelope.correlation_id) == (1, 1, 1, 17)
    assert pb.SendMessageResponse.FromString(envelope.response) == pb.SendMessageResponse()
    assert (servicer.seen[0][1].caller.role, servicer.seen[0][1].caller.user_id) == (Role.USER, "alice")


async def test_a_request_goes_on_in_the_trace_that_it_names(requester: Requester, servicer: Scripted) -> None:
    envelope = ask(1)
    envelope.request.traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

    await requester.send(envelope)
    await requester.next()

    assert servicer.seen[0][1][3:] == ("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331", True)


async def test_requests_begin_in_the_order_in_which_they_come(requester: Requester, servicer: Scripted) -> None:
    await requester.send(ask(3), ask(1))
    await requester.send(ask(2))
    await requester.end()

    assert [request.client_id for request, _ in servicer.seen] == ["3", "1", "2"]  # type: ignore[attr-defined]


async def test_what_became_ready_together_is_one_batch(requester: Requester) -> None:
    await requester.send(*(ask(number) for number in range(5)))

    assert len((await requester.next()).envelopes) == 5


async def test_a_slow_request_holds_up_no_other(requester: Requester, servicer: Scripted) -> None:
    proceed = asyncio.Event()

    async def serve(request: Message) -> Message:
        if request.client_id == "1":  # type: ignore[attr-defined]
            await proceed.wait()
        return pb.SendMessageResponse()

    servicer.behaviour = serve
    await requester.send(ask(1), ask(2))

    first = await requester.next()
    proceed.set()
    second = await requester.next()

    assert [batch.envelopes[0].correlation_id for batch in (first, second)] == [2, 1]


async def test_a_failed_request_is_answered_with_its_status(requester: Requester) -> None:
    await requester.send(ask(1, text=""), ask(2, method="/no.Such/Method"), ask(3, timeout_ms=0))

    answers = {envelope.correlation_id: reason(envelope) for envelope in (await requester.next()).envelopes}

    assert answers == {1: "INVALID_REQUEST", 2: "UNKNOWN_TYPE", 3: "DEADLINE"}


async def test_an_envelope_that_is_no_request_ends_the_stream(requester: Requester) -> None:
    await requester.send(relay_pb2.RelayEnvelope(correlation_id=1, response=b""))

    with pytest.raises(InvalidArgument, match="only requests"):
        await asyncio.wait_for(requester.serving, 30)


async def test_an_answer_gives_its_credit_back(requester: Requester) -> None:
    for round_ in range(5):
        await requester.send(*(ask(number) for number in range(round_ * CREDIT, (round_ + 1) * CREDIT)))
        credit = 0
        while credit < CREDIT:
            credit += (await requester.next()).credit


async def test_who_sends_more_than_its_credit_is_cut_off(requester: Requester) -> None:
    await requester.send(*(ask(number) for number in range(CREDIT + 1)))

    with pytest.raises(ResourceExhausted) as cut_off:
        await asyncio.wait_for(requester.serving, 30)

    assert cut_off.value.reason == "OVERLOADED"


async def test_a_gap_in_the_numbers_ends_the_stream(requester: Requester) -> None:
    await requester.sent.put(relay_pb2.RelayBatch(seq=2, envelopes=[ask(1)]))

    with pytest.raises(InvalidArgument, match="came after"):
        await asyncio.wait_for(requester.serving, 30)


async def test_a_number_that_is_still_open_ends_the_stream(requester: Requester, servicer: Scripted) -> None:
    servicer.behaviour = hang
    await requester.send(ask(1))
    await requester.send(ask(1))

    with pytest.raises(InvalidArgument, match="still open"):
        await asyncio.wait_for(requester.serving, 30)


async def test_a_batch_that_is_too_large_ends_the_stream(servicer: Scripted) -> None:
    requester = Requester(servicer, credit=10_000)
    await requester.send(*(ask(number) for number in range(MAX_ENVELOPES + 1)))

    with pytest.raises(InvalidArgument, match="at most"):
        await asyncio.wait_for(requester.serving, 30)


async def test_when_the_requester_ends_what_is_open_is_still_answered(requester: Requester, servicer: Scripted) -> None:
    proceed = asyncio.Event()

    async def wait(_request: Message) -> Message:
        await proceed.wait()
        return pb.SendMessageResponse()

    servicer.behaviour = wait
    await requester.send(ask(1))
    await requester.sent.put(None)
    proceed.set()
    await asyncio.wait_for(requester.serving, 30)

    assert [envelope.correlation_id for envelope in (await requester.next()).envelopes] == [1]


async def test_a_drained_stream_answers_what_is_open_refuses_what_comes_and_ends(
    requester: Requester, servicer: Scripted
) -> None:
    proceed, begun = asyncio.Event(), asyncio.Event()

    async def wait(_request: Message) -> Message:
        begun.set()
        await proceed.wait()
        return pb.SendMessageResponse()

    servicer.behaviour = wait
    await requester.send(ask(1))
    await begun.wait()
    requester.session.drain()
    await requester.send(ask(2))
    [refused] = (await requester.next()).envelopes
    proceed.set()
    await asyncio.wait_for(requester.serving, 30)

    assert (refused.correlation_id, reason(refused)) == (2, "DRAINING")
    assert [envelope.correlation_id for envelope in (await requester.next()).envelopes] == [1]
    assert (await requester.next()).ack == 2
    assert len(servicer.seen) == 1


async def test_cancelling_the_stream_cancels_what_is_open(requester: Requester, servicer: Scripted) -> None:
    begun, ended = asyncio.Event(), asyncio.Event()

    async def wait(_request: Message) -> Message:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        raise AssertionError

    servicer.behaviour = wait
    await requester.send(ask(1))
    await begun.wait()

    requester.serving.cancel()
    await asyncio.wait([requester.serving])

    assert ended.is_set()


async def hang(_request: Message) -> Message:
    await asyncio.Event().wait()
    raise AssertionError
