"""What the log "push" says, as the policy takes it: a message that came for a user, and of what kind it is for this user.

Of a message nothing is kept but its ids, and as much of its text as the user's settings allow a push to show.
"""

import re
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from hither.messaging.v1 import messaging_pb2, records_pb2
from services.ports.push_store import Preview
from services.push.wording import excerpt, name_of_content

CALL_MEDIA_TYPE: Final = "application/vnd.hither.call+json"
_MENTIONED = re.compile(r"(?<![A-Za-z0-9_.@+-])@([A-Za-z0-9_.@+-]+)")
_EVERYBODY = "all"


class Kind(StrEnum):
    """Of what kind a push is. The values are stored."""

    DIRECT = "direct"
    GROUP = "group"
    MENTION = "mention"
    CALL = "call"
    SYNC = "sync"
    """Silent: the app is woken and nothing is shown."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """A message that came for a user who had no live device; `offset` is its place in the partition of the log "push"."""

    partition: int
    offset: int
    user_id: str
    pos: int
    conversation_id: str
    seq: int
    message_id: int
    sender_id: str
    create_ms: int
    kind: Kind
    excerpt: str = field(default="", repr=False)
    """What a push may show of it; empty if nothing."""


def arrival_of(partition: int, offset: int, record: records_pb2.PushRecord, preview: Preview) -> Arrival:
    """The arrival that the record tells of, with what a push to a user of these settings may show."""
    message = record.message
    shown = ""
    if preview is Preview.TEXT:
        shown = excerpt(message.text) if message.text else name_of_content(message.content.media_type)
    return Arrival(
        partition,
        offset,
        record.user_id,
        record.pos,
        message.conversation_id,
        message.seq,
        message.message_id,
        message.sender_id,
        message.create_time.ToMilliseconds(),
        kind_of(message, record.user_id),
        shown,
    )


def kind_of(message: messaging_pb2.Message, user_id: str) -> Kind:
    """Of what kind a push for the message is. In direct conversations nobody need be mentioned."""
    if message.content.media_type == CALL_MEDIA_TYPE:
        return Kind.CALL
    if message.conversation_id.startswith("d."):
        return Kind.DIRECT
    return Kind.MENTION if mentions(message.text, user_id) else Kind.GROUP


def mentions(text: str, user_id: str) -> bool:
    """Whether the text holds @user_id, or @all, as a word. A full stop or the like at its end may be the sentence's."""
    if "@" not in text:
        return False
    meant = (user_id, _EVERYBODY)
    return any(word in meant or word.rstrip(".-+") in meant for word in _MENTIONED.findall(text))
