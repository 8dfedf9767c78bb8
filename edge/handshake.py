"""What the first bytes of a connection ask for, and on what terms a WebSocket begins. Pure."""

from dataclasses import dataclass
from typing import Final
from urllib.parse import parse_qs

from edge.codec.frames import Codec
from edge.codec.proto import BINARY
from edge.codec.text import TEXT

PATH: Final = b"/ws"
CODECS: Final[dict[str, Codec]] = {codec.subprotocol: codec for codec in (TEXT, BINARY)}

_MAX_PLACE: Final = (1 << 63) - 1
_END: Final = b"\r\n\r\n"


class BadHandshake(Exception):
    """The handshake cannot be accepted; the message says why and is safe to send."""


@dataclass(frozen=True, slots=True)
class Terms:
    """How a WebSocket begins."""

    codec: Codec
    subprotocol: str
    """What to answer as Sec-WebSocket-Protocol; empty if the client offered nothing."""
    token: str
    cursor: int | None


def head_length(data: bytes | bytearray) -> int:
    """Bytes of the request's head with its empty line; 0 if it is not complete."""
    return data.find(_END) + len(_END) if _END in data else 0


def is_websocket(head: bytes | bytearray) -> bool:
    """Whether a complete head asks for a WebSocket at our path."""
    first, _, rest = bytes(head).partition(b"\r\n")
    parts = first.split(b" ")
    if len(parts) != 3 or parts[0] != b"GET" or parts[1].partition(b"?")[0] != PATH:
        return False
    for line in rest.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.strip().lower() == b"upgrade" and value.strip().lower() == b"websocket":
            return True
    return False


def terms(path: bytes, offered: str, authorization: str) -> Terms:
    """The terms that the request line's path, Sec-WebSocket-Protocol and Authorization ask for. Raises BadHandshake."""
    query = parse_qs(path.partition(b"?")[2].decode("latin-1"), keep_blank_values=True, max_num_fields=16)
    codec, subprotocol = _codec(offered)
    scheme, _, credentials = authorization.strip().partition(" ")
    token = query["token"][0] if "token" in query else credentials.strip() if scheme.lower() == "bearer" else ""
    return Terms(codec, subprotocol, token, _cursor(query["cursor"][0]) if "cursor" in query else None)


def _codec(offered: str) -> tuple[Codec, str]:
    names = [name.strip() for name in offered.split(",") if name.strip()]
    if not names:
        return TEXT, ""
    for name in names:
        if name in CODECS:
            return CODECS[name], name
    raise BadHandshake("subprotocols: " + ", ".join(CODECS))


def _cursor(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 20 and int(text) <= _MAX_PLACE):
        raise BadHandshake("cursor must be an inbox place")
    return int(text)
