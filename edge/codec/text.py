"""The subprotocol hither.v1.json: flat JSON objects in text messages."""

from typing import Final

from google.protobuf.message import Message

from discovery.contract import frames
from discovery.errors import HitherError, InvalidArgument, Unimplemented, Violation
from discovery.rpc.status import code_name
from edge.codec.frames import HELLO, MAX_ID_BYTES, PING, BadFrame, Incoming, Ping, Request, hello_of
from edge.codec.json import decode_message, encode_message, parse_json, to_json
from hither.edge.v1 import frames_pb2


class TextEvent:
    """See SharedEvent."""

    __slots__ = ("_head", "_rest", "_whole", "type")

    def __init__(self, type_: str, fields: bytes) -> None:
        self.type = type_
        self._head = b'{"type":"%b"' % type_.encode()
        self._rest = fields[1:] if fields == b"{}" else b"," + fields[1:]
        self._whole = self._head + self._rest

    def at(self, pos: int) -> bytes:
        """See SharedEvent."""
        return b'%b,"pos":"%d"%b' % (self._head, pos, self._rest) if pos else self._whole


class TextCodec:
    """See Codec."""

    subprotocol: str = "hither.v1.json"
    text: bool = True

    def decode(self, data: bytes) -> Incoming:
        """See Codec."""
        id_ = ""
        try:
            fields = _object(data)
            id_ = _id(fields)
            type_ = fields.pop("type", None)
            if not isinstance(type_, str):
                raise _wrong("type", "must be a string")
            spec = frames().get(type_)
            if spec is not None:
                return Request(id_, spec, decode_message(spec.request_type, fields))
            if type_ == PING:
                return Ping(_pong(id_, fields))
            if type_ == HELLO:
                return hello_of(id_, decode_message(frames_pb2.Hello, fields))
            raise Unimplemented("no such type", reason="UNKNOWN_TYPE")
        except HitherError as error:
            raise BadFrame(error, id_) from None

    def id_of(self, data: bytes) -> str:
        """See Codec."""
        try:
            return _id(_object(data))
        except HitherError:
            return ""

    def frame(self, type_: str, id_: str, message: Message) -> bytes:
        """See Codec."""
        fields: dict[str, object] = {"type": type_}
        if id_:
            fields["id"] = id_
        fields |= encode_message(message)
        return to_json(fields)

    def error(self, error: HitherError, id_: str) -> bytes:
        """See Codec."""
        fields: dict[str, object] = {"type": "error"}
        if id_:
            fields["id"] = id_
        fields |= {"code": code_name(error), "reason": error.reason, "message": error.message}
        if error.retry_after_s is not None:
            fields["retry_after_ms"] = str(max(0, round(error.retry_after_s * 1000)))
        if error.violations:
            fields["violations"] = [{"field": one.field, "description": one.description} for one in error.violations]
        return to_json(fields)

    def event(self, type_: str, message: Message) -> TextEvent:
        """See Codec."""
        return TextEvent(type_, to_json(encode_message(message)))


TEXT: Final = TextCodec()


def _object(data: bytes) -> dict[str, object]:
    value = parse_json(data)
    if type(value) is not dict:
        raise InvalidArgument("a frame must be a JSON object", reason="MALFORMED_FRAME")
    return value


def _id(fields: dict[str, object]) -> str:
    id_ = fields.pop("id", None)
    if id_ is None:
        return ""
    if not isinstance(id_, str) or len(id_.encode(errors="replace")) > MAX_ID_BYTES:
        raise _wrong("id", f"must be a string of at most {MAX_ID_BYTES} bytes")
    return id_


def _pong(id_: str, fields: dict[str, object]) -> bytes:
    answer: dict[str, object] = {"type": "pong"}
    if id_:
        answer["id"] = id_
    for name, value in fields.items():
        if name != "timestamp":
            raise _wrong(name, "no such field", "UNKNOWN_FIELD")
        if value is not None:
            if type(value) not in (int, float, str):
                raise _wrong(name, "must be a number or a string")
            answer[name] = value
    try:
        return to_json(answer)
    except (ValueError, OverflowError):
        raise _wrong("timestamp", "is too large") from None


def _wrong(field: str, description: str, reason: str = "MALFORMED_FRAME") -> InvalidArgument:
    return InvalidArgument(f"{field}: {description}", reason=reason, violations=[Violation(field, description)])
