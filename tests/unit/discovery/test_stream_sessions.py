"""Sessions that outlive their streams: the serving ends of both kinds, without a network."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from google.protobuf.message import Message

from discovery.errors import InvalidArgument
from discovery.rpc.call import Caller, Role
from discovery.rpc.identity import PROCESS, Peer
from discovery.rpc.link import NEW_SESSION
from discovery.rpc.relay import RelaySession
from discovery.rpc.sessions import Sessions
from discovery.rpc.stream_metrics import StreamNumbers
from discovery.rpc.taking import TakingSession
from hither.edge.v1.deliver_pb2 import DeliverBatch, Eviction
from hither.mesh.v1 import relay_pb2
from hither.messaging.v1 import messaging_service_pb2 as pb
from tests.support.cluster import Scripted, new_dispatcher
from tests.unit.discovery.test_relay_session import ask, reason


class Stream:
    """A stream of either kind, as its other end sees it."""

    def __init__(self) -> None:
        self.sent: asyncio.Queue[bytes | None] = asyncio.Queue()
        self.got: asyncio.Queue[bytes] = asyncio.Queue()

    async def requests(self) -> AsyncIterator[bytes]:
        while (message := await self.sent.get()) is not None:
            yield message

    async def send(self, batch: Message) -> None:
        await self.sent.put(batch.SerializeToString())

    async def relay(self) -> relay_pb2.RelayBatch:
        return relay_pb2.RelayBatch.FromString(await asyncio.wait_for(self.got.get(), 30))

    async def deliver(self) -> DeliverBatch:
        return DeliverBatch.FromString(await asyncio.wait_for(self.got.get(), 30))


@asynccontextmanager
async def relaying(session: RelaySession) -> AsyncIterator[Stream]:
    """A stream of the session; it breaks at the end of the block."""
    stream = Stream()
    serving = asyncio.ensure_future(session.serve(stream.requests(), stream.got.put))
    yield stream
    serving.cancel()
    await asyncio.wait([serving])


@pytest.fixture
def servicer() -> Scripted:
    return Scripted()


@pytest.fixture
async def session(servicer: Scripted) -> AsyncIterator[RelaySession]:
    async with asyncio.TaskGroup() as group:
        session = RelaySession(new_dispatcher(servicer), group, credit=8, session_id="s-1")
        yield session
        session.close()


def batch(seq: int, *numbers: int, ack: int = 0) -> relay_pb2.RelayBatch:
    return relay_pb2.RelayBatch(seq=seq, ack=ack, envelopes=[ask(number) for number in numbers])


async def test_a_batch_that_comes_twice_is_served_once(session: RelaySession, servicer: Scripted) -> None:
    async with relaying(session) as stream:
        await stream.relay()
        await stream.send(batch(1, 1))
        await stream.relay()
    async with relaying(session) as stream:
        await stream.relay()
        await stream.relay()
        await stream.send(batch(1, 1))
        await stream.send(batch(2, 2, ack=1))
        await stream.relay()

    assert [request.client_id for request, _ in servicer.seen] == ["1", "2"]  # type: ignore[attr-defined]


async def test_a_resumed_stream_says_what_was_taken_gives_no_new_credit_and_repeats_what_was_not_acknowledged(
    session: RelaySession,
) -> None:
    async with relaying(session) as stream:
        first = await stream.relay()
        await stream.send(batch(1, 1))
        answered = await stream.relay()
    async with relaying(session) as stream:
        again = await stream.relay()
        repeated = await stream.relay()

    assert (first.session, first.credit, first.ack) == ("s-1", 8, 0)
    assert (again.session, again.credit, again.ack) == ("s-1", 0, 1)
    assert repeated == answered


async def test_what_was_acknowledged_does_not_come_again(session: RelaySession) -> None:
    async with relaying(session) as stream:
        await stream.relay()
        await stream.send(batch(1, 1))
        await stream.relay()
        await stream.send(relay_pb2.RelayBatch(ack=1, ping=True))
        await stream.relay()
    async with relaying(session) as stream:
        await stream.relay()
        await stream.send(relay_pb2.RelayBatch(ping=True))

        assert (await stream.relay()).seq == 0


async def test_what_runs_outlives_its_stream(session: RelaySession, servicer: Scripted) -> None:
    begun, proceed = asyncio.Event(), asyncio.Event()

    async def wait(_request: Message) -> Message:
        begun.set()
        await proceed.wait()
        return pb.SendMessageResponse(seq=3)

    servicer.behaviour = wait
    async with relaying(session) as stream:
        await stream.send(batch(1, 1))
        await begun.wait()
    proceed.set()
    async with relaying(session) as stream:
        await stream.relay()
        [envelope] = (await stream.relay()).envelopes

    assert pb.SendMessageResponse.FromString(envelope.response).seq == 3


async def test_a_cancelled_request_is_answered_and_gives_its_credit_back(
    session: RelaySession, servicer: Scripted
) -> None:
    begun, ended = asyncio.Event(), asyncio.Event()

    async def hang(_request: Message) -> Message:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        raise AssertionError

    servicer.behaviour = hang
    async with relaying(session) as stream:
        await stream.relay()
        await stream.send(batch(1, 1))
        await begun.wait()
        cancel = relay_pb2.RelayEnvelope(correlation_id=1, cancel=True)
        await stream.send(relay_pb2.RelayBatch(seq=2, envelopes=[cancel, cancel]))
        answer = await stream.relay()
        await asyncio.wait_for(ended.wait(), 30)

    assert (answer.credit, [reason(envelope) for envelope in answer.envelopes]) == (1, ["CANCELLED"])


async def test_a_request_that_is_cancelled_before_it_began_never_begins(
    session: RelaySession, servicer: Scripted
) -> None:
    async with relaying(session) as stream:
        await stream.relay()
        cancel = relay_pb2.RelayEnvelope(correlation_id=1, cancel=True)
        await stream.send(relay_pb2.RelayBatch(seq=1, envelopes=[ask(1), cancel]))
        answer = await stream.relay()

    assert [reason(envelope) for envelope in answer.envelopes] == ["CANCELLED"]
    assert not servicer.seen


async def test_a_new_stream_takes_the_place_of_one_that_nobody_knows_to_be_broken(session: RelaySession) -> None:
    async with relaying(session) as old:
        await old.relay()
        async with relaying(session) as new:
            await new.relay()
            await old.send(batch(1, 1))
            await new.send(batch(1, 2))

            assert [envelope.correlation_id for envelope in (await new.relay()).envelopes] == [2]


async def test_a_farewell_ends_the_session_and_what_is_open(session: RelaySession, servicer: Scripted) -> None:
    begun, ended = asyncio.Event(), asyncio.Event()

    async def hang(_request: Message) -> Message:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        raise AssertionError

    servicer.behaviour = hang
    async with relaying(session) as stream:
        await stream.send(batch(1, 1))
        await begun.wait()
        await stream.send(relay_pb2.RelayBatch(end=True))
        await asyncio.wait_for(ended.wait(), 30)

    assert session.over


async def test_answers_that_nobody_acknowledges_are_not_kept_without_limit(
    session: RelaySession, servicer: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("discovery.rpc.relay.MAX_KEPT_BYTES", 1)
    async with relaying(session) as stream:
        await stream.relay()
        await stream.send(batch(1, 1))
        await stream.relay()
        await stream.send(batch(2, 2))
        await stream.relay()

    assert session.over
    assert len(session._window) == 0


# --- the edge's end ---


def eviction(seq: int, connection_id: int) -> DeliverBatch:
    return DeliverBatch(seq=seq, evictions=[Eviction(connection_id=connection_id)])


class Edge:
    """Remembers what came; all targets are gone."""

    def __init__(self) -> None:
        self.got: list[int] = []

    def take(self, _edge_id: str, batch: DeliverBatch) -> list[int]:
        ids = [eviction.connection_id for eviction in batch.evictions]
        self.got += ids
        return ids


@asynccontextmanager
async def delivering(session: TakingSession, edge_id: str = "edge-1") -> AsyncIterator[Stream]:
    stream = Stream()
    serving = asyncio.ensure_future(session.serve(edge_id, stream.requests(), stream.got.put, asyncio.Event()))
    yield stream
    serving.cancel()
    await asyncio.wait([serving])


async def test_an_edge_takes_a_batch_that_comes_twice_once() -> None:
    edge = Edge()
    session = TakingSession("s-1", PROCESS, edge.take, StreamNumbers())
    async with delivering(session) as stream:
        await stream.deliver()
        await stream.send(eviction(1, 7))
        await stream.deliver()
    async with delivering(session) as stream:
        greeting = await stream.deliver()
        await stream.send(eviction(1, 7))
        await stream.send(eviction(2, 8))
        while (await stream.deliver()).ack < 2:
            pass

    assert (greeting.ack, list(greeting.gone), greeting.session) == (1, [7], "s-1")
    assert edge.got == [7, 8]


async def test_a_session_is_for_one_edge() -> None:
    session = TakingSession("s-1", PROCESS, Edge().take, StreamNumbers())
    async with delivering(session) as stream:
        await stream.deliver()

    with pytest.raises(InvalidArgument):
        await session.serve("edge-2", Stream().requests(), Stream().got.put, asyncio.Event())


# --- keeping ---


class Kept:
    """A session of no kind."""

    def __init__(self, session_id: str, peer: Peer) -> None:
        self.session_id, self.peer = session_id, peer
        self.over = False

    def close(self) -> None:
        self.over = True


def kept(most: int = 8, keep_s: float = 60.0) -> Sessions[Kept]:
    return Sessions(Kept, keep_s=keep_s, most=most, numbers=StreamNumbers())


async def test_a_session_is_found_again_by_its_id() -> None:
    sessions = kept()
    with sessions.attached(NEW_SESSION, PROCESS) as first:
        pass
    with sessions.attached(first.session_id, PROCESS) as again:
        assert again is first
    sessions.close()


async def test_a_session_is_found_by_its_own_peer_only() -> None:
    sessions = kept()
    with sessions.attached(NEW_SESSION, PROCESS) as first:
        pass
    other = Peer(Caller(Role.SERVICE, service="other"))
    with sessions.attached(first.session_id, other) as another:
        assert another is not first
        assert another.session_id != first.session_id
    sessions.close()


async def test_without_a_stream_a_session_is_kept_for_a_while() -> None:
    sessions = kept(keep_s=0.01)
    closed = asyncio.Event()
    with sessions.attached(NEW_SESSION, PROCESS) as first:
        first.close = closed.set  # type: ignore[method-assign]
    await asyncio.wait_for(closed.wait(), 30)

    with sessions.attached(first.session_id, PROCESS) as another:
        assert another is not first
    sessions.close()


async def test_only_so_many_are_kept_and_the_oldest_makes_room() -> None:
    sessions = kept(most=2)
    made = []
    for _ in range(3):
        with sessions.attached(NEW_SESSION, PROCESS) as session:
            made.append(session)

    assert [session.over for session in made] == [True, False, False]
    sessions.close()


async def test_a_session_that_two_streams_share_is_kept_until_both_are_gone() -> None:
    sessions = kept(most=0)
    with sessions.attached(NEW_SESSION, PROCESS) as session:
        with sessions.attached(session.session_id, PROCESS):
            pass
        assert not session.over
    assert session.over


async def test_a_session_without_a_name_ends_with_its_stream() -> None:
    sessions = kept()
    with sessions.attached("", PROCESS) as session:
        assert session in sessions.all
    assert session.over
    assert sessions.all == ()
