"""Processes of a cluster, scripted servicers and signed tokens, for tests of the mesh itself."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from google.protobuf.message import Message
from prometheus_client import CollectorRegistry

from discovery.clock import Clock, SystemClock
from discovery.contract import service_methods
from discovery.mesh import Mesh
from discovery.registry.port import Registry
from discovery.rpc.call import Call, Caller, Role, current_call
from discovery.rpc.dispatcher import Dispatcher
from discovery.rpc.link import Pace
from discovery.rpc.server import RpcServer
from discovery.rpc.telemetry import CallMetrics
from discovery.rpc.tls import Credentials
from discovery.rpc.tokens import TokenVerifier

MESSAGING = "hither.messaging.v1.MessagingService"
SEND = f"/{MESSAGING}/SendMessage"
CLUSTER = "test-cluster"
ALICE = Caller(Role.USER, user_id="alice", device_id="phone")
PARTITIONS = 16

Behaviour = Callable[[Message], Awaitable[Message]]


class Scripted:
    """A servicer of any service: records every call and does what the test says."""

    def __init__(self, service: str = MESSAGING) -> None:
        self.service = service
        self.seen: list[tuple[Message, Call]] = []
        self.behaviour: Behaviour | None = None
        for spec in service_methods(service):
            setattr(self, spec.name, self._method(spec.response_type))

    def _method(self, response_type: type[Message]) -> Callable[[Message, object], Awaitable[Message]]:
        async def serve(request: Message, _context: object) -> Message:
            self.seen.append((request, current_call()))
            return response_type() if self.behaviour is None else await self.behaviour(request)

        return serve


def new_dispatcher(*servicers: Scripted, max_calls: int = 10_000) -> Dispatcher:
    """A dispatcher that serves these, with metrics of its own."""
    dispatcher = Dispatcher(max_calls=max_calls, metrics=CallMetrics(CollectorRegistry()))
    for servicer in servicers:
        dispatcher.add(servicer, servicer.service)
    return dispatcher


@dataclass
class Keys:
    """The keys of a cluster, and who signs with them."""

    cluster: str = CLUSTER
    clock: Clock = field(default_factory=SystemClock)
    private: Ed25519PrivateKey = field(default_factory=Ed25519PrivateKey.generate)

    def verifier(self) -> TokenVerifier:
        """Verifies what `sign` signs."""
        pem = self.private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        return TokenVerifier(pem, self.cluster, self.clock)

    def sign(self, **claims: object) -> str:
        """A token with these claims beside (or instead of) the usual ones of alice's phone."""
        now_s = self.clock.now_ms() // 1000
        usual = {
            "iss": "hither",
            "aud": self.cluster,
            "sub": "alice",
            "dev": "phone",
            "rol": "user",
            "iat": now_s,
            "exp": now_s + 60,
        }
        return jwt.encode({**usual, **claims}, self.private, algorithm="EdDSA")

    def service_token(self) -> str:
        """A token of a process of the cluster."""
        return self.sign(sub="tester", rol="service", dev="")


@dataclass(frozen=True)
class Process:
    """One process of a cluster under test."""

    mesh: Mesh
    server: RpcServer
    servicer: Scripted


@asynccontextmanager
async def running_process(
    registry: Registry,
    keys: Keys,
    name: str,
    service: str = MESSAGING,
    credentials: Credentials | None = None,
    *,
    zone: str = "",
    pace: Pace | None = None,
) -> AsyncIterator[Process]:
    """A process that serves the service over loopback gRPC, joined and SERVING; with mTLS if it has credentials."""
    servicer = Scripted(service)
    mesh = Mesh(
        registry,
        new_dispatcher(servicer),
        partitions=PARTITIONS,
        service_name=name,
        token=keys.service_token,
        credentials=credentials,
        zone=zone,
        pace=pace,
    )
    async with mesh, RpcServer(mesh, keys.verifier(), credentials=credentials, registry=registry) as server:
        await mesh.serve(server.address)
        yield Process(mesh, server, servicer)


def key_in(partitions: frozenset[int], mesh: Mesh) -> str:
    """A conversation id whose partition is one of these."""
    return next(key for number in range(100_000) if mesh.partition_of(key := f"g.{number}") in partitions)
