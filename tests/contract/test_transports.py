"""Every operation appears on every transport that its options name, and only there; and somebody serves it."""

import importlib
import inspect
from pathlib import Path

import grpc
import pytest
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from discovery.contract import MethodSpec, contract_files, methods, service_methods
from discovery.mesh import Mesh
from discovery.registry.embedded import EmbeddedRegistry
from discovery.rpc.server import RpcServer
from edge.asyncapi import asyncapi_document
from edge.comments import Comments
from edge.openapi import Errors, openapi_document
from edge.transcoding import RouteTable, routes_of
from hither.mesh.v1 import errors_pb2
from tests.support.clock import ManualClock
from tests.support.dispatching import Served

ROOT = Path(__file__).parents[2]
SERVICERS = ("services/*/servicer.py", "discovery/rpc/*servicer.py")
"""Where a service's servicer stands; streams are served by the mesh itself."""


def each(spec: MethodSpec) -> str:
    return spec.name


def routes_in_openapi() -> set[tuple[str, str, str]]:
    document = openapi_document(RouteTable(methods().values()), Comments(contract_files()))
    paths = document["paths"]
    assert isinstance(paths, dict)
    return {
        (operation["x-hither-method"], verb.upper(), path)
        for path, operations in paths.items()
        for verb, operation in operations.items()
    }


def types_in_asyncapi() -> set[str]:
    document = asyncapi_document(methods().values(), Comments(contract_files()))
    components = document["components"]
    assert isinstance(components, dict)
    return set(components["messages"])


@pytest.mark.parametrize("spec", methods().values(), ids=each)
def test_an_operation_has_the_routes_of_its_rule(spec: MethodSpec) -> None:
    documented = {(verb, path) for method, verb, path in routes_in_openapi() if method == spec.path}
    assert documented == {(route.http_method, route.template) for route in routes_of(spec)}


@pytest.mark.parametrize("spec", [spec for spec in methods().values() if spec.frame], ids=each)
def test_an_operation_has_the_frame_of_its_option(spec: MethodSpec) -> None:
    expected = {f"client.{spec.frame}"} | (set() if spec.one_way else {f"server.{spec.reply}"})
    assert expected <= types_in_asyncapi()


def test_no_frame_is_documented_that_nobody_serves() -> None:
    frames = {f"client.{spec.frame}" for spec in methods().values() if spec.frame}
    documented = {name for name in types_in_asyncapi() if name.startswith("client.")}
    assert documented == frames | {"client.hello", "client.ping"}


def test_every_unary_operation_can_be_dispatched() -> None:
    served = {spec.path for spec in Served().dispatcher.specs()}
    assert served == {spec.path for spec in methods().values() if not spec.streaming}


async def test_every_operation_answers_over_grpc_and_shows_by_reflection() -> None:
    mesh = Mesh(EmbeddedRegistry(ManualClock()), Served().dispatcher, partitions=1, service_name="test")
    async with mesh, RpcServer(mesh, None) as server, grpc.aio.insecure_channel(server.address) as channel:
        asked = reflection_pb2.ServerReflectionRequest(list_services="")
        answers = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(iter([asked]))
        shown = {service.name async for answer in answers for service in answer.list_services_response.service}
        assert {spec.service for spec in methods().values()} <= shown
        codes = {spec.path: await code_of(channel, spec) for spec in methods().values() if not spec.streaming}
    refused = {grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.INVALID_ARGUMENT}
    assert {path: code for path, code in codes.items() if code not in refused} == {}


async def code_of(channel: grpc.aio.Channel, spec: MethodSpec) -> grpc.StatusCode:
    """How an empty request without credentials ends."""
    try:
        call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(spec.path)
        await call(b"", timeout=5)
    except grpc.aio.AioRpcError as error:
        return error.code()
    return grpc.StatusCode.OK


def test_every_reason_comes_with_a_code() -> None:
    reasons = {name.removeprefix("REASON_") for name in errors_pb2.Reason.keys()} - {"UNSPECIFIED"}  # noqa: SIM118 - an enum, no dict
    assert set(Errors(Comments(contract_files())).reasons) == reasons


def servicers() -> dict[str, type]:
    """The classes in the servicer modules that are built on generated bases, by the full name of their service."""
    found: dict[str, type] = {}
    for file in sorted(file for pattern in SERVICERS for file in ROOT.glob(pattern)):
        module = importlib.import_module(".".join(file.relative_to(ROOT).with_suffix("").parts))
        for kind in vars(module).values():
            if inspect.isclass(kind) and kind.__module__ == module.__name__:
                found |= {service: kind for base in kind.__mro__ if (service := service_of(base))}
    return found


def service_of(base: type) -> str:
    """The full name of the service whose generated base this is, or an empty string."""
    package = base.__module__.rpartition(".")[0]
    generated = base.__module__.startswith("hither.") and base.__module__.endswith("_pb2_grpc")
    return f"{package}.{base.__name__.removesuffix('Servicer')}" if generated else ""


SERVED = sorted({spec.service for spec in methods().values() if not spec.streaming})


@pytest.mark.parametrize("service", SERVED)
def test_every_rpc_has_a_method_of_its_servicer(service: str) -> None:
    servicer = servicers().get(service)
    assert servicer is not None, f"none of {SERVICERS} has a class built on {service}Servicer"
    assert missing_methods(servicer, service) == []


def missing_methods(servicer: type, service: str) -> list[str]:
    """The RPCs that no class but the generated base answers, or that are not async."""
    ours = [base for base in servicer.__mro__ if not service_of(base)]
    return [
        spec.name
        for spec in service_methods(service)
        if not any(inspect.iscoroutinefunction(vars(base).get(spec.name)) for base in ours)
    ]


def test_a_servicer_that_forgets_an_rpc_is_caught() -> None:
    from hither.push.v1.push_service_pb2_grpc import PushServiceServicer

    class Forgetful(PushServiceServicer):
        async def RegisterPushToken(self, request: object, context: object) -> None:  # type: ignore[override] # as a mistake would
            pass

        def ListPushTokens(self, request: object, context: object) -> None:  # type: ignore[override] # as a mistake would
            pass

    everything = [spec.name for spec in service_methods("hither.push.v1.PushService")]
    assert missing_methods(Forgetful, "hither.push.v1.PushService") == everything[1:]
