import asyncio

import pytest

from edge.codec.frames import Codec
from edge.codec.proto import BINARY
from edge.codec.text import TEXT
from edge.hub import Hub
from edge.metrics import EdgeMetrics
from edge.session import Session, Surroundings
from edge.settings import EdgeSettings
from hither.edge.v1 import deliver_pb2, frames_pb2
from hither.messaging.v1 import messaging_pb2
from hither.sessions.v1 import sessions_service_pb2
from tests.support.clock import ManualClock
from tests.support.sessions import authenticate
from tests.support.tracing import parent_of, place_of, recording

TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
TYPING = messaging_pb2.TypingEvent(conversation_id="d.x", user_id="bob").SerializeToString()


class FakeMember:
    """A connection without a socket."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.due_s = float("inf")
        self.flushing = False
        self.breaks = False
        self.empties = False
        self.aborted = False
        self.flushed = 0

    def pump(self) -> None:
        if self.breaks:
            raise RuntimeError("a bug")

    def flush(self) -> None:
        self.flushed += 1
        if self.empties:
            self.session.outbox.clear()
        self.pump()

    def abort(self) -> None:
        self.aborted = True


class Room:
    """A hub and what it takes to fill it."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.settings = EdgeSettings()
        self.metrics = EdgeMetrics()
        self.hub = Hub(self.settings, self.metrics, self.clock)

    def join(self, codec: Codec = TEXT, token: str = "alice/phone") -> FakeMember:
        surroundings = Surroundings("edge-1", self.settings, self.metrics, authenticate)
        session = Session(self.hub.next_id(), codec, surroundings, self.clock.monotonic_s())
        member = FakeMember(session)
        self.hub.add(member)
        if token:
            session.open(token, 0)
            [call] = session.take_calls()
            session.answer(call, sessions_service_pb2.RegisterConnectionResponse(), self.clock.monotonic_s())
            session.outbox.clear()
        return member


@pytest.fixture
def room() -> Room:
    return Room()


def typing_for(*connection_ids: int) -> deliver_pb2.DeliverBatch:
    delivery = deliver_pb2.Delivery(type="typing", payload=TYPING, conflation_key="k")
    for connection_id in connection_ids:
        delivery.targets.add(connection_id=connection_id)
    return deliver_pb2.DeliverBatch(deliveries=[delivery])


def test_an_event_reaches_its_targets_in_their_own_subprotocols(room: Room) -> None:
    texting, binary, other = room.join(TEXT), room.join(BINARY), room.join(TEXT)
    gone = room.hub.deliver(typing_for(texting.session.connection_id, binary.session.connection_id))
    assert gone == []
    assert texting.session.outbox.take(1000) == [b'{"type":"typing","conversation_id":"d.x","user_id":"bob"}']
    [raw] = binary.session.outbox.take(1000)
    assert frames_pb2.ServerFrame.FromString(raw) == frames_pb2.ServerFrame(type="typing", payload=TYPING)
    assert not other.session.outbox


def test_an_event_is_encoded_once_for_all_targets_of_a_subprotocol(room: Room) -> None:
    one, other = room.join(), room.join()
    room.hub.deliver(typing_for(one.session.connection_id, other.session.connection_id))
    [first], [second] = one.session.outbox.take(1000), other.session.outbox.take(1000)
    assert first == second


def test_targets_that_are_not_here_are_gone(room: Room) -> None:
    member = room.join()
    here = member.session.connection_id
    assert room.hub.deliver(typing_for(here, 5, 6)) == [5, 6]
    room.hub.remove(member)
    assert room.hub.deliver(typing_for(here)) == [here]


def test_a_connection_that_is_closing_is_gone_already(room: Room) -> None:
    member = room.join()
    member.session.evict(4101, "replaced")
    assert room.hub.deliver(typing_for(member.session.connection_id)) == [member.session.connection_id]


def test_an_event_of_an_unknown_type_is_skipped_and_nobody_is_gone(room: Room) -> None:
    member = room.join()
    batch = typing_for(member.session.connection_id)
    batch.deliveries[0].type = "earthquake"
    batch.deliveries.append(typing_for(member.session.connection_id).deliveries[0])
    assert room.hub.deliver(batch) == []
    assert len(member.session.outbox.take(1000)) == 1


def test_an_eviction_closes_the_connection(room: Room) -> None:
    member = room.join()
    eviction = deliver_pb2.Eviction(connection_id=member.session.connection_id, close_code=4101, reason="replaced")
    assert room.hub.deliver(deliver_pb2.DeliverBatch(evictions=[eviction])) == []
    assert member.session.closing is not None
    assert (member.session.closing.code, member.session.closing.reason) == (4101, "replaced")


def test_an_eviction_of_nobody_is_gone(room: Room) -> None:
    eviction = deliver_pb2.Eviction(connection_id=3, close_code=4101)
    assert room.hub.deliver(deliver_pb2.DeliverBatch(evictions=[eviction])) == [3]


def test_ids_are_never_given_again_also_after_a_restart(room: Room) -> None:
    before = [room.hub.next_id() for _ in range(1000)]
    room.clock.advance(0.001)
    after = Hub(room.settings, room.metrics, room.clock).next_id()
    assert len(set(before)) == 1000
    assert after > max(before)


def test_of_two_edges_the_later_connection_has_the_higher_id(room: Room) -> None:
    other = Hub(room.settings, room.metrics, room.clock)
    first = [room.hub.next_id() for _ in range(1000)]
    room.clock.advance(0.001)
    second = other.next_id()
    assert second > max(first)
    room.clock.advance(0.001)
    assert room.hub.next_id() > second


def test_a_session_is_ticked_when_its_time_has_come(room: Room) -> None:
    silent = room.join(token="")
    room.clock.advance(4.9)
    room.hub.tick()
    assert silent.session.closing is None
    room.clock.advance(0.2)
    room.hub.tick()
    assert silent.session.closing is not None
    assert silent.session.closing.code == 4100


def test_a_session_that_was_heard_is_ticked_later(room: Room) -> None:
    member = room.join()
    room.clock.advance(50)
    member.session.receive(b'{"type":"ping"}', text=True, now_s=room.clock.monotonic_s())
    for _ in range(55):
        room.clock.advance(1)
        room.hub.tick()
    assert member.session.closing is None
    for _ in range(6):
        room.clock.advance(1)
        room.hub.tick()
    assert member.session.closing is not None
    assert member.session.closing.code == 4003


def test_only_open_connections_are_known_to_the_registry(room: Room) -> None:
    room.join(token="")
    opened = room.join()
    assert [one.connection_id for one in room.hub.open_connections()] == [opened.session.connection_id]


def test_a_bug_that_one_connection_meets_ends_that_connection_only(room: Room) -> None:
    broken, other = room.join(), room.join()
    broken.breaks = True
    batch = typing_for(broken.session.connection_id, other.session.connection_id)
    assert room.hub.deliver(batch) == []
    assert (broken.aborted, other.aborted) == (True, False)
    assert other.session.outbox


async def test_all_connections_that_want_it_are_flushed_once_in_a_turn(room: Room) -> None:
    broken, other = room.join(), room.join()
    broken.breaks = True
    room.hub.wants_flush(broken)
    room.hub.wants_flush(other)
    await asyncio.sleep(0)
    assert (broken.flushed, other.flushed) == (1, 1)
    assert broken.aborted


# --- what its operator sees ---


def traced(*connection_ids: int) -> deliver_pb2.DeliverBatch:
    batch = typing_for(*connection_ids)
    batch.deliveries[0].traceparent = TRACEPARENT
    return batch


async def test_a_sampled_delivery_is_a_span_that_ends_when_it_has_been_written(room: Room) -> None:
    reading, slow = room.join(), room.join()
    reading.empties = True
    room.hub.wants_flush(reading)
    room.hub.wants_flush(slow)

    with recording() as recorded:
        room.hub.deliver(traced(reading.session.connection_id, slow.session.connection_id, 5))
        before = recorded.names
        await asyncio.sleep(0)  # the turn of the loop ends

    assert before == []
    [span] = recorded.named("write typing")
    assert (place_of(span).trace_id, parent_of(span)) == (TRACEPARENT[3:35], TRACEPARENT[36:52])
    counted = {key: value for key, value in (span.attributes or {}).items() if key.startswith("hither")}
    assert counted == {"hither.targets": 3, "hither.targets.gone": 1, "hither.targets.late": 1}


def test_a_sampled_delivery_that_finds_nobody_is_a_span_that_ends_at_once(room: Room) -> None:
    with recording() as recorded:
        room.hub.deliver(traced(5))

    assert [(span.attributes or {})["hither.targets.gone"] for span in recorded.spans] == [1]


def test_an_unsampled_delivery_is_no_span(room: Room) -> None:
    with recording() as recorded:
        room.hub.deliver(typing_for(room.join().session.connection_id))

    assert recorded.spans == []


def test_what_waits_for_clients_is_counted_when_it_is_asked_for(room: Room) -> None:
    busy, _idle = room.join(), room.join()
    room.hub.deliver(typing_for(busy.session.connection_id))

    shown = {metric.name: metric.samples[0].value for metric in room.metrics.collect() if metric.samples}

    assert shown["hither_edge_connections_waiting"] == 1
    assert shown["hither_edge_outbox_frames"] == 1
    assert shown["hither_edge_outbox_bytes"] == busy.session.outbox.waiting_bytes > 0
