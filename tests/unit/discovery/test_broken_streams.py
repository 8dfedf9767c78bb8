"""Calls and batches between two processes while the network between them breaks, at random and at the worst moments."""

import asyncio
import itertools
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass

import pytest
from google.protobuf.message import Message

from discovery.errors import DeadlineExceeded, HitherError, Unavailable
from discovery.mesh import DELIVER_SERVICE
from discovery.registry.embedded import EmbeddedRegistry
from discovery.rpc.link import Pace
from hither.directory.v1 import directory_service_pb2 as directory
from hither.edge.v1.deliver_pb2 import DeliverBatch, Delivery, Eviction, Target
from hither.messaging.v1 import messaging_service_pb2 as pb
from tests.support.cluster import ALICE, SEND, Keys, Process, running_process
from tests.support.proxy import Proxy, proxy_to

DIRECTORY = "hither.directory.v1.DirectoryService"
CREATE_USER = f"/{DIRECTORY}/CreateUser"
QUICK = Pace(open_s=1.0, resume_s=1.0, tick_s=0.05, silent_ticks=3, first_pause_s=0.01, last_pause_s=0.05)
CALLS = 2000
CUTS = 15


@dataclass(frozen=True)
class Broken:
    """Two processes with a proxy between them; `there` serves the directory, whose CreateUser is not idempotent."""

    here: Process
    there: Process
    proxy: Proxy

    async def create(self, number: int, timeout_s: float = 20.0) -> Message:
        """A call that must never be done twice."""
        request = directory.CreateUserRequest(user_id=f"u{number}", name="U", password="correct horse")
        return await self.here.mesh.call(CREATE_USER, request, caller=ALICE, timeout_s=timeout_s)

    def times_done(self) -> Counter[str]:
        """How often each user's request reached the servicer."""
        return Counter(request.user_id for request, _ in self.there.servicer.seen)  # type: ignore[attr-defined]


@pytest.fixture
async def broken() -> AsyncIterator[Broken]:
    registry, keys = EmbeddedRegistry(), Keys()
    async with AsyncExitStack() as stack:
        here = await stack.enter_async_context(running_process(registry, keys, "here", pace=QUICK))
        there = await stack.enter_async_context(running_process(registry, keys, "there", DIRECTORY))
        proxy = await stack.enter_async_context(proxy_to(there.server.address))
        await there.mesh.serve(proxy.address)
        await here.mesh._refresh()
        yield Broken(here, there, proxy)


@pytest.mark.parametrize("seed", [1, 2])
async def test_calls_are_done_exactly_once_however_often_the_connection_is_cut(broken: Broken, seed: int) -> None:
    cut_at = set(random.Random(seed).sample(range(CALLS // 20, CALLS * 9 // 10), CUTS))
    begun = itertools.count()

    async def answer(request: Message) -> Message:
        if next(begun) in cut_at:
            broken.proxy.cut()
        await asyncio.sleep(0.001 * (hash(request.user_id) % 30))  # type: ignore[attr-defined]
        return directory.CreateUserResponse()

    broken.there.servicer.behaviour = answer
    many = asyncio.Semaphore(200)

    async def create(number: int) -> None:
        async with many:
            await broken.create(number)

    await asyncio.gather(*(create(number) for number in range(CALLS)))

    assert broken.here.mesh.stream_metrics.relay_out.resumes > 3
    assert broken.here.mesh.stream_metrics.relay_out.losses == 0
    assert broken.times_done() == {f"u{number}": 1 for number in range(CALLS)}


async def test_a_call_that_runs_while_its_stream_breaks_is_not_cancelled_and_its_answer_comes(broken: Broken) -> None:
    begun, proceed = asyncio.Event(), asyncio.Event()

    async def wait(_request: Message) -> Message:
        begun.set()
        await proceed.wait()
        return directory.CreateUserResponse()

    broken.there.servicer.behaviour = wait
    calling = asyncio.ensure_future(broken.create(1))
    await begun.wait()
    broken.proxy.cut()
    proceed.set()

    assert await calling == directory.CreateUserResponse()
    assert broken.times_done() == {"u1": 1}


async def test_what_the_other_process_forgot_has_an_unknown_outcome_and_is_not_done_again(broken: Broken) -> None:
    begun = asyncio.Event()

    async def hang(_request: Message) -> Message:
        begun.set()
        await asyncio.Event().wait()
        raise AssertionError

    broken.there.servicer.behaviour = hang
    calling = asyncio.ensure_future(broken.create(1))
    await begun.wait()
    broken.there.server._streams._relays.close()
    broken.proxy.cut()

    with pytest.raises(Unavailable) as raised:
        await calling

    assert raised.value.reason == "OUTCOME_UNKNOWN"
    assert broken.times_done() == {"u1": 1}
    assert broken.here.mesh.stream_metrics.relay_out.losses == 1


async def test_a_call_that_was_never_written_waits_for_the_next_stream(broken: Broken) -> None:
    await broken.create(1)
    await broken.proxy.stop()

    calling = asyncio.ensure_future(broken.create(2))
    await asyncio.sleep(0)
    await broken.proxy.start()
    await calling

    assert broken.times_done() == {"u1": 1, "u2": 1}


async def test_a_connection_that_is_refused_proves_that_nothing_was_done(broken: Broken) -> None:
    await broken.proxy.stop()

    with pytest.raises(Unavailable) as raised:
        await broken.create(1, timeout_s=0.3)

    assert raised.value.reason == "NO_OWNER"
    assert not broken.there.servicer.seen


async def test_a_process_that_holds_its_sockets_and_says_nothing_is_given_up_before_the_deadline(
    broken: Broken,
) -> None:
    await broken.create(1)
    broken.proxy.hold()

    with pytest.raises(Unavailable) as raised:
        await broken.create(2, timeout_s=60)

    assert raised.value.reason == "OUTCOME_UNKNOWN"
    assert broken.here.mesh.stream_metrics.calls.ejections == 1
    assert len(broken.here.mesh._outliers) == 1


async def test_a_process_that_works_for_long_is_not_taken_for_a_silent_one(broken: Broken) -> None:
    proceed = asyncio.Event()

    async def wait(_request: Message) -> Message:
        await proceed.wait()
        return directory.CreateUserResponse()

    broken.there.servicer.behaviour = wait
    calling = asyncio.ensure_future(broken.create(1))
    # Nothing to await: what is tested is that nothing happens for longer than silence is borne.
    await asyncio.sleep(3 * QUICK.silent_ticks * QUICK.tick_s)
    proceed.set()

    assert await calling == directory.CreateUserResponse()


async def test_an_idempotent_call_survives_a_forgotten_session() -> None:
    registry, keys = EmbeddedRegistry(), Keys()
    async with running_process(registry, keys, "there") as there, proxy_to(there.server.address) as proxy:
        await there.mesh.serve(proxy.address)
        async with running_process(registry, keys, "here", DIRECTORY, pace=QUICK) as here:
            begun = asyncio.Event()

            async def hang_once(_request: Message) -> Message:
                if not begun.is_set():
                    begun.set()
                    await asyncio.Event().wait()
                return pb.SendMessageResponse(seq=5)

            there.servicer.behaviour = hang_once
            request = pb.SendMessageRequest(conversation_id="g.1", client_id="1", text="hi")
            calling = asyncio.ensure_future(here.mesh.call(SEND, request, caller=ALICE, timeout_s=10))
            await begun.wait()
            there.server._streams._relays.close()
            proxy.cut()

            assert await calling == pb.SendMessageResponse(seq=5)


async def test_a_call_that_ran_out_during_a_break_is_cancelled_when_its_session_is_forgotten(broken: Broken) -> None:
    begun, ended = asyncio.Event(), asyncio.Event()

    async def hang(_request: Message) -> Message:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        raise AssertionError

    broken.there.servicer.behaviour = hang
    calling = asyncio.ensure_future(broken.create(1))
    await begun.wait()
    await broken.proxy.stop()
    calling.cancel()
    broken.there.server._streams._relays.close()

    await asyncio.wait_for(ended.wait(), 30)


# --- batches for edges ---


def durable(number: int) -> DeliverBatch:
    payload = number.to_bytes(4, "big")
    return DeliverBatch(deliveries=[Delivery(type="message", payload=payload, targets=[Target(connection_id=number)])])


class Edge:
    """Remembers what came. Connections with an odd number are gone."""

    def __init__(self) -> None:
        self.got: list[int] = []
        self.batches = 0
        self.cut_at: list[int] = []
        self.cut: Callable[[], None] = lambda: None
        """Called when as many events have come as `cut_at` says next."""

    def take(self, batch: DeliverBatch) -> list[int]:
        self.batches += 1
        came = [target.connection_id for delivery in batch.deliveries for target in delivery.targets]
        self.got += came
        if self.cut_at and len(self.got) > self.cut_at[0]:
            del self.cut_at[0]
            self.cut()
        return [number for number in came if number % 2]


@pytest.fixture
async def edge(broken: Broken) -> Edge:
    edge = Edge()
    broken.there.mesh.attach_edge("edge-1", edge.take)
    await broken.there.mesh._put(DELIVER_SERVICE, "edge-1")
    await broken.here.mesh._refresh()
    return edge


@pytest.mark.parametrize("seed", [3, 4])
async def test_events_reach_an_edge_once_and_in_order_however_often_the_connection_is_cut(
    broken: Broken, edge: Edge, seed: int
) -> None:
    edge.cut_at = sorted(random.Random(seed).sample(range(3000), CUTS))
    edge.cut = broken.proxy.cut
    many = asyncio.Semaphore(100)
    gone: dict[int, list[int]] = {}

    async def deliver(number: int) -> None:
        try:
            gone[number] = list(await broken.here.mesh.deliver("edge-1", durable(number)))
        finally:
            many.release()

    delivering = []
    for number in range(3000):
        await many.acquire()
        delivering.append(asyncio.ensure_future(deliver(number)))
        if number % 20 == 0:
            await asyncio.sleep(0.002)
    await asyncio.gather(*delivering)

    assert broken.here.mesh.stream_metrics.deliver_out.resumes > 3
    assert edge.got == list(range(3000))
    assert gone == {number: [number] if number % 2 else [] for number in range(3000)}


async def test_batches_that_gather_are_written_as_one_and_each_call_hears_of_its_own_targets(
    broken: Broken, edge: Edge
) -> None:
    gone = await asyncio.gather(*(broken.here.mesh.deliver("edge-1", durable(number)) for number in range(50)))

    assert edge.batches < 10
    assert [list(ids) for ids in gone] == [[number] if number % 2 else [] for number in range(50)]


async def test_what_follows_an_eviction_does_not_overtake_it(broken: Broken) -> None:
    got: list[str] = []

    def take(batch: DeliverBatch) -> list[int]:
        got.extend("event" for _ in batch.deliveries)
        got.extend("eviction" for _ in batch.evictions)
        return []

    broken.there.mesh.attach_edge("edge-1", take)
    await broken.there.mesh._put(DELIVER_SERVICE, "edge-1")
    await broken.here.mesh._refresh()
    eviction = DeliverBatch(evictions=[Eviction(connection_id=1)])

    await asyncio.gather(*(broken.here.mesh.deliver("edge-1", batch) for batch in (durable(1), eviction, durable(2))))

    assert got == ["event", "eviction", "event"]


async def test_the_answers_to_batches_that_were_taken_before_a_break_come_after_it(broken: Broken) -> None:
    def take_and_cut(batch: DeliverBatch) -> list[int]:
        broken.proxy.cut()
        return [target.connection_id for delivery in batch.deliveries for target in delivery.targets]

    broken.there.mesh.attach_edge("edge-1", take_and_cut)
    await broken.there.mesh._put(DELIVER_SERVICE, "edge-1")
    await broken.here.mesh._refresh()

    assert list(await broken.here.mesh.deliver("edge-1", durable(7))) == [7]


async def test_an_edge_that_cannot_be_reached_fails_at_once_and_later_too(broken: Broken, edge: Edge) -> None:
    await broken.proxy.stop()

    for number in range(3):
        with pytest.raises(HitherError) as raised:
            await broken.here.mesh.deliver("edge-1", durable(number))
        assert not isinstance(raised.value, DeadlineExceeded)

    assert not edge.got
