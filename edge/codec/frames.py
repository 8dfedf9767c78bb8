"""Frames of both subprotocols: what a client says, and what it is told.

Frames are made once for all their receivers; only the inbox place differs and is spliced in. Knows no connection.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Final, Protocol

from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from discovery.contract import MethodSpec
from discovery.errors import HitherError
from hither.edge.v1 import event_pb2, frames_pb2

MAX_ID_BYTES: Final = 64
"""Longest `id` of a client's frame."""

HELLO: Final = "hello"
PING: Final = "ping"


class BadFrame(Exception):
    """A frame that cannot be read. `id` is the frame's, where that much could be read."""

    def __init__(self, error: HitherError, id_: str) -> None:
        super().__init__(error.message)
        self.error = error
        self.id = id_


@dataclass(frozen=True, slots=True)
class Request:
    """A call of a method."""

    id: str
    spec: MethodSpec
    message: Message


@dataclass(frozen=True, slots=True)
class Hello:
    """Opens the connection."""

    id: str
    token: str
    cursor: int | None


@dataclass(frozen=True, slots=True)
class Ping:
    """Keeps the connection alive; `pong` is the whole answering frame."""

    pong: bytes


Incoming = Request | Hello | Ping


class SharedEvent(Protocol):
    """An event, encoded once for all its receivers."""

    type: str

    def at(self, pos: int) -> bytes:
        """The frame for a receiver in whose inbox the event has this place; zero for none."""


class Codec(Protocol):
    """One subprotocol."""

    subprotocol: str
    text: bool
    """Its frames are text messages; otherwise binary ones."""

    def decode(self, data: bytes) -> Incoming:
        """What a client's message says. Raises BadFrame."""

    def id_of(self, data: bytes) -> str:
        """The id of a client's message, read at any cost; empty where it has none or cannot be read."""

    def frame(self, type_: str, id_: str, message: Message) -> bytes:
        """A frame that is no event: an answer, or one of the connection's own."""

    def error(self, error: HitherError, id_: str) -> bytes:
        """An error frame."""

    def event(self, type_: str, message: Message) -> SharedEvent:
        """An event."""


@cache
def event_types() -> Mapping[str, type[Message]]:
    """Every event, by its frame type."""
    kinds = event_pb2.Event.DESCRIPTOR.oneofs_by_name["kind"].fields
    return {field.name: GetMessageClass(field.message_type) for field in kinds if field.message_type is not None}


def hello_of(id_: str, message: Message) -> Hello:
    """A Hello from its message."""
    assert isinstance(message, frames_pb2.Hello)  # the caller has looked at the type
    return Hello(id_, message.token, message.cursor if message.HasField("cursor") else None)
