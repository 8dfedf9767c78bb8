"""Frames of the subprotocol hither.v1.json <-> values: one flat JSON object with a `type`. Pure."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import msgspec

from hither_client.models import (
    Ack,
    Connected,
    ConversationsPage,
    Event,
    FriendLocationGone,
    FriendLocationUpdate,
    HistoryPage,
    LiveLocationEnded,
    LiveLocationMoved,
    LiveLocations,
    LiveLocationStale,
    LiveLocationStarted,
    MessageReceived,
    MessageStatus,
    OtherEvent,
    PresenceChanged,
    Presences,
    Synced,
    Typing,
)

SUBPROTOCOL = "hither.v1.json"


@dataclass(frozen=True, slots=True)
class Ok:
    """A request was done; of an update of the place, see Advice."""

    next_update_s: int = 0
    min_move_m: int = 0
    shared: bool = False


@dataclass(frozen=True, slots=True)
class Pong:
    """Answers a ping."""


@dataclass(frozen=True, slots=True)
class Reconnect:
    """The server is about to close; come back after `after_ms` with the token."""

    after_ms: int = 0
    resume_token: str = ""


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """A field that broke a rule."""

    field: str
    description: str = ""


@dataclass(frozen=True, slots=True)
class Refusal:
    """A frame of type `error`."""

    code: str
    reason: str
    message: str = ""
    retry_after_ms: int | None = None
    violations: tuple[FieldViolation, ...] = ()


@dataclass(frozen=True, slots=True)
class SyncPage:
    """Events of the inbox after a place, in order."""

    events: tuple[Event, ...]
    next_pos: int
    more: bool


Body: TypeAlias = (
    Event
    | Ack
    | ConversationsPage
    | HistoryPage
    | LiveLocationStarted
    | Presences
    | Ok
    | Pong
    | Reconnect
    | Refusal
    | SyncPage
)


@dataclass(frozen=True, slots=True)
class ServerFrame:
    """A frame from the server: `id` is that of the request it answers, empty for what comes unasked."""

    id: str
    body: Body


class UnreadableFrame(ValueError):
    """The server sent something that is no frame of this subprotocol."""


class _Head(msgspec.Struct):
    type: str
    id: str = ""


class _RawSyncPage(msgspec.Struct):
    events: list[msgspec.Raw] = []
    next_pos: int = 0
    more: bool = False


class _OtherHead(msgspec.Struct):
    pos: int = 0


# strict=False: 64-bit integers stand as strings in ProtoJSON.
_HEAD = msgspec.json.Decoder(_Head, strict=False)
_OTHER = msgspec.json.Decoder(_OtherHead, strict=False)
_OTHER_FIELDS = msgspec.json.Decoder(dict[str, object])
_SYNC_PAGE = msgspec.json.Decoder(_RawSyncPage, strict=False)


def encode_frame(frame_type: str, fields: Mapping[str, object], frame_id: str = "") -> bytes:
    """A frame to the server, as UTF-8."""
    head = {"type": frame_type, "id": frame_id} if frame_id else {"type": frame_type}
    return msgspec.json.encode({**head, **fields})


def decode_frame(data: bytes | str) -> ServerFrame:
    """A frame from the server. Raises UnreadableFrame."""
    try:
        head = _HEAD.decode(data)
        return ServerFrame(head.id, _decode_body(head.type, data))
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UnreadableFrame(str(error)) from error


def _decode_body(frame_type: str, data: bytes | str | msgspec.Raw) -> Body:
    if decode := _BODIES.get(frame_type):
        return decode(data)
    if frame_type == "sync_page":
        page = _SYNC_PAGE.decode(data)
        return SyncPage(tuple(_decode_event(raw) for raw in page.events), page.next_pos, page.more)
    return OtherEvent(frame_type, _OTHER_FIELDS.decode(data), _OTHER.decode(data).pos)


def _decode_event(raw: msgspec.Raw) -> Event:
    body = _decode_body(_HEAD.decode(raw).type, raw)
    if isinstance(body, Event):
        return body
    raise msgspec.ValidationError("a page of events holds something that is no event")


_BODIES: Mapping[str, Callable[[bytes | str | msgspec.Raw], Body]] = {
    "message": msgspec.json.Decoder(MessageReceived, strict=False).decode,
    "message_status": msgspec.json.Decoder(MessageStatus, strict=False).decode,
    "typing": msgspec.json.Decoder(Typing, strict=False).decode,
    "presence": msgspec.json.Decoder(PresenceChanged, strict=False).decode,
    "live_locations": msgspec.json.Decoder(LiveLocations, strict=False).decode,
    "live_location": msgspec.json.Decoder(LiveLocationMoved, strict=False).decode,
    "live_location_ended": msgspec.json.Decoder(LiveLocationEnded, strict=False).decode,
    "live_location_stale": msgspec.json.Decoder(LiveLocationStale, strict=False).decode,
    "live_location_started": msgspec.json.Decoder(LiveLocationStarted, strict=False).decode,
    "live_location_renewed": msgspec.json.Decoder(LiveLocationStarted, strict=False).decode,
    "friend_location_update": msgspec.json.Decoder(FriendLocationUpdate, strict=False).decode,
    "friend_location_gone": msgspec.json.Decoder(FriendLocationGone, strict=False).decode,
    "connected": msgspec.json.Decoder(Connected, strict=False).decode,
    "synced": msgspec.json.Decoder(Synced, strict=False).decode,
    "ack": msgspec.json.Decoder(Ack, strict=False).decode,
    "ok": msgspec.json.Decoder(Ok).decode,
    "pong": msgspec.json.Decoder(Pong).decode,
    "reconnect": msgspec.json.Decoder(Reconnect, strict=False).decode,
    "error": msgspec.json.Decoder(Refusal, strict=False).decode,
    "conversations_page": msgspec.json.Decoder(ConversationsPage, strict=False).decode,
    "presences": msgspec.json.Decoder(Presences, strict=False).decode,
    "history_page": msgspec.json.Decoder(HistoryPage, strict=False).decode,
}
