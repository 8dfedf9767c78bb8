"""Two processes of one cluster, over loopback gRPC."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from google.protobuf.message import Message

from discovery.errors import DeadlineExceeded, Internal, InvalidArgument, NotFound, NotOwner, Unavailable, Violation
from discovery.mesh import DELIVER_SERVICE, Mesh
from discovery.registry.embedded import EmbeddedRegistry
from discovery.rpc.call import Role
from hither.directory.v1.directory_service_pb2 import GetUserRequest
from hither.edge.v1.deliver_pb2 import DeliverBatch, Eviction
from hither.messaging.v1 import messaging_service_pb2 as pb
from tests.support.cluster import (
    ALICE,
    MESSAGING,
    PARTITIONS,
    SEND,
    Keys,
    Process,
    key_in,
    new_dispatcher,
    running_process,
)

DIRECTORY = "hither.directory.v1.DirectoryService"
Pair = tuple[Process, Process]


@pytest.fixture
async def pair() -> AsyncIterator[Pair]:
    registry, keys = EmbeddedRegistry(), Keys()
    async with running_process(registry, keys, "here") as here, running_process(registry, keys, "there") as there:
        await agree(here, there)
        yield here, there


async def agree(*processes: Process) -> None:
    """Waits until all processes see the newest revision."""
    for process in processes:
        await process.mesh._refresh()


def owned_by(there: Process) -> pb.SendMessageRequest:
    key = key_in(there.mesh.owned(MESSAGING), there.mesh)
    return pb.SendMessageRequest(conversation_id=key, client_id="1", text="hi")


async def test_two_processes_share_all_partitions(pair: Pair) -> None:
    here, there = (process.mesh.owned(MESSAGING) for process in pair)

    assert here | there == set(range(PARTITIONS))
    assert not here & there
    assert here
    assert there


async def test_a_call_goes_to_the_owner_with_caller_deadline_and_trace(pair: Pair) -> None:
    here, there = pair

    answer = await here.mesh.call(SEND, owned_by(there), caller=ALICE, timeout_s=3)

    assert answer == pb.SendMessageResponse()
    assert not here.servicer.seen
    [(_, call)] = there.servicer.seen
    assert call.caller == ALICE
    assert 2 < call.remaining_s() <= 3
    assert len(call.trace_id) == 32


async def test_an_answer_comes_back_whole(pair: Pair) -> None:
    here, there = pair
    sent = pb.SendMessageResponse(client_id="1", message_id=2**60, seq=7)

    async def answer(_request: Message) -> Message:
        return sent

    there.servicer.behaviour = answer

    assert await here.mesh.call(SEND, owned_by(there), caller=ALICE, timeout_s=3) == sent


async def test_an_error_keeps_class_reason_violations_and_pause(pair: Pair) -> None:
    here, there = pair

    async def fail(_request: Message) -> Message:
        raise NotFound("who?", reason="NO_SUCH_USER", retry_after_s=2.5, violations=[Violation("to", "unknown")])

    there.servicer.behaviour = fail

    with pytest.raises(NotFound) as raised:
        await here.mesh.call(SEND, owned_by(there), caller=ALICE, timeout_s=3)

    error = raised.value
    assert (error.message, error.reason, error.retry_after_s) == ("who?", "NO_SUCH_USER", 2.5)
    assert error.violations == (Violation("to", "unknown"),)


async def test_a_bug_there_shows_nothing_but_its_trace_here(pair: Pair) -> None:
    here, there = pair

    async def fail(_request: Message) -> Message:
        raise KeyError("secret")

    there.servicer.behaviour = fail

    with pytest.raises(Internal, match=r"^internal error, trace [0-9a-f]{32}$"):
        await here.mesh.call(SEND, owned_by(there), caller=ALICE, timeout_s=3)


async def test_the_owner_validates_too(pair: Pair) -> None:
    here, there = pair
    broken = owned_by(there)
    broken.client_id = ""

    with pytest.raises(InvalidArgument):
        await here.mesh.call(SEND, broken, caller=ALICE, timeout_s=3)


async def test_the_deadline_holds_between_processes(pair: Pair) -> None:
    here, there = pair
    ended = asyncio.Event()

    async def hang(_request: Message) -> Message:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        raise AssertionError

    there.servicer.behaviour = hang

    with pytest.raises(DeadlineExceeded):
        await here.mesh.call(SEND, owned_by(there), caller=ALICE, timeout_s=0.1)
    await asyncio.wait_for(ended.wait(), 30)


async def test_an_owner_elsewhere_that_refuses_once_is_asked_again(pair: Pair) -> None:
    here, there = pair

    async def refuse_once(_request: Message) -> Message:
        if len(there.servicer.seen) == 1:
            raise NotOwner("not yet", revision=1)
        return pb.SendMessageResponse()

    there.servicer.behaviour = refuse_once

    await here.mesh.call(SEND, owned_by(there), caller=ALICE, timeout_s=3)

    assert len(there.servicer.seen) == 2


async def test_a_caller_with_an_old_view_finds_the_new_owner(pair: Pair) -> None:
    here, there = pair
    request = owned_by(there)
    stale = here.mesh.view
    await there.mesh.drain()
    here.mesh._membership.view = stale
    here.mesh._owned.clear()

    await here.mesh.call(SEND, request, caller=ALICE, timeout_s=3)

    assert len(here.servicer.seen) == 1
    assert not there.servicer.seen


async def test_an_owner_that_is_gone_without_a_word_is_unavailable_and_nothing_was_done(pair: Pair) -> None:
    here, there = pair
    request = owned_by(there)
    await there.server._server.stop(grace=0)

    with pytest.raises(Unavailable) as raised:
        await here.mesh.call(SEND, request, caller=ALICE, timeout_s=0.5)

    assert raised.value.reason == "NO_OWNER"
    assert here.mesh.dispatcher.metrics.retries > 0


async def test_a_peer_that_could_not_be_reached_is_spared_what_another_can_answer() -> None:
    registry, keys = EmbeddedRegistry(), Keys()
    get_user = "/hither.directory.v1.DirectoryService/GetUser"
    caller = Mesh(registry, new_dispatcher(), partitions=PARTITIONS, service_name="caller", token=keys.service_token)
    async with (
        caller,
        running_process(registry, keys, "well", DIRECTORY) as well,
        running_process(registry, keys, "ill", DIRECTORY) as ill,
    ):
        await caller._refresh()
        await ill.server._server.stop(grace=0)

        for _ in range(20):
            await caller.call(get_user, GetUserRequest(user_id="bob"), caller=ALICE, timeout_s=3)

    assert len(well.servicer.seen) == 20
    assert caller.dispatcher.metrics.retries <= 1


async def test_when_an_owner_leaves_its_keys_are_served_by_who_stays() -> None:
    registry, keys = EmbeddedRegistry(), Keys()
    async with running_process(registry, keys, "here") as here:
        async with running_process(registry, keys, "there") as there:
            await agree(here, there)
            request = owned_by(there)

        await here.mesh.call(SEND, request, caller=ALICE, timeout_s=3)

    assert len(here.servicer.seen) == 1


async def test_what_runs_when_a_drain_begins_is_finished(pair: Pair) -> None:
    here, there = pair
    begun, proceed = asyncio.Event(), asyncio.Event()

    async def wait(_request: Message) -> Message:
        begun.set()
        await proceed.wait()
        return pb.SendMessageResponse(seq=9)

    there.servicer.behaviour = wait
    calling = asyncio.ensure_future(here.mesh.call(SEND, owned_by(there), caller=ALICE, timeout_s=5))
    await begun.wait()
    draining = asyncio.ensure_future(there.server.drain(5))
    await asyncio.sleep(0)
    proceed.set()

    assert await calling == pb.SendMessageResponse(seq=9)
    await draining


async def test_batches_for_an_edge_elsewhere_come_in_order_and_name_who_is_gone(pair: Pair) -> None:
    here, there = pair
    got: list[int] = []

    def handler(batch: DeliverBatch) -> list[int]:
        number = batch.evictions[0].connection_id
        got.append(number)
        return [number] if number % 2 else []

    there.mesh.attach_edge("edge-1", handler)
    await there.mesh.serve(there.server.address)
    await agree(here)
    batches = [DeliverBatch(evictions=[Eviction(connection_id=number)]) for number in range(50)]

    gone = await asyncio.gather(*(here.mesh.deliver("edge-1", batch) for batch in batches))

    assert got == list(range(50))
    assert [list(ids) for ids in gone] == [[number] if number % 2 else [] for number in range(50)]


async def test_an_edge_that_detached_is_unavailable_and_may_return(pair: Pair) -> None:
    here, there = pair
    there.mesh.attach_edge("edge-1", lambda _: [])
    await there.mesh.serve(there.server.address)
    await agree(here)
    there.mesh.detach_edge("edge-1")

    with pytest.raises(Unavailable):
        await here.mesh.deliver("edge-1", DeliverBatch())
    there.mesh.attach_edge("edge-1", lambda _: [5])

    assert list(await here.mesh.deliver("edge-1", DeliverBatch())) == [5]


async def test_an_edge_that_fails_to_take_a_batch_says_nothing_of_why(pair: Pair) -> None:
    here, there = pair

    def fail(_batch: DeliverBatch) -> list[int]:
        raise KeyError("secret")

    there.mesh.attach_edge("edge-1", fail)
    await there.mesh.serve(there.server.address)
    await agree(here)

    with pytest.raises(Internal, match="internal error, trace"):
        await here.mesh.deliver("edge-1", DeliverBatch())


async def test_edges_are_in_the_registry(pair: Pair) -> None:
    _, there = pair
    there.mesh.attach_edge("edge-1", lambda _: [])

    await there.mesh.serve(there.server.address)

    assert there.mesh.view.of(DELIVER_SERVICE).instances["edge-1"].address == there.server.address


async def test_a_process_calls_for_a_user_in_the_name_of_its_service(pair: Pair) -> None:
    here, there = pair

    await here.mesh.call(SEND, owned_by(there), caller=ALICE, timeout_s=3)

    assert there.servicer.seen[0][1].caller.role is Role.USER
