"""The contract as a table: one MethodSpec for each RPC of a hither service, read from the descriptors.

Whoever needs to know which operations there are asks here; nothing lists them a second time. This room reads
the generated code only and calls nobody.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module, resources
from types import MappingProxyType
from typing import Final

from buf.validate import validate_pb2
from google.api import annotations_pb2
from google.protobuf.descriptor import FileDescriptor, MethodDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorSet, MethodOptions
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from hither.mesh.v1 import options_pb2

OPTIONS: Final = (annotations_pb2, options_pb2, validate_pb2)
"""Must be loaded before descriptors are parsed: an option that is not known by then stays unknown in them."""

_PACKAGE: Final = "hither/"
_RETRIED: Final = (MethodOptions.NO_SIDE_EFFECTS, MethodOptions.IDEMPOTENT)


@dataclass(frozen=True, slots=True, eq=False)
class MethodSpec:
    """One RPC and what its options say about it."""

    path: str
    """"/package.Service/Method", as gRPC names it."""
    service: str
    """Full name of the service, such as "hither.messaging.v1.MessagingService"."""
    name: str
    """Name of the method within its service."""
    request_type: type[Message]
    response_type: type[Message]
    access: int
    """A value of hither.mesh.v1.Access: who may call."""
    routing_key: str
    """Path of the request field whose hash finds the owner; empty: any instance answers."""
    frame: str
    """The `type` of the WebSocket frame that calls it; empty: not open to WebSocket clients."""
    reply: str
    """The `type` of the answering frame, "ok" by default."""
    one_way: bool
    """The frame is answered only when it fails."""
    idempotent: bool
    """Calling it twice does what calling it once does, so that the mesh may retry it."""
    streaming: bool
    """The request or the response is a stream."""
    descriptor: MethodDescriptor


@cache
def methods() -> Mapping[str, MethodSpec]:
    """Every RPC of every hither service, by path."""
    specs = {
        spec.path: spec
        for file in _files()
        for service in file.services_by_name.values()
        for spec in map(_spec, service.methods)
    }
    return MappingProxyType(specs)


@cache
def frames() -> Mapping[str, MethodSpec]:
    """The RPCs that a WebSocket client may call, by frame type."""
    return MappingProxyType({spec.frame: spec for spec in methods().values() if spec.frame})


@cache
def service_methods(service: str) -> tuple[MethodSpec, ...]:
    """The RPCs of the service of that full name, in the order of the contract; empty if there is no such service."""
    return tuple(spec for spec in methods().values() if spec.service == service)


@cache
def contract_files() -> FileDescriptorSet:
    """The descriptors of the whole contract and of what it imports, with comments. Not to be changed by the caller."""
    files = FileDescriptorSet()
    files.ParseFromString((resources.files("hither") / "contract.binpb").read_bytes())
    return files


def _files() -> tuple[FileDescriptor, ...]:
    names = sorted(file.name for file in contract_files().file if file.name.startswith(_PACKAGE))
    return tuple(import_module(name.removesuffix(".proto").replace("/", ".") + "_pb2").DESCRIPTOR for name in names)


def _spec(method: MethodDescriptor) -> MethodSpec:
    options = method.GetOptions()
    service = method.containing_service.full_name
    return MethodSpec(
        path=f"/{service}/{method.name}",
        service=service,
        name=method.name,
        request_type=GetMessageClass(method.input_type),
        response_type=GetMessageClass(method.output_type),
        access=options.Extensions[options_pb2.access],
        routing_key=options.Extensions[options_pb2.routing_key],
        frame=options.Extensions[options_pb2.frame],
        reply=options.Extensions[options_pb2.reply] or "ok",
        one_way=options.Extensions[options_pb2.one_way],
        idempotent=options.idempotency_level in _RETRIED,
        streaming=bool(method.client_streaming or method.server_streaming),
        descriptor=method,
    )
