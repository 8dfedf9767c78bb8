"""The subprotocol hither.v1.proto: one ClientFrame or ServerFrame in each binary message."""

from functools import cache
from typing import Final, cast

from google.protobuf.descriptor import Descriptor
from google.protobuf.message import DecodeError, Message
from google.protobuf.unknown_fields import UnknownFieldSet

from discovery.contract import frames
from discovery.errors import HitherError, InvalidArgument, Unimplemented, Violation
from discovery.rpc.status import code_name
from edge.codec.frames import HELLO, MAX_ID_BYTES, PING, BadFrame, Incoming, Ping, Request, hello_of
from hither.edge.v1 import frames_pb2

_POS_TAG: Final = bytes([frames_pb2.ServerFrame.POS_FIELD_NUMBER << 3])
_PING_KINDS: Final = ("number_value", "string_value", None)


class BinaryEvent:
    """See SharedEvent."""

    __slots__ = ("_frame", "type")

    def __init__(self, type_: str, payload: bytes) -> None:
        self.type = type_
        self._frame = frames_pb2.ServerFrame(type=type_, payload=payload).SerializeToString()

    def at(self, pos: int) -> bytes:
        """See SharedEvent. Fields of a serialised message may stand in any order, so the place goes to the end."""
        return self._frame + _POS_TAG + _varint(pos) if pos else self._frame


class BinaryCodec:
    """See Codec."""

    subprotocol: str = "hither.v1.proto"
    text: bool = False

    def decode(self, data: bytes) -> Incoming:
        """See Codec."""
        id_ = ""
        try:
            frame = _parse(frames_pb2.ClientFrame, data)
            assert isinstance(frame, frames_pb2.ClientFrame)  # _parse makes what it is told to
            if len(frame.id.encode()) > MAX_ID_BYTES:
                raise _wrong("id", f"must be at most {MAX_ID_BYTES} bytes")
            id_ = frame.id
            spec = frames().get(frame.type)
            if spec is not None:
                return Request(id_, spec, _parse(spec.request_type, frame.payload))
            if frame.type == PING:
                return Ping(_pong(id_, frame.payload))
            if frame.type == HELLO:
                return hello_of(id_, _parse(frames_pb2.Hello, frame.payload))
            raise Unimplemented("no such type", reason="UNKNOWN_TYPE")
        except HitherError as error:
            raise BadFrame(error, id_) from None

    def id_of(self, data: bytes) -> str:
        """See Codec."""
        try:
            id_ = frames_pb2.ClientFrame.FromString(data).id
        except DecodeError:
            return ""
        return id_ if len(id_.encode()) <= MAX_ID_BYTES else ""

    def frame(self, type_: str, id_: str, message: Message) -> bytes:
        """See Codec."""
        return frames_pb2.ServerFrame(type=type_, id=id_, payload=message.SerializeToString()).SerializeToString()

    def error(self, error: HitherError, id_: str) -> bytes:
        """See Codec."""
        message = frames_pb2.Error(
            code=code_name(error),
            reason=error.reason,
            message=error.message,
            violations=[
                frames_pb2.FieldViolation(field=one.field, description=one.description) for one in error.violations
            ],
        )
        if error.retry_after_s is not None:
            message.retry_after_ms = max(0, round(error.retry_after_s * 1000))
        return self.frame("error", id_, message)

    def event(self, type_: str, message: Message) -> BinaryEvent:
        """See Codec."""
        return BinaryEvent(type_, message.SerializeToString())


BINARY: Final = BinaryCodec()


def _pong(id_: str, payload: bytes) -> bytes:
    ping = _parse(frames_pb2.Ping, payload)
    assert isinstance(ping, frames_pb2.Ping)  # _parse makes what it is told to
    if ping.timestamp.WhichOneof("kind") not in _PING_KINDS:
        raise _wrong("timestamp", "must be a number or a string")
    pong = frames_pb2.Pong(timestamp=ping.timestamp) if ping.HasField("timestamp") else frames_pb2.Pong()
    return BINARY.frame("pong", id_, pong)


def _parse(message_type: type[Message], data: bytes) -> Message:
    message = message_type()
    try:
        message.ParseFromString(data)
    except DecodeError:
        raise InvalidArgument(f"not a {message_type.DESCRIPTOR.name}", reason="MALFORMED_FRAME") from None
    _refuse_unknown(message)
    return message


def _refuse_unknown(message: Message) -> None:
    unknown = UnknownFieldSet(message)
    if len(unknown):
        raise _wrong(f"{message.DESCRIPTOR.name}[{unknown[0].field_number}]", "no such field", "UNKNOWN_FIELD")
    for name in _message_fields(cast(Descriptor, message.DESCRIPTOR)):
        value = getattr(message, name)
        if isinstance(value, Message):
            if message.HasField(name):
                _refuse_unknown(value)
        else:
            for item in value:
                _refuse_unknown(item)


@cache
def _message_fields(descriptor: Descriptor) -> tuple[str, ...]:
    """The fields that hold messages of the contract; maps hold none in any request."""
    return tuple(
        field.name
        for field in descriptor.fields
        if field.message_type is not None and not field.message_type.GetOptions().map_entry
    )


def _varint(number: int) -> bytes:
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


def _wrong(field: str, description: str, reason: str = "MALFORMED_FRAME") -> InvalidArgument:
    return InvalidArgument(f"{field}: {description}", reason=reason, violations=[Violation(field, description)])
