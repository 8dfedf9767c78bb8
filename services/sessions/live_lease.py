"""What a live-location session is and how it may change. Pure: no store, no clock, no place.

A session's id begins with its conversation's, so that whoever has the id knows the conversation, and so that both have the
same owner (see hither.mesh.v1.routing_key).
"""

import json
import secrets
from base64 import urlsafe_b64encode
from collections.abc import Mapping
from dataclasses import dataclass, replace
from hashlib import sha256

from discovery.partitions import SEPARATOR
from hither.messaging.v1.messaging_pb2 import Content
from services.ports.live_session_store import Ending, LiveSessionRow

MEDIA_TYPE = "application/vnd.hither.live-location+json"
"""Of the messages that say that a live location has started or ended."""

_ID_BYTES = 16
_ANSWER_KEPT_MS = 25 * 3600 * 1000
"""How long the answer to a start can be repeated, from the start on: the contract's 24 h, and time for clocks to differ."""
_KEPT_AFTER_MS = 3600 * 1000


@dataclass(frozen=True, slots=True)
class Wish:
    """What a user asks for who starts to share. Empty `request_id`: asked for once."""

    conversation_id: str
    user_id: str
    duration_ms: int
    opaque: bool
    request_id: str = ""

    def session_id(self) -> str:
        """The id of the session: the same for the same user and request, another each time without one."""
        name = secrets.token_bytes(_ID_BYTES)
        if self.request_id:
            asked = "\0".join((self.conversation_id, self.user_id, self.request_id))
            name = sha256(asked.encode()).digest()[:_ID_BYTES]
        return self.conversation_id + SEPARATOR + urlsafe_b64encode(name).decode().rstrip("=")


def begun(wish: Wish, session_id: str, partition: int, now_ms: int) -> LiveSessionRow:
    """The session as it begins."""
    return LiveSessionRow(
        session_id=session_id,
        conversation_id=wish.conversation_id,
        partition=partition,
        user_id=wish.user_id,
        opaque=wish.opaque,
        started_ms=now_ms,
        expires_ms=now_ms + wish.duration_ms,
        keep_until_ms=now_ms + _ANSWER_KEPT_MS,
    )


def goes_on(row: LiveSessionRow, now_ms: int) -> bool:
    """Whether the session is shared now: it has not ended, and its time is not over."""
    return row.ending is Ending.NONE and now_ms < row.expires_ms


def renewed(row: LiveSessionRow, expires_ms: int) -> LiveSessionRow:
    """The session that goes on until then, or longer if it would have anyway."""
    return replace(row, expires_ms=max(row.expires_ms, expires_ms))


def ended(row: LiveSessionRow, ending: Ending, now_ms: int) -> LiveSessionRow:
    """The session, over. The first ending stays."""
    if row.ending is not Ending.NONE:
        return row
    return replace(row, ending=ending, ended_ms=now_ms, keep_until_ms=max(row.keep_until_ms, now_ms + _KEPT_AFTER_MS))


def announced(row: LiveSessionRow) -> LiveSessionRow:
    """The session, whose start is in the conversation."""
    return replace(row, announced=True)


def told(row: LiveSessionRow) -> LiveSessionRow:
    """The session, of whose end everybody knows."""
    return replace(row, told=True)


def message_of_start(row: LiveSessionRow) -> tuple[str, Content]:
    """The client id and the content of the message that says that the session has started: the same at each try."""
    said = {"event": "started", "session_id": row.session_id, "expires_at_ms": row.expires_ms, "opaque": row.opaque}
    return f"live.started.{_name(row)}", _content(said)


def message_of_end(row: LiveSessionRow) -> tuple[str, Content]:
    """The same of its end."""
    said = {"event": "ended", "session_id": row.session_id, "reason": row.ending.name}
    return f"live.ended.{_name(row)}", _content(said)


def _name(row: LiveSessionRow) -> str:
    return row.session_id.rpartition(SEPARATOR)[2]


def _content(said: Mapping[str, object]) -> Content:
    return Content(media_type=MEDIA_TYPE, data=json.dumps(said, separators=(",", ":")).encode())
