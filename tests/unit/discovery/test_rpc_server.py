import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import pytest
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from discovery.contract import methods
from discovery.mesh import Mesh
from discovery.registry.embedded import EmbeddedRegistry
from discovery.rpc.call import Caller, Role
from discovery.rpc.identity import CALLER
from discovery.rpc.server import RpcServer
from discovery.rpc.tls import TlsError
from hither.mesh.v1 import caller_pb2, options_pb2, status_service_pb2
from hither.mesh.v1.instance_pb2 import InstanceState
from hither.mesh.v1.status_service_pb2_grpc import StatusServiceStub
from hither.messaging.v1 import messaging_service_pb2 as pb
from hither.messaging.v1.messaging_service_pb2_grpc import MessagingServiceStub
from tests.support.cluster import ALICE, CLUSTER, MESSAGING, PARTITIONS, Keys, Process, new_dispatcher, running_process

if TYPE_CHECKING:
    from hither.messaging.v1.messaging_service_pb2_grpc import MessagingServiceAsyncStub

HEALTH = health_pb2.HealthCheckResponse


@pytest.fixture
def keys() -> Keys:
    return Keys()


@pytest.fixture
async def process(keys: Keys) -> AsyncIterator[Process]:
    async with running_process(EmbeddedRegistry(), keys, "served") as process:
        yield process


@pytest.fixture
async def channel(process: Process) -> AsyncIterator[grpc.aio.Channel]:
    async with grpc.aio.insecure_channel(process.server.address) as channel:
        yield channel


@pytest.fixture
def messaging(channel: grpc.aio.Channel) -> "MessagingServiceAsyncStub":
    return MessagingServiceStub(channel)


def request() -> pb.SendMessageRequest:
    return pb.SendMessageRequest(conversation_id="g.1", client_id="1", text="hi")


def bearer(token: str) -> tuple[tuple[str, str | bytes], ...]:
    return (("authorization", f"Bearer {token}"),)


def for_alice(token: str) -> tuple[tuple[str, str | bytes], ...]:
    caller = caller_pb2.Caller(role=options_pb2.ACCESS_USER, user_id="alice", device_id="phone")
    return (*bearer(token), (CALLER, caller.SerializeToString()))


def details_of(error: grpc.aio.AioRpcError) -> tuple[error_details_pb2.ErrorInfo, status_pb2.Status]:
    [value] = [value for key, value in error.trailing_metadata() if key == "grpc-status-details-bin"]
    status = status_pb2.Status.FromString(value if isinstance(value, bytes) else value.encode())
    info = error_details_pb2.ErrorInfo()
    [info] = [one for detail in status.details if detail.Unpack(one := error_details_pb2.ErrorInfo())]
    return info, status


async def failure(call: object) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await call  # type: ignore[misc] # a call is awaitable
    return raised.value


async def test_a_user_calls_with_a_token(process: Process, messaging: "MessagingServiceAsyncStub", keys: Keys) -> None:
    await messaging.SendMessage(request(), metadata=bearer(keys.sign()))

    assert process.servicer.seen[0][1].caller == ALICE


async def test_a_process_of_the_cluster_speaks_for_a_user(
    process: Process, messaging: "MessagingServiceAsyncStub", keys: Keys
) -> None:
    await messaging.SendMessage(request(), metadata=for_alice(keys.service_token()))

    assert process.servicer.seen[0][1].caller == ALICE


async def test_a_user_cannot_speak_for_another(messaging: "MessagingServiceAsyncStub", keys: Keys) -> None:
    error = await failure(messaging.SendMessage(request(), metadata=for_alice(keys.sign(sub="mallory"))))

    assert error.code() is grpc.StatusCode.UNAUTHENTICATED
    assert details_of(error)[0].reason == "BAD_TOKEN"


async def test_a_claim_without_a_token_is_refused(messaging: "MessagingServiceAsyncStub") -> None:
    error = await failure(messaging.SendMessage(request(), metadata=for_alice("x")[1:]))

    assert error.code() is grpc.StatusCode.UNAUTHENTICATED


async def test_without_credentials_a_caller_is_anonymous(messaging: "MessagingServiceAsyncStub") -> None:
    error = await failure(messaging.SendMessage(request()))

    assert error.code() is grpc.StatusCode.UNAUTHENTICATED
    assert details_of(error)[0].reason == "NO_CREDENTIALS"


@pytest.mark.parametrize(("claims", "reason"), [({"aud": "other"}, "BAD_TOKEN"), ({"exp": 0}, "EXPIRED_TOKEN")])
async def test_a_token_that_does_not_hold_is_refused(
    messaging: "MessagingServiceAsyncStub", keys: Keys, claims: dict[str, object], reason: str
) -> None:
    error = await failure(messaging.SendMessage(request(), metadata=bearer(keys.sign(**claims))))

    assert details_of(error)[0].reason == reason


async def test_an_error_goes_out_as_a_rich_status(messaging: "MessagingServiceAsyncStub", keys: Keys) -> None:
    error = await failure(messaging.SendMessage(pb.SendMessageRequest(), metadata=bearer(keys.sign())))

    info, status = details_of(error)
    bad = error_details_pb2.BadRequest()
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert (info.reason, info.domain) == ("INVALID_REQUEST", "hither")
    assert any(detail.Unpack(bad) for detail in status.details)
    assert "client_id" in [violation.field for violation in bad.field_violations]


async def test_bytes_that_are_no_message_get_a_typed_answer(channel: grpc.aio.Channel, keys: Keys) -> None:
    raw: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(f"/{MESSAGING}/SendMessage")

    error = await failure(raw(b"\xff\xff", metadata=bearer(keys.sign())))

    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert details_of(error)[0].reason == "MALFORMED_FRAME"


async def test_no_exception_text_reaches_the_wire(
    process: Process, messaging: "MessagingServiceAsyncStub", keys: Keys
) -> None:
    async def fail(_request: Message) -> Message:
        raise KeyError("secret")

    process.servicer.behaviour = fail

    error = await failure(messaging.SendMessage(request(), metadata=bearer(keys.sign())))

    assert error.code() is grpc.StatusCode.INTERNAL
    assert "secret" not in f"{error.details()} {error.trailing_metadata()}"


async def test_a_client_that_hangs_up_cancels_the_servicer(
    process: Process, messaging: "MessagingServiceAsyncStub", keys: Keys
) -> None:
    begun, ended = asyncio.Event(), asyncio.Event()

    async def hang(_request: Message) -> Message:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        raise AssertionError

    process.servicer.behaviour = hang
    call = messaging.SendMessage(request(), metadata=bearer(keys.sign()))
    await begun.wait()

    call.cancel()

    await asyncio.wait_for(ended.wait(), 30)


async def test_a_trace_goes_on(process: Process, messaging: "MessagingServiceAsyncStub", keys: Keys) -> None:
    trace = "0af7651916cd43dd8448eb211c80319c"
    metadata = (*bearer(keys.sign()), ("traceparent", f"00-{trace}-b7ad6b7169203331-01"))

    await messaging.SendMessage(request(), metadata=metadata)

    assert process.servicer.seen[0][1].trace_id == trace


async def test_an_unknown_method_is_unimplemented(channel: grpc.aio.Channel) -> None:
    method: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary("/hither.push.v1.PushService/Nothing")

    error = await failure(method(b""))

    assert error.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_health_tells_of_the_server_and_each_service(channel: grpc.aio.Channel) -> None:
    health = health_pb2_grpc.HealthStub(channel)

    for service in ("", MESSAGING):
        answer = await health.Check(health_pb2.HealthCheckRequest(service=service))
        assert answer.status == HEALTH.SERVING


async def test_a_drain_shows_in_health_before_anything_else(process: Process, channel: grpc.aio.Channel) -> None:
    watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service=MESSAGING))
    seen = [(await watch.read()).status]

    draining = asyncio.ensure_future(process.server.drain(5))
    seen.append((await watch.read()).status)
    watch.cancel()
    await draining

    assert seen == [HEALTH.SERVING, HEALTH.NOT_SERVING]
    assert process.mesh.owned(MESSAGING) == set()


async def test_reflection_shows_every_service_and_its_files(channel: grpc.aio.Channel) -> None:
    ask = reflection_pb2.ServerReflectionRequest
    call = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(
        iter([ask(list_services=""), ask(file_containing_symbol=MESSAGING)])
    )

    names = {service.name for service in (await call.read()).list_services_response.service}
    files = (await call.read()).file_descriptor_response.file_descriptor_proto
    call.cancel()

    assert {MESSAGING, "hither.mesh.v1.StatusService", "hither.mesh.v1.RelayService"} <= names
    assert "hither.edge.v1.DeliverService" in names
    assert "grpc.health.v1.Health" in names
    assert files


async def test_status_shows_the_instances_and_what_they_own(
    process: Process, channel: grpc.aio.Channel, keys: Keys
) -> None:
    token = keys.sign(sub="ops", rol="admin")

    answer = await StatusServiceStub(channel).GetStatus(status_service_pb2.GetStatusRequest(), metadata=bearer(token))

    assert (answer.cluster, answer.partitions) == (CLUSTER, PARTITIONS)
    [status] = answer.instances
    assert (status.instance.service, status.instance.address) == (MESSAGING, process.server.address)
    assert status.instance.state == InstanceState.INSTANCE_STATE_SERVING
    assert list(status.partitions) == list(range(PARTITIONS))


async def test_status_is_for_operators_only(channel: grpc.aio.Channel, keys: Keys) -> None:
    stub = StatusServiceStub(channel)

    error = await failure(stub.GetStatus(status_service_pb2.GetStatusRequest(), metadata=bearer(keys.sign())))

    assert error.code() is grpc.StatusCode.PERMISSION_DENIED


@pytest.mark.parametrize("path", [path for path, spec in methods().items() if spec.streaming])
async def test_streams_are_for_processes_of_the_cluster_only(channel: grpc.aio.Channel, keys: Keys, path: str) -> None:
    method: grpc.aio.StreamStreamMultiCallable[bytes, bytes] = channel.stream_stream(path)

    error = await failure(method(metadata=bearer(keys.sign())).read())

    assert error.code() is grpc.StatusCode.PERMISSION_DENIED


@pytest.mark.parametrize("address", ["0.0.0.0:0", "192.168.1.1:0", "example.com:1"])
def test_without_certificates_the_server_stays_on_loopback(address: str) -> None:
    mesh = Mesh(EmbeddedRegistry(), new_dispatcher(), partitions=PARTITIONS, service_name="p")

    with pytest.raises(TlsError, match="is not loopback: gRPC needs ca, cert and key"):
        RpcServer(mesh, None, address)


async def test_a_unix_socket_needs_no_certificates(tmp_path: Path) -> None:
    mesh = Mesh(EmbeddedRegistry(), new_dispatcher(), partitions=PARTITIONS, service_name="p")
    address = f"unix:{tmp_path}/grpc"
    async with RpcServer(mesh, None, address) as server, grpc.aio.insecure_channel(server.address) as channel:
        answer = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())

    assert answer.status == HEALTH.SERVING


async def test_without_a_verifier_tokens_are_refused() -> None:
    mesh = Mesh(EmbeddedRegistry(), new_dispatcher(), partitions=PARTITIONS, service_name="p")
    async with RpcServer(mesh, None) as server, grpc.aio.insecure_channel(server.address) as channel:
        stub = StatusServiceStub(channel)
        call = stub.GetStatus(status_service_pb2.GetStatusRequest(), metadata=bearer("x"))

        assert (await failure(call)).code() is grpc.StatusCode.UNAUTHENTICATED


def test_the_fixture_caller_is_a_user() -> None:
    assert Caller(Role.USER, "alice", "phone") == ALICE
