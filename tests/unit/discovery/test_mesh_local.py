import asyncio
import time

import pytest
from google.protobuf.message import Message

from discovery.errors import (
    DeadlineExceeded,
    HitherError,
    InvalidArgument,
    NotFound,
    NotOwner,
    Unavailable,
    Unimplemented,
)
from discovery.mesh import Mesh
from discovery.registry.embedded import EmbeddedRegistry
from discovery.rpc.call import Call, Role, serve_call
from hither.directory.v1 import directory_service_pb2 as directory
from hither.edge.v1.deliver_pb2 import DeliverBatch
from hither.messaging.v1 import messaging_service_pb2 as pb
from hither.messaging.v1.messaging_service_pb2_grpc import MessagingServiceStub
from hither.sessions.v1 import sessions_service_pb2 as sessions
from hither.sessions.v1.sessions_service_pb2_grpc import SessionsServiceStub
from tests.support.cluster import ALICE, MESSAGING, PARTITIONS, SEND, Scripted, new_dispatcher

SESSIONS = "hither.sessions.v1.SessionsService"
DIRECTORY = "hither.directory.v1.DirectoryService"
MARK_READ = f"/{MESSAGING}/MarkRead"
CREATE_USER = f"/{DIRECTORY}/CreateUser"


def request() -> pb.SendMessageRequest:
    return pb.SendMessageRequest(conversation_id="g.1", client_id="1", text="hi")


def new_mesh(*servicers: Scripted) -> Mesh:
    return Mesh(EmbeddedRegistry(), new_dispatcher(*servicers), partitions=PARTITIONS, service_name="tester")


async def test_a_call_in_a_clients_name_reaches_the_servicer_without_a_copy() -> None:
    servicer, sent = Scripted(), request()
    async with (mesh := new_mesh(servicer)):
        await mesh.serve()

        answer = await mesh.call(SEND, sent, caller=ALICE, timeout_s=1)

    assert answer == pb.SendMessageResponse()
    [(got, call)] = servicer.seen
    assert got is sent
    assert call.caller == ALICE
    assert call.remaining_s() <= 1


async def test_a_stub_is_typed_and_calls_in_the_name_of_this_process() -> None:
    servicer = Scripted(SESSIONS)
    async with (mesh := new_mesh(servicer)):
        await mesh.serve()
        stub = mesh.stub(SessionsServiceStub)

        await stub.LookupConnections(sessions.LookupConnectionsRequest(user_ids=["alice"]), timeout=1.0)

    [(_, call)] = servicer.seen
    assert (call.caller.role, call.caller.service, call.caller.user_id) == (Role.SERVICE, "tester", "")


async def test_a_stub_speaks_for_the_user_of_the_current_call_within_its_deadline_and_trace() -> None:
    servicer = Scripted(SESSIONS)
    async with (mesh := new_mesh(servicer)):
        await mesh.serve()
        outer = Call(SEND, ALICE, time.monotonic() + 0.5, "outer-trace")
        serve_call(outer)

        await mesh.stub(SessionsServiceStub).LookupConnections(
            sessions.LookupConnectionsRequest(user_ids=["bob"]), timeout=60.0
        )
        serve_call(None)

    [(_, call)] = servicer.seen
    assert (call.caller.role, call.caller.user_id, call.caller.device_id) == (Role.SERVICE, "alice", "phone")
    assert (call.deadline_s, call.trace_id) == (outer.deadline_s, "outer-trace")


async def test_a_stub_refuses_metadata() -> None:
    async with (mesh := new_mesh(Scripted(SESSIONS))):
        with pytest.raises(ValueError, match="metadata"):
            mesh.stub(SessionsServiceStub).LookupConnections(
                sessions.LookupConnectionsRequest(), metadata=(("a", "b"),)
            )


async def test_the_key_is_filled_before_it_is_hashed() -> None:
    servicer = Scripted()
    async with (mesh := new_mesh(servicer)):
        await mesh.serve()

        await mesh.call(SEND, pb.SendMessageRequest(to="bob", client_id="1", text="hi"), caller=ALICE, timeout_s=1)

    assert len(servicer.seen) == 1


async def test_errors_come_through_as_they_are() -> None:
    servicer = Scripted()

    async def fail(_request: Message) -> Message:
        raise NotFound("who?", reason="NO_SUCH_USER")

    servicer.behaviour = fail
    async with (mesh := new_mesh(servicer)):
        await mesh.serve()

        with pytest.raises(NotFound):
            await mesh.call(SEND, request(), caller=ALICE, timeout_s=1)


async def test_the_deadline_holds() -> None:
    servicer = Scripted()

    async def hang(_request: Message) -> Message:
        await asyncio.Event().wait()
        raise AssertionError

    servicer.behaviour = hang
    async with (mesh := new_mesh(servicer)):
        await mesh.serve()

        with pytest.raises(DeadlineExceeded):
            await mesh.call(SEND, request(), caller=ALICE, timeout_s=0.02)


async def test_a_method_that_the_contract_does_not_have_is_unimplemented() -> None:
    async with (mesh := new_mesh()):
        with pytest.raises(Unimplemented):
            await mesh.call("/no.Such/Method", request(), caller=ALICE, timeout_s=1)


async def test_values_of_several_partitions_are_refused_before_any_call() -> None:
    servicer = Scripted(SESSIONS)
    async with (mesh := new_mesh(servicer)):
        await mesh.serve()

        with pytest.raises(InvalidArgument):
            await mesh.stub(SessionsServiceStub).LookupConnections(
                sessions.LookupConnectionsRequest(user_ids=[f"u{number}" for number in range(50)])
            )

    assert not servicer.seen


async def test_without_an_owner_a_call_is_tried_until_its_deadline() -> None:
    async with (mesh := new_mesh()):
        with pytest.raises(Unavailable) as refused:
            await mesh.call(SEND, request(), caller=ALICE, timeout_s=0.6)

    assert refused.value.reason == "NO_OWNER"
    assert refused.value.retry_after_s
    assert mesh.dispatcher.metrics.retries > 3


async def test_the_attempts_end_with_the_deadline() -> None:
    async with (mesh := new_mesh()):
        async with asyncio.timeout(30):
            with pytest.raises(Unavailable):
                await mesh.call(SEND, request(), caller=ALICE, timeout_s=0.05)


async def test_a_call_that_came_too_early_finds_its_owner_when_it_appears() -> None:
    servicer = Scripted()
    async with (mesh := new_mesh(servicer)):
        calling = asyncio.ensure_future(mesh.call(SEND, request(), caller=ALICE, timeout_s=5))
        await asyncio.sleep(0)

        await mesh.serve()
        await calling

    assert len(servicer.seen) == 1


async def failing_first(error: HitherError, servicer: Scripted, answer: Message) -> None:
    async def serve(_request: Message) -> Message:
        if len(servicer.seen) == 1:
            raise error
        return answer

    servicer.behaviour = serve


async def test_an_idempotent_method_is_tried_again_when_the_outcome_is_unknown() -> None:
    servicer = Scripted()
    await failing_first(Unavailable("lost", reason="OUTCOME_UNKNOWN"), servicer, pb.SendMessageResponse())
    async with (mesh := new_mesh(servicer)):
        await mesh.serve()

        await mesh.call(SEND, request(), caller=ALICE, timeout_s=1)

    assert len(servicer.seen) == 2


async def test_a_method_that_is_not_idempotent_is_tried_once() -> None:
    servicer = Scripted(DIRECTORY)
    await failing_first(Unavailable("lost", reason="OUTCOME_UNKNOWN"), servicer, directory.CreateUserResponse())
    signup = directory.CreateUserRequest(user_id="alice", name="Alice", password="correct horse")
    async with (mesh := new_mesh(servicer)):
        await mesh.serve()

        with pytest.raises(Unavailable):
            await mesh.call(CREATE_USER, signup, caller=ALICE, timeout_s=1)

    assert len(servicer.seen) == 1


async def test_an_engine_that_is_down_is_not_hammered() -> None:
    servicer = Scripted()
    await failing_first(Unavailable("down", reason="ENGINE_DOWN"), servicer, pb.SendMessageResponse())
    async with (mesh := new_mesh(servicer)):
        await mesh.serve()

        with pytest.raises(Unavailable):
            await mesh.call(SEND, request(), caller=ALICE, timeout_s=1)

    assert len(servicer.seen) == 1


async def test_not_owner_never_leaves_the_mesh() -> None:
    servicer = Scripted()

    async def refuse(_request: Message) -> Message:
        raise NotOwner("elsewhere", revision=1)

    servicer.behaviour = refuse
    async with (mesh := new_mesh(servicer)):
        await mesh.serve()

        with pytest.raises(Unavailable) as raised:
            await mesh.call(SEND, request(), caller=ALICE, timeout_s=0.2)

    assert raised.value.reason == "NO_OWNER"


async def test_one_process_owns_every_partition_of_its_services() -> None:
    async with (mesh := new_mesh(Scripted())):
        assert mesh.owned(MESSAGING) == set()
        await mesh.serve()

        assert mesh.owned(MESSAGING) == set(range(PARTITIONS))
        assert mesh.owns(MESSAGING, 3)
        assert not mesh.owns(SESSIONS, 3)


async def test_what_is_owned_can_be_watched() -> None:
    async with (mesh := new_mesh(Scripted())):
        watch = mesh.watch_owned(MESSAGING)
        seen = [await anext(watch)]

        await mesh.serve()
        seen.append(await anext(watch))
        await mesh.drain()
        seen.append(await anext(watch))

    assert seen == [frozenset(), frozenset(range(PARTITIONS)), frozenset()]


async def test_after_a_drain_nothing_is_owned_and_calls_find_nobody() -> None:
    servicer = Scripted()
    async with (mesh := new_mesh(servicer)):
        await mesh.serve()
        await mesh.drain()

        with pytest.raises(Unavailable):
            await mesh.call(SEND, request(), caller=ALICE, timeout_s=0.05)

    assert not servicer.seen


async def test_processes_of_a_cluster_have_different_numbers() -> None:
    registry = EmbeddedRegistry()
    meshes = [Mesh(registry, new_dispatcher(), partitions=PARTITIONS, service_name="p") for _ in range(2)]

    async with meshes[0], meshes[1]:
        assert [mesh.instance_number for mesh in meshes] == [0, 1]
        assert meshes[0].instance_id != meshes[1].instance_id


async def test_an_edge_of_this_process_gets_its_batches_directly() -> None:
    got = []

    def handler(batch: DeliverBatch) -> list[int]:
        got.append(batch)
        return [7]

    async with (mesh := new_mesh()):
        mesh.attach_edge("edge-1", handler)
        await mesh.serve()
        batch = DeliverBatch()

        gone = await mesh.deliver("edge-1", batch)

    assert gone == [7]
    assert got[0] is batch


async def test_an_edge_that_attaches_late_is_registered_too() -> None:
    registry = EmbeddedRegistry()
    async with (mesh := Mesh(registry, new_dispatcher(), partitions=PARTITIONS, service_name="p")):
        await mesh.serve()
        mesh.attach_edge("edge-1", lambda _: [])

        async with asyncio.timeout(30):
            async for snapshot in registry.watch():
                if snapshot.instances:
                    break

    assert [instance.instance_id for instance in snapshot.instances] == ["edge-1"]


async def test_an_unknown_edge_is_unavailable() -> None:
    async with (mesh := new_mesh()):
        with pytest.raises(Unavailable):
            await mesh.deliver("edge-x", DeliverBatch())


async def test_leaving_takes_the_instances_back() -> None:
    registry = EmbeddedRegistry()
    mesh = Mesh(registry, new_dispatcher(Scripted()), partitions=PARTITIONS, service_name="p")
    async with mesh:
        await mesh.serve()
        assert (await registry.snapshot()).instances

    assert not (await registry.snapshot()).instances


async def test_cancelling_a_routed_call_cancels_the_servicer() -> None:
    servicer = Scripted()
    begun, ended = asyncio.Event(), asyncio.Event()

    async def hang(_request: Message) -> Message:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        raise AssertionError

    servicer.behaviour = hang
    async with (mesh := new_mesh(servicer)):
        await mesh.serve()
        stub = mesh.stub(MessagingServiceStub)
        assert stub
        calling = asyncio.ensure_future(mesh.call(SEND, request(), caller=ALICE, timeout_s=5))
        await begun.wait()
        calling.cancel()
        with pytest.raises(asyncio.CancelledError):
            await calling

    assert ended.is_set()
