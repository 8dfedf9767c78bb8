"""How the mesh calls between processes: what is tried again and how often, where, and what travels with a call."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
from google.protobuf.message import Message

from discovery.budget import RetryBudget
from discovery.errors import DeadlineExceeded, HitherError, NotFound, NotOwner, ResourceExhausted, Unavailable
from discovery.mesh import Mesh
from discovery.registry.embedded import EmbeddedRegistry
from discovery.rpc import requesting
from discovery.rpc.call import current_call
from discovery.rpc.relay import RelaySession
from hither.directory.v1 import directory_service_pb2 as directory
from hither.messaging.v1 import messaging_service_pb2 as pb
from hither.sessions.v1 import sessions_service_pb2 as sessions
from hither.sessions.v1.sessions_service_pb2_grpc import SessionsServiceStub
from tests.support.cluster import (
    ALICE,
    MESSAGING,
    PARTITIONS,
    SEND,
    Keys,
    Process,
    Scripted,
    key_in,
    new_dispatcher,
    running_process,
)

DIRECTORY = "hither.directory.v1.DirectoryService"
SESSIONS = "hither.sessions.v1.SessionsService"
CREATE_USER = f"/{DIRECTORY}/CreateUser"
GET_USER = f"/{DIRECTORY}/GetUser"


def send() -> pb.SendMessageRequest:
    return pb.SendMessageRequest(conversation_id="g.1", client_id="1", text="hi")


def get_user() -> directory.GetUserRequest:
    return directory.GetUserRequest(user_id="bob")


def create_user() -> directory.CreateUserRequest:
    return directory.CreateUserRequest(user_id="alice", name="Alice", password="correct horse")


@asynccontextmanager
async def cluster(
    *services: str, zones: tuple[str, ...] = ("", "", ""), zone: str = ""
) -> AsyncIterator[tuple[Mesh, list[Process]]]:
    """A mesh that serves nothing, and a process for each of the services, in the zones of that place."""
    registry, keys = EmbeddedRegistry(), Keys()
    caller = Mesh(
        registry, new_dispatcher(), partitions=PARTITIONS, service_name="caller", token=keys.service_token, zone=zone
    )
    async with AsyncExitStack() as stack:
        processes = [
            await stack.enter_async_context(running_process(registry, keys, f"p{number}", service, zone=zones[number]))
            for number, service in enumerate(services)
        ]
        await stack.enter_async_context(caller)
        for process in processes:
            await process.mesh._refresh()
        yield caller, processes


def failing(times: int, error: HitherError, servicer: Scripted, answer: Message) -> None:
    async def serve(_request: Message) -> Message:
        if len(servicer.seen) <= times:
            raise error
        return answer

    servicer.behaviour = serve


def answering(answer: Message) -> Callable[[Message], Awaitable[Message]]:
    async def serve(_request: Message) -> Message:
        return answer

    return serve


# --- what is tried again ---


@pytest.mark.parametrize("reason", ["NO_OWNER", "DRAINING"])
async def test_what_was_surely_not_done_is_tried_again_whether_idempotent_or_not(reason: str) -> None:
    async with cluster(DIRECTORY) as (caller, [process]):
        failing(8, Unavailable("moving", reason=reason), process.servicer, directory.CreateUserResponse())

        await caller.call(CREATE_USER, create_user(), caller=ALICE, timeout_s=10)

    assert len(process.servicer.seen) == 9


async def test_not_owner_is_tried_again_whatever_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    async with cluster(DIRECTORY) as (caller, [process]):
        monkeypatch.setattr(caller._calls, "budget", RetryBudget(ratio=0, per_s=0))
        failing(5, NotOwner("moved", revision=1), process.servicer, directory.CreateUserResponse())

        await caller.call(CREATE_USER, create_user(), caller=ALICE, timeout_s=10)

    assert len(process.servicer.seen) == 6


async def test_when_the_budget_is_used_up_the_error_is_the_callers(monkeypatch: pytest.MonkeyPatch) -> None:
    async with cluster(DIRECTORY) as (caller, [process]):
        monkeypatch.setattr(caller._calls, "budget", RetryBudget(ratio=0, per_s=3, now_s=lambda: 0.0))
        failing(99, Unavailable("lost", reason="OUTCOME_UNKNOWN"), process.servicer, directory.GetUserResponse())

        with pytest.raises(Unavailable):
            await caller.call(GET_USER, get_user(), caller=ALICE, timeout_s=30)

        assert len(process.servicer.seen) == 1 + 3
        assert caller.stream_metrics.calls.budget_refusals == 1


async def test_an_overloaded_instance_sends_its_calls_to_another() -> None:
    async with cluster(DIRECTORY, DIRECTORY) as (caller, [full, free]):
        failing(99, ResourceExhausted("full", retry_after_s=1.0), full.servicer, directory.GetUserResponse())
        for _ in range(10):
            await caller.call(GET_USER, get_user(), caller=ALICE, timeout_s=10)

    assert len(free.servicer.seen) == 10


async def test_an_overloaded_owner_says_so_to_the_caller_at_once() -> None:
    async with cluster(MESSAGING) as (caller, [owner]):
        failing(99, ResourceExhausted("full", retry_after_s=1.0), owner.servicer, pb.SendMessageResponse())

        with pytest.raises(ResourceExhausted) as raised:
            await caller.call(SEND, send(), caller=ALICE, timeout_s=10)

    assert (raised.value.retry_after_s, len(owner.servicer.seen)) == (1.0, 1)


async def test_a_partition_that_changes_hands_costs_its_callers_time_and_no_error() -> None:
    async with cluster(MESSAGING, MESSAGING) as (caller, [leaving, staying]):
        key = key_in(leaving.mesh.owned(MESSAGING), leaving.mesh)
        failing(
            6, Unavailable("moving", reason="NO_OWNER", retry_after_s=0.1), staying.servicer, pb.SendMessageResponse()
        )

        async def call(number: int) -> None:
            request = pb.SendMessageRequest(conversation_id=key, client_id=str(number), text="hi")
            await caller.call(SEND, request, caller=ALICE, timeout_s=10)

        calling = [asyncio.ensure_future(call(number)) for number in range(20)]
        await leaving.server.drain(0.2)
        calling += [asyncio.ensure_future(call(number)) for number in range(20, 40)]
        await asyncio.gather(*calling)

    assert len(leaving.servicer.seen) + len(staying.servicer.seen) == 40 + 6


async def test_callers_that_hear_not_owner_share_the_reading_of_the_registry() -> None:
    async with cluster(DIRECTORY) as (caller, [process]):
        revision = caller.revision
        failing(100, NotOwner("moved", revision=revision), process.servicer, directory.GetUserResponse())

        await asyncio.gather(*(caller.call(GET_USER, get_user(), caller=ALICE, timeout_s=10) for _ in range(100)))

        assert 1 <= caller.stream_metrics.calls.refreshes <= 2


async def test_a_refuser_that_knows_less_causes_no_reading_of_the_registry() -> None:
    async with cluster(DIRECTORY) as (caller, [process]):
        failing(3, NotOwner("moved", revision=caller.revision - 1), process.servicer, directory.GetUserResponse())

        await caller.call(GET_USER, get_user(), caller=ALICE, timeout_s=10)

        assert caller.stream_metrics.calls.refreshes == 0


# --- where ---


async def test_calls_without_a_key_stay_in_the_zone_as_long_as_it_serves() -> None:
    async with cluster(DIRECTORY, DIRECTORY, zones=("a", "b"), zone="b") as (caller, [far, near]):
        for _ in range(10):
            await caller.call(GET_USER, get_user(), caller=ALICE, timeout_s=5)
        assert (len(far.servicer.seen), len(near.servicer.seen)) == (0, 10)
        await near.mesh.drain()
        await caller._refresh()
        await caller.call(GET_USER, get_user(), caller=ALICE, timeout_s=5)

    assert len(far.servicer.seen) == 1


async def test_a_key_leaves_the_zone_for_its_owner() -> None:
    async with cluster(MESSAGING, zones=("a",), zone="b") as (caller, [far]):
        await caller.call(SEND, send(), caller=ALICE, timeout_s=5)

    assert len(far.servicer.seen) == 1


async def test_instances_are_registered_with_their_zone() -> None:
    async with cluster(DIRECTORY, zones=("a",)) as (caller, _):
        assert [one.zone for one in caller.view.of(DIRECTORY).serving] == ["a"]


async def test_an_instance_that_died_is_ejected_and_its_calls_go_to_another() -> None:
    async with cluster(DIRECTORY, DIRECTORY) as (caller, [dead, well]):
        await dead.server._server.stop(grace=0)
        for _ in range(20):
            await caller.call(GET_USER, get_user(), caller=ALICE, timeout_s=10)

        assert len(well.servicer.seen) == 20
        assert caller.stream_metrics.calls.ejections == 1
        assert caller.stream_metrics.gauges.ejected() == 1


async def test_an_error_that_was_answered_ejects_nobody() -> None:
    async with cluster(DIRECTORY) as (caller, [process]):
        failing(1, NotFound("who?", reason="NO_SUCH_USER"), process.servicer, directory.GetUserResponse())

        with pytest.raises(NotFound):
            await caller.call(GET_USER, get_user(), caller=ALICE, timeout_s=5)

        assert caller.stream_metrics.calls.ejections == 0


async def not_renewed() -> bool:
    return False


async def test_a_peer_that_left_is_hung_up_on_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("discovery.mesh._PARTING_S", 0.02)
    async with cluster(DIRECTORY, SESSIONS) as (caller, [leaving, staying]):
        lookup = sessions.LookupConnectionsRequest(user_ids=["bob"])
        await caller.call(GET_USER, get_user(), caller=ALICE, timeout_s=5)
        await caller.stub(SessionsServiceStub).LookupConnections(lookup, timeout=5)
        before = caller._peers.addresses
        # As one whose lease ends while it cannot reach the registry. It would be registered again at once otherwise.
        monkeypatch.setattr(leaving.mesh._membership, "renew", not_renewed)
        await leaving.mesh._membership.leave()
        await caller._refresh()
        async with asyncio.timeout(30):
            while len(caller._peers.addresses) > 1 or caller.stream_metrics.relay_out.open > 1:  # noqa: ASYNC110
                await asyncio.sleep(0.01)  # nothing tells when a channel is forgotten

        assert before == {leaving.server.address, staying.server.address}
        assert caller._peers.addresses == {staying.server.address}
        assert caller.stream_metrics.relay_out.open == 1


# --- what waits ---


async def test_calls_beyond_the_credit_wait_their_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    defaults = RelaySession.__init__.__kwdefaults__
    assert defaults is not None
    monkeypatch.setitem(defaults, "credit", 4)
    full, proceed, open_now, most = asyncio.Event(), asyncio.Event(), 0, 0

    async def serve(_request: Message) -> Message:
        nonlocal open_now, most
        open_now += 1
        most = max(most, open_now)
        if open_now == 4:
            full.set()
        await proceed.wait()
        open_now -= 1
        return directory.GetUserResponse()

    async with cluster(DIRECTORY) as (caller, [process]):
        process.servicer.behaviour = serve
        calling = [
            asyncio.ensure_future(caller.call(GET_USER, get_user(), caller=ALICE, timeout_s=10)) for _ in range(20)
        ]
        await full.wait()
        assert caller.stream_metrics.gauges.waiting() == 16
        proceed.set()
        await asyncio.gather(*calling)

    assert (most, len(process.servicer.seen)) == (4, 20)


async def test_too_many_that_wait_for_one_process_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requesting, "MAX_WAITING", 3)
    async with cluster(DIRECTORY) as (caller, [process]):
        calling = [
            asyncio.ensure_future(caller.call(GET_USER, get_user(), caller=ALICE, timeout_s=10)) for _ in range(5)
        ]
        outcomes = await asyncio.gather(*calling, return_exceptions=True)

        refused = [outcome for outcome in outcomes if isinstance(outcome, ResourceExhausted)]
        assert [(error.reason, error.retry_after_s) for error in refused] == [("OVERLOADED", 1.0)] * 2
        assert len(process.servicer.seen) == 3
        assert caller.stream_metrics.calls.shed == 2


async def test_calls_to_one_process_begin_in_their_order() -> None:
    async with cluster(DIRECTORY) as (caller, [process]):
        requests = [directory.GetUserRequest(user_id=f"u{number}") for number in range(1000)]
        await asyncio.gather(*(caller.call(GET_USER, one, caller=ALICE, timeout_s=10) for one in requests))

    assert [request for request, _ in process.servicer.seen] == requests


# --- over several hops ---


@asynccontextmanager
async def chain(last: Callable[[Message], Awaitable[Message]]) -> AsyncIterator[tuple[Mesh, Process, Process]]:
    """A caller, a directory that calls sessions for it, and sessions, which does as told."""
    async with cluster(DIRECTORY, SESSIONS) as (caller, [middle, end]):
        stub = middle.mesh.stub(SessionsServiceStub)

        async def call_on(_request: Message) -> Message:
            await stub.LookupConnections(sessions.LookupConnectionsRequest(user_ids=["bob"]), timeout=60)
            return directory.GetUserResponse()

        middle.servicer.behaviour = call_on
        end.servicer.behaviour = last
        yield caller, middle, end


async def test_a_cancelled_call_is_cancelled_two_hops_away() -> None:
    begun, ended = asyncio.Event(), asyncio.Event()

    async def wait(_request: Message) -> Message:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        raise AssertionError

    async with chain(wait) as (caller, _, _):
        calling = asyncio.ensure_future(caller.call(GET_USER, get_user(), caller=ALICE, timeout_s=60))
        await asyncio.wait_for(begun.wait(), 30)
        calling.cancel()

        await asyncio.wait_for(ended.wait(), 30)
        with pytest.raises(asyncio.CancelledError):
            await calling


async def test_the_deadline_holds_two_hops_away() -> None:
    left_s, ended = [], asyncio.Event()

    async def wait(_request: Message) -> Message:
        left_s.append(current_call().remaining_s())
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        raise AssertionError

    async with chain(wait) as (caller, _, _):
        async with asyncio.timeout(30):
            with pytest.raises(DeadlineExceeded):
                await caller.call(GET_USER, get_user(), caller=ALICE, timeout_s=0.5)

        await asyncio.wait_for(ended.wait(), 30)
    assert 0 < left_s[0] <= 0.5


async def test_the_user_and_the_trace_go_along_all_hops() -> None:
    async with chain(answering(sessions.LookupConnectionsResponse())) as (caller, middle, end):
        await caller.call(GET_USER, get_user(), caller=ALICE, timeout_s=10)

    [(_, first)], [(_, second)] = middle.servicer.seen, end.servicer.seen
    assert (second.caller.user_id, second.caller.device_id) == (ALICE.user_id, ALICE.device_id)
    assert second.trace_id == first.trace_id
