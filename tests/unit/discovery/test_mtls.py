"""mTLS over real sockets: who is let in, as whom, and what happens when certificates change."""

import asyncio
import json
import ssl
import sys
from collections.abc import AsyncIterator, Iterable, Mapping
from pathlib import Path

import grpc
import pytest
from cryptography import x509
from google.protobuf.message import Message

from discovery.errors import HitherError, PermissionDenied, Unavailable
from discovery.mesh import DELIVER_SERVICE, Mesh
from discovery.registry.embedded import EmbeddedRegistry
from discovery.rpc.call import Caller, Role
from discovery.rpc.identity import CALLER
from discovery.rpc.server import RpcServer
from discovery.rpc.status import from_grpc, from_status
from discovery.rpc.tls import Credentials, PeerName, TlsError, TlsSettings
from hither.edge.v1.deliver_pb2 import DeliverBatch
from hither.mesh.v1 import caller_pb2, options_pb2, relay_pb2, status_service_pb2
from hither.mesh.v1.relay_service_pb2_grpc import RelayServiceStub
from hither.mesh.v1.status_service_pb2_grpc import StatusServiceStub
from hither.messaging.v1 import messaging_service_pb2 as pb
from hither.messaging.v1.messaging_service_pb2_grpc import MessagingServiceStub
from hither.sessions.v1 import sessions_service_pb2
from hither.sessions.v1.sessions_service_pb2_grpc import SessionsServiceStub
from services.certs import Issued
from tests.support.certs import ADMIN, Pki, named, serial_of
from tests.support.cluster import (
    ALICE,
    CLUSTER,
    MESSAGING,
    PARTITIONS,
    SEND,
    Keys,
    Process,
    key_in,
    new_dispatcher,
    running_process,
)

SESSIONS = "hither.sessions.v1.SessionsService"
BUF = Path(sys.executable).parent / "buf"
REQUEST = pb.SendMessageRequest(conversation_id="g.1", client_id="1", text="hi")
LOOKUP = sessions_service_pb2.LookupConnectionsRequest(user_ids=["alice"])
Metadata = tuple[tuple[str, str | bytes], ...]


@pytest.fixture
def pki(tmp_path: Path) -> Pki:
    return Pki(tmp_path)


@pytest.fixture
def keys() -> Keys:
    return Keys()


@pytest.fixture
async def process(pki: Pki, keys: Keys) -> AsyncIterator[Process]:
    async with running_process(EmbeddedRegistry(), keys, "served", credentials=pki.credentials("messaging")) as process:
        yield process


def claim(role: Role, **names: str) -> Metadata:
    return ((CALLER, caller_pb2.Caller(role=role.value, **names).SerializeToString()),)


def owned_by(there: Process) -> pb.SendMessageRequest:
    key = key_in(there.mesh.owned(MESSAGING), there.mesh)
    return pb.SendMessageRequest(conversation_id=key, client_id="1", text="hi")


async def send(pki: Pki, process: Process, issued: Issued | None, metadata: Metadata = ()) -> None:
    """SendMessage (for USER) of a key that the process owns, as whoever the certificate names. Raises HitherError."""
    async with pki.channel(process.server.address, issued) as channel:
        try:
            await MessagingServiceStub(channel).SendMessage(owned_by(process), timeout=10, metadata=metadata)
        except grpc.aio.AioRpcError as error:
            raise from_grpc(error) from None


async def refusal(pki: Pki, process: Process, issued: Issued | None, metadata: Metadata = ()) -> tuple[str, str]:
    """The class and the reason of the error that `send` is answered with."""
    with pytest.raises(HitherError) as raised:
        await send(pki, process, issued, metadata)
    return type(raised.value).__name__, raised.value.reason


def seen_callers(process: Process) -> list[Caller]:
    return [call.caller for _, call in process.servicer.seen]


# --- the handshake ---

NO_CONNECTION = ("Unavailable", "OUTCOME_UNKNOWN")
"""What gRPC itself says when a connection cannot be had: our code was not asked."""


async def test_without_a_certificate_there_is_no_call(pki: Pki, process: Process) -> None:
    assert await refusal(pki, process, None) == NO_CONNECTION


async def test_a_certificate_of_another_authority_is_no_certificate(pki: Pki, process: Process, tmp_path: Path) -> None:
    stranger = Pki(tmp_path / "stranger").issue(named("edge"))

    assert await refusal(pki, process, stranger, claim(Role.USER, user_id="alice")) == NO_CONNECTION


async def test_a_certificate_that_ran_out_is_no_certificate(pki: Pki, process: Process) -> None:
    expired = pki.expired(named("edge"))

    assert await refusal(pki, process, expired, claim(Role.USER, user_id="alice")) == NO_CONNECTION


async def test_plaintext_is_not_answered(process: Process, keys: Keys) -> None:
    async with grpc.aio.insecure_channel(process.server.address) as channel:
        call = MessagingServiceStub(channel).SendMessage(
            REQUEST, timeout=10, metadata=(("authorization", f"Bearer {keys.sign()}"),)
        )
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await call

    assert raised.value.code() is grpc.StatusCode.UNAVAILABLE
    assert not process.servicer.seen


async def test_a_server_that_the_authority_did_not_sign_is_not_called(
    pki: Pki, process: Process, tmp_path: Path
) -> None:
    stranger = Pki(tmp_path / "stranger")

    assert await refusal(stranger, process, stranger.issue(named("edge"))) == NO_CONNECTION


async def test_a_server_is_not_called_by_a_name_that_its_certificate_does_not_have(pki: Pki, keys: Keys) -> None:
    elsewhere = pki.credentials("messaging", hosts=["messaging.example"])
    async with running_process(EmbeddedRegistry(), keys, "served", credentials=elsewhere) as process:
        assert await refusal(pki, process, pki.issue(named("edge"))) == NO_CONNECTION


async def test_a_server_name_stands_for_every_address(pki: Pki, keys: Keys) -> None:
    own = pki.write(pki.issue(named("edge"), hosts=["any.cluster.example"]))
    credentials = Credentials(TlsSettings(own.ca, own.cert, own.key, "any.cluster.example"))
    async with two_processes(keys, credentials, credentials) as (here, there):
        await here.mesh.call(SEND, owned_by(there), caller=ALICE, timeout_s=10)

    assert seen_callers(there) == [ALICE]


def test_an_operator_cannot_pose_as_a_process(pki: Pki) -> None:
    mesh = Mesh(EmbeddedRegistry(), new_dispatcher(), partitions=PARTITIONS, service_name="p")

    with pytest.raises(TlsError, match="operator"):
        RpcServer(mesh, None, credentials=pki.credentials(ADMIN))


async def test_who_poses_as_a_process_with_an_operators_certificate_is_not_called(pki: Pki) -> None:
    issued = pki.issue(ADMIN)
    server = grpc.aio.server()
    port = server.add_secure_port(
        "127.0.0.1:0",
        grpc.ssl_server_credentials([(issued.key_pem, issued.certificate_pem)], pki.ca_pem, require_client_auth=True),
    )
    await server.start()
    async with pki.channel(f"127.0.0.1:{port}", pki.issue(named("edge"))) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await MessagingServiceStub(channel).SendMessage(REQUEST, timeout=10)
    await server.stop(grace=0)

    assert raised.value.code() is grpc.StatusCode.UNAVAILABLE  # UNIMPLEMENTED, had it been let in


async def test_off_loopback_a_server_with_certificates_may_listen(pki: Pki) -> None:
    mesh = Mesh(EmbeddedRegistry(), new_dispatcher(), partitions=PARTITIONS, service_name="p")

    assert RpcServer(mesh, None, "0.0.0.0:0", credentials=pki.credentials())


# --- names and roles ---


@pytest.mark.parametrize("name", [named("kitchen"), named("alice", Role.USER), named("edge", cluster="other")])
async def test_a_certificate_that_names_nobody_here_is_refused(pki: Pki, process: Process, name: PeerName) -> None:
    issued = pki.issue(name)

    assert await refusal(pki, process, issued, claim(Role.USER, user_id="a")) == ("Unauthenticated", "BAD_CERTIFICATE")


async def test_another_cluster_under_the_same_authority_is_refused_on_streams_too(pki: Pki, process: Process) -> None:
    async with pki.channel(process.server.address, pki.of_another_cluster(named("edge"))) as channel:
        stream = RelayServiceStub(channel).Exchange(timeout=10)
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await stream.read()

    assert from_grpc(raised.value).reason == "BAD_CERTIFICATE"


async def test_a_service_calls_what_is_for_services_under_its_own_name(pki: Pki, keys: Keys) -> None:
    credentials = pki.credentials("sessions")
    forged = claim(Role.SERVICE, service="directory", user_id="alice")
    async with (
        running_process(EmbeddedRegistry(), keys, "served", SESSIONS, credentials) as process,
        pki.channel(process.server.address, pki.issue(named("messaging"))) as channel,
    ):
        await SessionsServiceStub(channel).LookupConnections(LOOKUP, timeout=10)
        await SessionsServiceStub(channel).LookupConnections(LOOKUP, timeout=10, metadata=forged)

    assert seen_callers(process) == [
        Caller(Role.SERVICE, service="messaging"),
        Caller(Role.SERVICE, user_id="alice", service="messaging"),
    ]


async def test_a_service_does_not_call_what_is_for_users(pki: Pki, process: Process) -> None:
    assert await refusal(pki, process, pki.issue(named("edge"))) == ("PermissionDenied", "ACCESS_DENIED")


async def test_a_service_does_not_call_what_is_for_operators(pki: Pki, process: Process) -> None:
    async with pki.channel(process.server.address, pki.issue(named("messaging"))) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await StatusServiceStub(channel).GetStatus(status_service_pb2.GetStatusRequest(), timeout=10)

    assert isinstance(from_grpc(raised.value), PermissionDenied)


async def test_an_operator_needs_no_token(pki: Pki, process: Process) -> None:
    async with pki.channel(process.server.address, pki.issue(ADMIN)) as channel:
        answer = await StatusServiceStub(channel).GetStatus(status_service_pb2.GetStatusRequest(), timeout=10)

    assert answer.cluster == CLUSTER


async def test_buf_curl_reads_the_status_with_an_operators_certificate(pki: Pki, process: Process) -> None:
    own = pki.write(pki.issue(ADMIN))
    curl = await asyncio.create_subprocess_exec(
        str(BUF), "curl", "--protocol", "grpc", "--cacert", own.ca, "--cert", own.cert, "--key", own.key,
        "--data", "{}", f"https://{process.server.address}/hither.mesh.v1.StatusService/GetStatus",
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = await asyncio.wait_for(curl.communicate(), 60)

    assert curl.returncode == 0, err.decode()
    assert json.loads(out)["cluster"] == CLUSTER


@pytest.mark.parametrize("name", ["edge", "hither"])
async def test_a_process_with_clients_speaks_for_users(pki: Pki, process: Process, name: str) -> None:
    await send(pki, process, pki.issue(named(name)), claim(Role.USER, user_id="alice", device_id="phone"))

    assert seen_callers(process) == [ALICE]


async def test_another_service_does_not_speak_for_users(pki: Pki, process: Process) -> None:
    issued = pki.issue(named("messaging"))

    assert await refusal(pki, process, issued, claim(Role.USER, user_id="a")) == ("PermissionDenied", "ACCESS_DENIED")


@pytest.mark.parametrize("name", ["edge", "messaging"])
async def test_no_service_speaks_for_an_operator(pki: Pki, process: Process, name: str) -> None:
    issued = pki.issue(named(name))

    assert await refusal(pki, process, issued, claim(Role.ADMIN, service="ops")) == (
        "PermissionDenied",
        "ACCESS_DENIED",
    )


async def test_an_operator_does_not_speak_for_users(pki: Pki, process: Process) -> None:
    issued = pki.issue(ADMIN)

    assert await refusal(pki, process, issued, claim(Role.USER, user_id="a")) == ("Unauthenticated", "BAD_TOKEN")


async def test_a_users_own_token_makes_the_call_the_users(pki: Pki, process: Process, keys: Keys) -> None:
    await send(pki, process, pki.issue(ADMIN), (("authorization", f"Bearer {keys.sign()}"),))

    assert seen_callers(process) == [ALICE]


async def test_an_operators_token_does_not_lift_a_service(pki: Pki, process: Process, keys: Keys) -> None:
    token = keys.sign(sub="ops", rol="admin")

    refused = await refusal(pki, process, pki.issue(named("edge")), (("authorization", f"Bearer {token}"),))

    assert refused == ("PermissionDenied", "ACCESS_DENIED")


# --- between processes ---


def two_processes(keys: Keys, here: Credentials, there: Credentials) -> "_Two":
    return _Two(keys, here, there)


class _Two:
    """Two processes that see each other."""

    def __init__(self, keys: Keys, here: Credentials, there: Credentials) -> None:
        registry = EmbeddedRegistry()
        self._here = running_process(registry, keys, "here", credentials=here)
        self._there = running_process(registry, keys, "there", credentials=there)

    async def __aenter__(self) -> tuple[Process, Process]:
        here, there = await self._here.__aenter__(), await self._there.__aenter__()
        for process in (here, there):
            await process.mesh._refresh()
        return here, there

    async def __aexit__(self, *_: object) -> None:
        await self._there.__aexit__(None, None, None)
        await self._here.__aexit__(None, None, None)


async def test_a_process_calls_another_with_its_certificate_alone(pki: Pki, keys: Keys) -> None:
    async with two_processes(keys, pki.credentials("edge"), pki.credentials("messaging")) as (here, there):
        await here.mesh.call(SEND, owned_by(there), caller=ALICE, timeout_s=10)

    assert seen_callers(there) == [ALICE]
    assert here.mesh._peers._token is None


async def test_a_process_without_certificates_reaches_nobody_who_has_them(pki: Pki, keys: Keys) -> None:
    registry = EmbeddedRegistry()
    async with (
        running_process(registry, keys, "there", credentials=pki.credentials("messaging")) as there,
        Mesh(registry, new_dispatcher(), partitions=PARTITIONS, service_name="p", token=keys.service_token) as here,
    ):
        await here._refresh()
        with pytest.raises(Unavailable):
            await here.call(SEND, REQUEST, caller=ALICE, timeout_s=10)

    assert not there.servicer.seen


def ask(correlation_id: int, caller: caller_pb2.Caller) -> relay_pb2.RelayEnvelope:
    return relay_pb2.RelayEnvelope(
        correlation_id=correlation_id,
        request=relay_pb2.RelayRequest(
            method=SEND, caller=caller, payload=REQUEST.SerializeToString(), timeout_ms=10_000
        ),
    )


USER = caller_pb2.Caller(role=options_pb2.ACCESS_USER, user_id="alice", device_id="phone")
OPERATOR = caller_pb2.Caller(role=options_pb2.ACCESS_ADMIN, service="ops")


async def relay(pki: Pki, process: Process, name: PeerName, *callers: caller_pb2.Caller) -> list[str]:
    """Relays a request for each caller; tells how each was answered: "" or the reason of its error."""
    async with pki.channel(process.server.address, pki.issue(name)) as channel:
        stream = RelayServiceStub(channel).Exchange(timeout=30)
        await stream.read()
        await stream.write(relay_pb2.RelayBatch(seq=1, envelopes=[ask(*one) for one in enumerate(callers)]))
        await stream.done_writing()
        answers: dict[int, str] = {}
        while isinstance(batch := await stream.read(), relay_pb2.RelayBatch):
            answers.update((envelope.correlation_id, reason_of(envelope)) for envelope in batch.envelopes)
    return [answers[number] for number in range(len(callers))]


def reason_of(envelope: relay_pb2.RelayEnvelope) -> str:
    return from_status(envelope.error).reason if envelope.HasField("error") else ""


async def test_an_edge_relays_for_users_and_never_for_an_operator(pki: Pki, process: Process) -> None:
    assert await relay(pki, process, named("edge"), USER, OPERATOR) == ["", "ACCESS_DENIED"]
    assert seen_callers(process) == [ALICE]


async def test_another_service_does_not_relay_for_users(pki: Pki, process: Process) -> None:
    assert await relay(pki, process, named("push"), USER, OPERATOR) == ["ACCESS_DENIED", "ACCESS_DENIED"]


async def test_an_operator_relays_for_nobody(pki: Pki, process: Process) -> None:
    assert await relay(pki, process, ADMIN, USER, OPERATOR) == ["BAD_TOKEN", "BAD_TOKEN"]


async def test_batches_for_an_edge_travel_over_mtls(pki: Pki, keys: Keys) -> None:
    taken: list[int] = []

    def take(batch: DeliverBatch) -> list[int]:
        taken.append(batch.seq)
        return [7]

    async with two_processes(keys, pki.credentials("messaging"), pki.credentials("edge")) as (here, there):
        there.mesh.attach_edge("edge-1", take)
        await there.mesh._put(DELIVER_SERVICE, "edge-1")
        await here.mesh._refresh()

        gone = await here.mesh.deliver("edge-1", DeliverBatch())

    assert (taken, gone) == ([1], (7,))


# --- rotation ---


class Watched(Credentials):
    """Remembers the certificates that clients showed."""

    shown: list[int]

    def caller_of(self, auth_context: Mapping[str, Iterable[bytes]]) -> Caller:
        [pem] = auth_context["x509_pem_cert"]
        self.shown.append(serial_of(pem))
        return super().caller_of(auth_context)


async def server_serial(address: str, client: TlsSettings) -> int:
    """The serial number of the certificate that a server shows to a new connection."""
    context = ssl.create_default_context(cafile=client.ca)
    context.load_cert_chain(client.cert, client.key)
    context.set_alpn_protocols(["h2"])
    host, _, port = address.rpartition(":")
    _, writer = await asyncio.wait_for(asyncio.open_connection(host, int(port), ssl=context), 30)
    der = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.close()
    return x509.load_der_x509_certificate(der).serial_number


async def test_a_server_shows_a_renewed_certificate_to_new_connections(pki: Pki, keys: Keys) -> None:
    first, second = pki.issue(named("messaging")), pki.issue(named("messaging"))
    client = pki.write(pki.issue(named("edge")), folder="client")
    credentials = Credentials(pki.write(first, folder="server"))
    async with running_process(EmbeddedRegistry(), keys, "served", credentials=credentials) as process:
        before = await server_serial(process.server.address, client)
        pki.write(second, folder="server")
        after = await server_serial(process.server.address, client)

    assert before == serial_of(first.certificate_pem)
    assert after == serial_of(second.certificate_pem)


async def test_a_renewed_certificate_cuts_no_call_and_serves_the_next(pki: Pki, keys: Keys) -> None:
    first, second = pki.issue(named("edge")), pki.issue(named("edge"))
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def wait(_request: Message) -> Message:
        begun.set()
        await go_on.wait()
        return pb.SendMessageResponse(seq=7)

    server = Watched(pki.write(pki.issue(named("messaging")), folder="server"))
    server.shown = []
    async with two_processes(keys, Credentials(pki.write(first)), server) as (here, there):
        there.servicer.behaviour = wait
        old = asyncio.create_task(here.mesh.call(SEND, owned_by(there), caller=ALICE, timeout_s=30))
        await begun.wait()
        there.servicer.behaviour = None

        pki.write(second)
        pki.write(pki.issue(named("messaging")), folder="server")
        await here.mesh.call(SEND, owned_by(there), caller=ALICE, timeout_s=10)
        go_on.set()

        assert await old == pb.SendMessageResponse(seq=7)
    assert server.shown == [serial_of(first.certificate_pem), serial_of(second.certificate_pem)]


async def test_a_process_that_ends_does_not_wait_for_calls_on_old_channels(pki: Pki, keys: Keys) -> None:
    begun = asyncio.Event()

    async def hang(_request: Message) -> Message:
        begun.set()
        await asyncio.Event().wait()
        raise AssertionError

    async with two_processes(
        keys, Credentials(pki.write(pki.issue(named("edge")))), pki.credentials("messaging")
    ) as two:
        here, there = two
        there.servicer.behaviour = hang
        old = asyncio.create_task(here.mesh.call(SEND, owned_by(there), caller=ALICE, timeout_s=600))
        await begun.wait()
        there.servicer.behaviour = None
        pki.write(pki.issue(named("edge")))
        await here.mesh.call(SEND, owned_by(there), caller=ALICE, timeout_s=10)

        await asyncio.wait_for(here.mesh._requesters.close(), 30)
        await asyncio.wait_for(here.mesh._peers.close(), 30)

        with pytest.raises((HitherError, asyncio.CancelledError)):
            await old


async def test_the_authority_changes_without_a_restart(pki: Pki, keys: Keys, tmp_path: Path) -> None:
    new = Pki(tmp_path / "new")
    both = pki.ca_pem + new.ca_pem
    edge = pki.write(pki.issue(named("edge")), folder="edge")
    server = pki.write(pki.issue(named("messaging")), folder="server")
    async with two_processes(keys, Credentials(edge), Credentials(server)) as (here, there):

        async def call() -> None:
            await here.mesh.call(SEND, owned_by(there), caller=ALICE, timeout_s=10)

        await call()
        assert await refusal(new, there, new.issue(named("edge"))) == NO_CONNECTION
        pki.write(pki.issue(named("messaging")), both, folder="server")
        pki.write(pki.issue(named("edge")), both, folder="edge")
        await call()
        pki.write(new.issue(named("messaging")), both, folder="server")
        await call()
        pki.write(new.issue(named("edge")), both, folder="edge")
        await call()
        pki.write(new.issue(named("messaging")), new.ca_pem, folder="server")
        pki.write(new.issue(named("edge")), new.ca_pem, folder="edge")
        await call()

        assert await refusal(pki, there, pki.issue(named("edge")), claim(Role.USER, user_id="alice")) == NO_CONNECTION
        await send(new, there, new.issue(named("edge")), claim(Role.USER, user_id="alice"))
    assert len(there.servicer.seen) == 6
