"""The AsyncAPI 3.0 document of the WebSocket, made from the same descriptors as the gRPC methods.

Seen from the server, as AsyncAPI does: it receives what clients send, answers each request frame, and sends events.
The schemas are those of the JSON subprotocol; under hither.v1.proto the same types cross as binary messages.
"""

from collections.abc import Iterable
from importlib.metadata import version
from typing import Final

from google.protobuf.descriptor import Descriptor, FieldDescriptor

from discovery.contract import MethodSpec
from edge.comments import Comments
from edge.schema import Schema, Schemas, message_of
from edge.transcoding import descriptor_of
from hither.edge.v1 import event_pb2, frames_pb2

OPENING: Final = {"hello": "Hello", "ping": "Ping"}
"""Frames that clients send beside those of the contract's methods, and their messages."""

FIXED: Final = {
    "connected": "Connected",
    "synced": "Synced",
    "pong": "Pong",
    "reconnect": "Reconnect",
    "error": "Error",
}
"""Frames that the server sends beside replies and events, and their messages."""

_ANSWERS: Final = {"hello": "connected", "ping": "pong"}
_CHANNEL = "#/channels/ws"
_ID: Schema = {"type": "string", "maxLength": 64, "description": "Chosen by the client; the answer repeats it."}
_POS: Schema = {
    "type": "string",
    "format": "uint64",
    "pattern": "^[1-9][0-9]{0,19}$",
    "description": "The place in the user's inbox, from 1, contiguous. Absent where the event has none.",
}


def asyncapi_document(specs: Iterable[MethodSpec], comments: Comments) -> Schema:
    """The document for every method with a frame, every event, and the frames that are always there."""
    document = _Frames(comments)
    for name, message in OPENING.items():
        document.receive(name, _fixed(message), comments.of(f"hither.edge.v1.{message}"), _ANSWERS[name])
    for spec in specs:
        if spec.frame:
            _method(document, spec, comments)
    for kind in event_kinds():
        document.event(kind, comments.of(kind.full_name))
    for name, message in FIXED.items():
        document.send(name, _fixed(message), comments.of(f"hither.edge.v1.{message}"))
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Hither over WebSocket",
            "version": version("hither"),
            "description": (
                "Subprotocol hither.v1.json: each text message is one flat JSON object with a `type`. Subprotocol "
                "hither.v1.proto: each binary message is a hither.edge.v1.ClientFrame or ServerFrame. 64-bit integers are "
                "strings, timestamps RFC 3339. Close codes 4000 to 4099 ask for a reconnection with backoff (4001 draining, "
                "4002 slow consumer, 4003 idle), 4100 to 4199 ask for none (4100 bad token, 4101 replaced, 4102 protocol "
                "error, 4103 too large)."
            ),
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": "application/json",
        "channels": {"ws": {"address": "/ws", "messages": document.channel, "bindings": {"ws": _opening_request()}}},
        "operations": document.operations,
        "components": {"messages": document.messages, "schemas": dict(sorted(document.schemas.components.items()))},
    }


def event_kinds() -> Iterable[FieldDescriptor]:
    """The events that the server sends unasked: the fields of hither.edge.v1.Event."""
    found: Iterable[FieldDescriptor] = event_pb2.Event.DESCRIPTOR.oneofs_by_name["kind"].fields
    return found


class _Frames:
    """Gathers messages and operations; a frame type is one message in each direction."""

    def __init__(self, comments: Comments) -> None:
        self.schemas = Schemas(comments)
        self.messages: dict[str, Schema] = {}
        self.channel: dict[str, Schema] = {}
        self.operations: dict[str, Schema] = {}

    def receive(self, name: str, payload: Descriptor, words: str, reply: str) -> None:
        """A frame that clients send. `reply` is the type of its answer, or empty if only a failure is answered."""
        message = self._add(f"client.{name}", name, self._payload(name, payload, id=_ID), words)
        answers = [f"server.{answer}" for answer in (reply, "error") if answer]
        self.operations[f"receive.{name}"] = {
            "action": "receive",
            "channel": {"$ref": _CHANNEL},
            "title": name,
            "summary": words,
            "messages": [{"$ref": message}],
            "reply": {
                "channel": {"$ref": _CHANNEL},
                "messages": [{"$ref": f"{_CHANNEL}/messages/{answer}"} for answer in answers],
            },
        }

    def answer(self, name: str, payload: Descriptor | None, words: str, key: str = "") -> None:
        """A frame that answers one of a client's. "ok" answers many and says nothing, or something that a client may
        ignore: then it has a key of its own.
        """
        schema = self._payload(name, payload, id=_ID) if payload else _flat(name, {"id": _ID})
        self._add(f"server.{key or name}", name, schema, words)

    def event(self, kind: FieldDescriptor, words: str) -> None:
        """A frame that the server sends unasked, with a place in the inbox if it is durable."""
        self._send(kind.name, self._payload(kind.name, message_of(kind), pos=_POS), words)

    def send(self, name: str, payload: Descriptor, words: str) -> None:
        """A frame of the connection itself."""
        self._send(name, self._payload(name, payload, **({"id": _ID} if name == "error" else {})), words)

    def _send(self, name: str, payload: Schema, words: str) -> None:
        message = self._add(f"server.{name}", name, payload, words)
        self.operations[f"send.{name}"] = {
            "action": "send",
            "channel": {"$ref": _CHANNEL},
            "title": name,
            "summary": words,
            "messages": [{"$ref": message}],
        }

    def _add(self, key: str, name: str, payload: Schema, words: str) -> str:
        self.messages[key] = {"name": name, "title": name, "summary": words, "payload": payload}
        self.channel[key] = {"$ref": f"#/components/messages/{key}"}
        return f"{_CHANNEL}/messages/{key}"

    def _payload(self, name: str, of: Descriptor, **beside: Schema) -> Schema:
        schema = self.schemas.message(of)
        properties, required = schema.pop("properties"), schema.pop("required", [])
        assert isinstance(properties, dict)  # made by Schemas.message
        assert isinstance(required, list)
        if clash := properties.keys() & {"type", *(key for key in beside if key != "pos")}:
            raise ValueError(f"{of.full_name}: a frame has no room for the fields {sorted(clash)}")
        return {**schema, **_flat(name, {**beside, **properties}, required)}


def _method(document: _Frames, spec: MethodSpec, comments: Comments) -> None:
    words = comments.of(spec.descriptor.full_name)
    response = descriptor_of(spec.response_type)
    key = f"ok.{spec.frame}" if spec.reply == "ok" and response.fields else spec.reply
    document.receive(spec.frame, descriptor_of(spec.request_type), words, "" if spec.one_way else key)
    if spec.one_way:
        return
    if key == "ok":
        document.answer("ok", None, "The request was carried out.")
    else:
        document.answer(spec.reply, response, comments.of(response.full_name), key)


def _flat(name: str, properties: Schema, required: Iterable[str] = ()) -> Schema:
    return {"type": "object", "properties": {"type": {"const": name}, **properties}, "required": ["type", *required]}


def _fixed(message: str) -> Descriptor:
    found: Descriptor = frames_pb2.DESCRIPTOR.message_types_by_name[message]
    return found


def _opening_request() -> Schema:
    return {
        "method": "GET",
        "query": {
            "type": "object",
            "properties": {
                "token": {
                    "type": "string",
                    "description": "An access token. It may stand in an Authorization header or a `hello` frame instead.",
                },
                "cursor": {
                    "type": "string",
                    "pattern": "^[0-9]{1,20}$",
                    "description": "The last inbox place that the client has. Absent: the place stored for the device.",
                },
            },
        },
        "headers": {
            "type": "object",
            "properties": {
                "Authorization": {"type": "string", "description": "Bearer and an access token."},
                "Sec-WebSocket-Protocol": {"type": "string", "enum": ["hither.v1.json", "hither.v1.proto"]},
            },
        },
    }
