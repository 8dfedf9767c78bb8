"""The contract as a value that tests can look through, and bend to see whether anybody would notice."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from google.protobuf.descriptor import Descriptor, FieldDescriptor, ServiceDescriptor
from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
    MethodDescriptorProto,
    ServiceDescriptorProto,
)
from google.protobuf.descriptor_pool import DescriptorPool

from discovery import contract
from discovery.contract import MethodSpec
from edge.comments import Comments

OURS = "hither/"


@dataclass(frozen=True)
class Contract:
    """All files with their source info, and the methods that they define."""

    files: FileDescriptorSet
    specs: Sequence[MethodSpec]

    @property
    def comments(self) -> Comments:
        """What the files say in words."""
        return Comments(self.files)

    @property
    def own_files(self) -> list[FileDescriptorProto]:
        """The files that this project wrote."""
        return [file for file in self.files.file if file.name.startswith(OURS)]


def the_contract() -> Contract:
    """The one that is served."""
    return Contract(contract.contract_files(), list(contract.methods().values()))


def a_contract_where(change: Callable[[FileDescriptorSet], None]) -> Contract:
    """A copy with a change, in a descriptor pool of its own."""
    files = FileDescriptorSet()
    files.CopyFrom(contract.contract_files())
    change(files)
    pool = DescriptorPool()
    for file in files.file:
        pool.Add(file)
    services: list[ServiceDescriptor] = [
        pool.FindServiceByName(f"{file.package}.{service.name}")
        for file in files.file
        if file.name.startswith(OURS)
        for service in file.service
    ]
    return Contract(files, [contract._spec(method) for service in services for method in service.methods])


def message_in(files: FileDescriptorSet, full_name: str) -> DescriptorProto:
    """The message of that name."""
    package, _, name = full_name.rpartition(".")
    return next(
        message
        for file in files.file
        if file.package == package
        for message in file.message_type
        if message.name == name
    )


def field_in(files: FileDescriptorSet, full_name: str) -> FieldDescriptorProto:
    """The field of that name: "package.Message.field"."""
    message, _, name = full_name.rpartition(".")
    return next(field for field in message_in(files, message).field if field.name == name)


def service_in(files: FileDescriptorSet, full_name: str) -> ServiceDescriptorProto:
    """The service of that name."""
    package, _, name = full_name.rpartition(".")
    return next(
        service for file in files.file if file.package == package for service in file.service if service.name == name
    )


def method_in(files: FileDescriptorSet, full_name: str) -> MethodDescriptorProto:
    """The method of that name: "package.Service.Method"."""
    service, _, name = full_name.rpartition(".")
    return next(method for method in service_in(files, service).method if method.name == name)


def fields_below(message: Descriptor, seen: frozenset[str] = frozenset()) -> Sequence[FieldDescriptor]:
    """The fields of a message and of our own messages inside it, each once."""
    found: list[FieldDescriptor] = []
    for field in message.fields:
        found.append(field)
        inner = field.message_type
        if inner is not None and inner.file.name.startswith(OURS) and inner.full_name not in seen:
            found += fields_below(inner, seen | {message.full_name, inner.full_name})
    return found
