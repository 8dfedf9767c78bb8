"""The calling ends of both streams, without a stream: what a break, an end or a loss means for what waits."""

import asyncio
import time

import pytest

from discovery.errors import HitherError, InvalidArgument, ResourceExhausted, Unauthenticated
from discovery.rpc import deliver, requesting
from discovery.rpc.call import Call
from discovery.rpc.deliver import DeliveringEnd
from discovery.rpc.link import NEW_SESSION, PeerLost
from discovery.rpc.requesting import RequestingEnd
from discovery.rpc.stream_metrics import StreamNumbers
from hither.edge.v1.deliver_pb2 import DeliverBatch, Delivery, Target
from hither.mesh.v1 import relay_pb2
from tests.support.cluster import ALICE, SEND

TRACE = "0af7651916cd43dd8448eb211c80319c"
REFUSED = PeerLost("refused", reason="NO_OWNER")


def a_call() -> Call:
    return Call(SEND, ALICE, time.monotonic() + 5, TRACE)


def greeting(session: str = "s-1", credit: int = 8, ack: int = 0) -> bytes:
    return relay_pb2.RelayBatch(session=session, credit=credit, ack=ack).SerializeToString()


def written(end: RequestingEnd) -> relay_pb2.RelayBatch:
    message = end.give()
    assert message is not None
    return relay_pb2.RelayBatch.FromString(message)


def reason_of(answer: "asyncio.Future[bytes]") -> str:
    error = answer.exception()
    assert isinstance(error, HitherError)
    return error.reason


@pytest.fixture
async def end() -> RequestingEnd:
    end = RequestingEnd(StreamNumbers())
    end.greet(greeting())
    return end


async def test_the_first_stream_asks_for_a_new_session_and_the_next_for_the_same(end: RequestingEnd) -> None:
    assert dict(RequestingEnd(StreamNumbers()).metadata()) == {"hither-session": NEW_SESSION}
    assert dict(end.metadata()) == {"hither-session": "s-1"}


async def test_on_a_resumed_stream_only_what_was_not_taken_is_written_again(end: RequestingEnd) -> None:
    for _ in range(3):
        end.ask(a_call(), b"")
        written(end)

    assert end.greet(greeting(credit=0, ack=2))

    assert written(end).seq == 3
    assert end.give() is None


async def test_in_a_new_session_what_was_written_is_lost_and_what_was_not_is_written(end: RequestingEnd) -> None:
    lost = end.ask(a_call(), b"")
    written(end)
    waiting = end.ask(a_call(), b"waiting")

    assert not end.greet(greeting("s-2"))

    assert reason_of(lost.answer) == "OUTCOME_UNKNOWN"
    batch = written(end)
    assert (batch.seq, batch.envelopes[0].request.payload) == (1, b"waiting")
    assert not waiting.answer.done()


async def test_what_was_not_acknowledged_when_the_peer_ended_the_stream_was_not_done(end: RequestingEnd) -> None:
    taken, untaken = end.ask(a_call(), b""), None
    written(end)
    untaken = end.ask(a_call(), b"")
    written(end)
    end.take(relay_pb2.RelayBatch(ack=1).SerializeToString())
    queued = end.ask(a_call(), b"")

    end.ended()

    assert [reason_of(one.answer) for one in (taken, untaken, queued)] == ["OUTCOME_UNKNOWN", "DRAINING", "DRAINING"]


async def test_when_no_stream_opens_what_was_never_written_fails_and_the_rest_waits(end: RequestingEnd) -> None:
    open_ = end.ask(a_call(), b"")
    written(end)
    queued = end.ask(a_call(), b"")

    end.unreachable(REFUSED)

    assert reason_of(queued.answer) == "NO_OWNER"
    assert not open_.answer.done()


async def test_a_refusal_is_told_to_who_was_never_written(end: RequestingEnd) -> None:
    open_ = end.ask(a_call(), b"")
    written(end)
    queued = end.ask(a_call(), b"")

    end.lost(Unauthenticated("no"))

    assert (reason_of(open_.answer), reason_of(queued.answer)) == ("OUTCOME_UNKNOWN", "NO_CREDENTIALS")


async def test_an_answer_that_comes_twice_counts_once(end: RequestingEnd) -> None:
    waiter = end.ask(a_call(), b"")
    written(end)
    answer = relay_pb2.RelayBatch(
        seq=1, ack=1, credit=1, envelopes=[relay_pb2.RelayEnvelope(correlation_id=waiter.number, response=b"x")]
    ).SerializeToString()
    end.take(answer)
    end.take(answer)
    for _ in range(9):
        end.ask(a_call(), b"")

    assert await waiter.answer == b"x"
    assert len(written(end).envelopes) == 8


async def test_who_gives_up_in_the_queue_is_never_written(end: RequestingEnd) -> None:
    waiter = end.ask(a_call(), b"")

    assert not end.give_up(waiter)
    assert end.give() is None


async def test_who_gives_up_later_is_cancelled_at_the_peer(end: RequestingEnd) -> None:
    waiter = end.ask(a_call(), b"")
    written(end)

    assert end.give_up(waiter)
    [envelope] = written(end).envelopes
    assert (envelope.correlation_id, envelope.cancel) == (waiter.number, True)


async def test_a_batch_takes_no_more_bytes_than_it_may(end: RequestingEnd, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requesting, "MAX_BATCH_BYTES", 100)
    for _ in range(5):
        end.ask(a_call(), b"x" * 60)

    assert [len(written(end).envelopes) for _ in range(3)] == [2, 2, 1]


async def test_what_waits_is_bounded_in_bytes_and_one_request_too(
    end: RequestingEnd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(requesting, "MAX_WAITING_BYTES", 100)
    monkeypatch.setattr(requesting, "MAX_PAYLOAD_BYTES", 80)
    end.ask(a_call(), b"x" * 80)

    with pytest.raises(ResourceExhausted):
        end.ask(a_call(), b"x" * 21)
    with pytest.raises(InvalidArgument):
        end.ask(a_call(), b"x" * 81)
    written(end)
    end.ask(a_call(), b"x" * 80)


async def test_answers_are_acknowledged_when_there_is_nothing_to_ask(end: RequestingEnd) -> None:
    end.take(relay_pb2.RelayBatch(seq=1).SerializeToString())
    assert end.give() is None

    assert end.tick(ping=False)
    batch = written(end)

    assert (batch.seq, batch.ack, batch.ping) == (0, 1, False)
    assert not end.tick(ping=False)


async def test_many_bytes_of_answers_are_acknowledged_at_once(
    end: RequestingEnd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(requesting, "MAX_BATCH_BYTES", 1)
    end.take(relay_pb2.RelayBatch(seq=1).SerializeToString())

    assert end.ready
    assert written(end).ack == 1


# --- batches for edges ---


def batch(number: int) -> DeliverBatch:
    return DeliverBatch(deliveries=[Delivery(type="message", targets=[Target(connection_id=number)])])


@pytest.fixture
async def edge() -> DeliveringEnd:
    edge = DeliveringEnd("edge-1", StreamNumbers())
    edge.greet(DeliverBatch(session="s-1").SerializeToString())
    return edge


async def test_no_more_batches_wait_for_an_edge_than_may(edge: DeliveringEnd) -> None:
    for number in range(deliver.MAX_WAITING):
        edge.bring(batch(number))
        edge.give()

    with pytest.raises(ResourceExhausted):
        edge.bring(batch(0))
    edge.take(DeliverBatch(ack=1).SerializeToString())
    edge.bring(batch(0))


async def test_a_batch_that_is_given_up_before_it_is_written_is_taken_back(edge: DeliveringEnd) -> None:
    edge.give_up(edge.bring(batch(1)))

    assert edge.give() is None


async def test_a_batch_that_is_given_up_later_keeps_its_place(edge: DeliveringEnd) -> None:
    given_up = edge.bring(batch(1))
    first = edge.give()
    edge.give_up(given_up)
    edge.bring(batch(2))
    second = edge.give()

    edge.greet(DeliverBatch(session="s-1").SerializeToString())

    assert [edge.give(), edge.give()] == [first, second]


async def test_in_a_new_session_of_an_edge_what_was_written_is_lost(edge: DeliveringEnd) -> None:
    lost, written_ = edge.bring(batch(1)), edge.give()
    waiting = edge.bring(batch(2))

    edge.greet(DeliverBatch(session="s-2").SerializeToString())

    assert written_ is not None
    assert isinstance(lost.answer.exception(), PeerLost)
    message = edge.give()
    assert message is not None
    assert DeliverBatch.FromString(message).seq == 1
    assert not waiting.answer.done()
