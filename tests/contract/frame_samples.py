"""One sample of every frame that crosses the WebSocket, from which the golden files are made."""

from collections.abc import Iterator
from dataclasses import dataclass

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.struct_pb2 import Value
from google.protobuf.timestamp_pb2 import Timestamp

from discovery.contract import frames
from edge.codec.frames import event_types
from hither.edge.v1 import frames_pb2

_SECONDS = 1_790_000_000
_MAX_DEPTH = 4


@dataclass(frozen=True, slots=True)
class Sample:
    """A frame: its type, its `id` and its place if it has them, and its payload."""

    name: str
    type: str
    payload: Message
    id: str = ""
    pos: int = 0


def requests() -> Iterator[Sample]:
    """What a client may say."""
    for type_, spec in sorted(frames().items()):
        yield Sample(f"client_{type_}", type_, filled(spec.request_type), id="7")
    yield Sample("client_hello", "hello", frames_pb2.Hello(token="t", cursor=41), id="7")
    yield Sample("client_ping", "ping", frames_pb2.Ping(timestamp=Value(number_value=_SECONDS)), id="7")


def answers() -> Iterator[Sample]:
    """What a client is answered, and what the connection itself says."""
    for type_, spec in sorted(frames().items()):
        if not spec.one_way:
            yield Sample(f"server_{spec.reply}_to_{type_}", spec.reply, filled(spec.response_type), id="7")
    for type_, message_type in (
        ("connected", frames_pb2.Connected),
        ("synced", frames_pb2.Synced),
        ("reconnect", frames_pb2.Reconnect),
    ):
        yield Sample(f"server_{type_}", type_, filled(message_type))


def events() -> Iterator[Sample]:
    """What a client is told unasked: with a place in the inbox and, where that may be, without."""
    for type_, message_type in sorted(event_types().items()):
        yield Sample(f"event_{type_}", type_, filled(message_type), pos=300 if type_ == "message" else 0)


def filled(message_type: type[Message], depth: int = 0) -> Message:
    """A message with every field set: of a oneof the first, of a list one."""
    message = message_type()
    for field in message.DESCRIPTOR.fields:
        if field.containing_oneof is not None and field.containing_oneof.fields[0].name != field.name:
            continue
        if field.message_type is not None:
            part = getattr(message, field.name)
            inner = part.add() if field.is_repeated else part
            if isinstance(inner, Timestamp):
                inner.FromJsonString("2026-09-21T14:13:20.125Z")
            elif depth < _MAX_DEPTH:
                inner.CopyFrom(filled(type(inner), depth + 1))
            continue
        value = _scalar(field.name, field.cpp_type, field.number, is_bytes=field.type == field.TYPE_BYTES)
        if field.is_repeated:
            getattr(message, field.name).append(value)
        else:
            setattr(message, field.name, value)
    return message


def _scalar(name: str, cpp_type: int, number: int, *, is_bytes: bool) -> object:

    if is_bytes:
        return b"\x00\xff" + name.encode()
    return {
        FieldDescriptor.CPPTYPE_STRING: f"{name}-ü",
        FieldDescriptor.CPPTYPE_BOOL: True,
        FieldDescriptor.CPPTYPE_ENUM: 1,
        FieldDescriptor.CPPTYPE_INT32: -number,
        FieldDescriptor.CPPTYPE_UINT32: number,
        FieldDescriptor.CPPTYPE_INT64: -number - (1 << 60),
        FieldDescriptor.CPPTYPE_UINT64: number + (1 << 60),
        FieldDescriptor.CPPTYPE_DOUBLE: number + 0.25,
        FieldDescriptor.CPPTYPE_FLOAT: number + 0.1,
    }[cpp_type]
