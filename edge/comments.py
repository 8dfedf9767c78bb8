"""What the contract says in words: the comment of every element, by its full name."""

from collections.abc import Iterator, Sequence

from google.protobuf.descriptor_pb2 import DescriptorProto, EnumDescriptorProto, FileDescriptorProto, FileDescriptorSet

_FILE_MESSAGE, _FILE_ENUM, _FILE_SERVICE, _FILE_EXTENSION = 4, 5, 6, 7
_MESSAGE_FIELD, _MESSAGE_NESTED, _MESSAGE_ENUM, _MESSAGE_ONEOF = 2, 3, 4, 8
_ENUM_VALUE, _SERVICE_METHOD = 2, 2


class Comments:
    """The leading comments of a set of files that were compiled with their source info.

    An enum value goes by "package.Enum.VALUE", a oneof by "package.Message.oneof".
    """

    def __init__(self, files: FileDescriptorSet) -> None:
        self._by_name: dict[str, str] = {}
        for file in files.file:
            texts = {tuple(at.path): _tidy(at.leading_comments) for at in file.source_code_info.location}
            for name, path in elements_of(file):
                self._by_name[name] = texts.get(tuple(path), "")

    def of(self, full_name: str) -> str:
        """The comment on one line, or "" where there is none or the element is not known."""
        return self._by_name.get(full_name, "")


def elements_of(file: FileDescriptorProto) -> Iterator[tuple[str, Sequence[int]]]:
    """Everything in a file that can carry a comment: full name, and path as in its source info."""
    for index, service in enumerate(file.service):
        name = f"{file.package}.{service.name}"
        yield name, (_FILE_SERVICE, index)
        for place, method in enumerate(service.method):
            yield f"{name}.{method.name}", (_FILE_SERVICE, index, _SERVICE_METHOD, place)
    for index, message in enumerate(file.message_type):
        yield from _message_elements(message, file.package, (_FILE_MESSAGE, index))
    for index, enum in enumerate(file.enum_type):
        yield from _enum_elements(enum, file.package, (_FILE_ENUM, index))
    for index, extension in enumerate(file.extension):
        yield f"{file.package}.{extension.name}", (_FILE_EXTENSION, index)


def _message_elements(
    message: DescriptorProto, scope: str, path: tuple[int, ...]
) -> Iterator[tuple[str, Sequence[int]]]:
    if message.options.map_entry:  # made by the compiler: nobody could comment it
        return
    name = f"{scope}.{message.name}"
    yield name, path
    for index, found in enumerate(message.field):
        yield f"{name}.{found.name}", (*path, _MESSAGE_FIELD, index)
    optional = {found.oneof_index for found in message.field if found.proto3_optional}
    for index, oneof in enumerate(message.oneof_decl):
        if index not in optional:
            yield f"{name}.{oneof.name}", (*path, _MESSAGE_ONEOF, index)
    for index, nested in enumerate(message.nested_type):
        yield from _message_elements(nested, name, (*path, _MESSAGE_NESTED, index))
    for index, enum in enumerate(message.enum_type):
        yield from _enum_elements(enum, name, (*path, _MESSAGE_ENUM, index))


def _enum_elements(enum: EnumDescriptorProto, scope: str, path: tuple[int, ...]) -> Iterator[tuple[str, Sequence[int]]]:
    name = f"{scope}.{enum.name}"
    yield name, path
    for index, value in enumerate(enum.value):
        yield f"{name}.{value.name}", (*path, _ENUM_VALUE, index)


def _tidy(comment: str) -> str:
    return " ".join(comment.split())
