"""What the client's user holds in hand: plain frozen values, decoded from the frames and REST answers of the contract.

Nothing here talks to anybody. Names and meanings are those of the proto files; 64-bit integers are `int`, times are
aware `datetime`s. An event that has a place in the inbox is durable: it comes in order, once, and is never lost.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal, TypeAlias

MessageState: TypeAlias = Literal["SENT", "DELIVERED", "SEEN"]
Presence: TypeAlias = Literal["ONLINE", "AWAY", "OFFLINE"]
Audience: TypeAlias = Literal["NOBODY", "FRIENDS", "EVERYONE"]
PushPlatform: TypeAlias = Literal["IOS", "ANDROID", "WEB"]


@dataclass(frozen=True, slots=True)
class Content:
    """Content that the server carries and does not read: a media type and 1 byte to 16 KiB."""

    media_type: str
    data: bytes


@dataclass(frozen=True, slots=True)
class Message:
    """A message as it stands in its conversation: `seq` is contiguous there, from 1. Has `text` or `content`."""

    message_id: int
    conversation_id: str
    seq: int
    sender_id: str
    client_id: str
    create_time: datetime
    text: str | None = None
    content: Content | None = None


@dataclass(frozen=True, slots=True)
class Ack:
    """The message is durable, sequenced and deduplicated."""

    client_id: str
    message_id: int
    conversation_id: str
    seq: int
    create_time: datetime
    status: str = "SENT"


@dataclass(frozen=True, slots=True)
class MessageReceived:
    """A message came into the inbox at `pos`. Own messages come too: to the sender's every device."""

    message: Message
    pos: int = 0


@dataclass(frozen=True, slots=True)
class MessageStatus:
    """Everything in the conversation up to `seq` was delivered to, or seen by, the user."""

    conversation_id: str
    seq: int
    status: str
    user_id: str
    pos: int = 0


@dataclass(frozen=True, slots=True)
class Typing:
    """Somebody is typing; fades after 3 s."""

    conversation_id: str
    user_id: str


@dataclass(frozen=True, slots=True)
class PresenceChanged:
    """A user's presence, as it became or as it is. `last_seen` is absent while the user is connected, or hides it; `text` is
    what the user says of it.
    """

    user_id: str
    status: str
    last_seen: datetime | None = None
    text: str = ""


@dataclass(frozen=True, slots=True)
class Presences:
    """How the watched users are, by user id. OFFLINE: not there, not to be known, or no such user."""

    presences: tuple[PresenceChanged, ...] = ()


@dataclass(frozen=True, slots=True)
class Privacy:
    """Who may know the user's presence, and who may know when the user was last seen."""

    presence: Audience
    last_seen: Audience


@dataclass(frozen=True, slots=True)
class LivePlace:
    """Where somebody was, and when: `lat` and `lng` in degrees, or the `ciphertext` that stands for them."""

    timestamp: datetime
    lat: float = field(default=0.0, repr=False)
    lng: float = field(default=0.0, repr=False)
    accuracy_m: float = 0.0
    ciphertext: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, slots=True)
class LiveLocationView:
    """A live location as it is: the newest place (none has come yet: None), and the trail, oldest first."""

    session_id: str
    user_id: str
    latest: LivePlace | None = None
    trail: tuple[LivePlace, ...] = ()
    expires_at: datetime | None = None
    opaque: bool = False
    stale: bool = False


@dataclass(frozen=True, slots=True)
class LiveLocations:
    """What there is to see in a watched conversation, in the place of all that was known: after each reconnection, and every
    minute. Later `LiveLocationMoved` follow from it.
    """

    sessions: tuple[LiveLocationView, ...] = ()
    conversation_id: str = ""


@dataclass(frozen=True, slots=True)
class LiveLocationMoved:
    """Who shares in a watched conversation is somewhere else now: `lat` and `lng`, or the `ciphertext` that stands for them."""

    session_id: str
    conversation_id: str
    user_id: str
    timestamp: datetime
    lat: float = field(default=0.0, repr=False)
    lng: float = field(default=0.0, repr=False)
    ciphertext: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, slots=True)
class LiveLocationEnded:
    """A live location is over: STOPPED, EXPIRED, or REMOVED if its sharer or this user is a member no longer."""

    session_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class LiveLocationStale:
    """No place has come for a while; the last came at `last_seen`."""

    session_id: str
    last_seen: datetime | None = None


@dataclass(frozen=True, slots=True)
class LiveLocationStarted:
    """The session that was started or renewed, and when it ends by itself."""

    session_id: str
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class FriendLocationUpdate:
    """A friend is nearby, or moved there: `distance` in miles, the place as exactly (`precision`) as the friend lets be known."""

    friend_id: str
    name: str
    distance: float
    lat: float
    lng: float
    timestamp: datetime
    precision: str = "EXACT"


@dataclass(frozen=True, slots=True)
class FriendLocationGone:
    """A friend is nearby no longer: LEFT, STOPPED or EXPIRED."""

    friend_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class Connected:
    """The server knows who this is; what was missed after `pos` follows."""

    user_id: str
    device_id: str
    edge_id: str = ""
    pos: int = 0
    heartbeat_ms: int = 30_000
    status: str = "ready"


@dataclass(frozen=True, slots=True)
class Synced:
    """All that was missed up to `pos` has been handed out before this; what follows is live."""

    pos: int = 0


@dataclass(frozen=True, slots=True)
class Disconnected:
    """The connection is gone; the next attempt comes after `retry_in_s`. `code` is 1006 where there was no close frame."""

    code: int
    reason: str
    retry_in_s: float


@dataclass(frozen=True, slots=True)
class ServerError:
    """The server refused something that has no answer, such as a `typing`; or something concerns the whole connection."""

    code: str
    reason: str
    message: str = ""
    retry_after_ms: int | None = None


@dataclass(frozen=True, slots=True)
class OtherEvent:
    """An event of a type that this version has no class for. `fields` holds the frame as it came."""

    type: str
    fields: Mapping[str, object] = field(default_factory=dict)
    pos: int = 0


Event: TypeAlias = (
    MessageReceived
    | MessageStatus
    | Typing
    | PresenceChanged
    | LiveLocations
    | LiveLocationMoved
    | LiveLocationEnded
    | LiveLocationStale
    | FriendLocationUpdate
    | FriendLocationGone
    | Connected
    | Synced
    | Disconnected
    | ServerError
    | OtherEvent
)


def place(event: Event) -> int:
    """The event's place in the inbox, from 1; zero for one that has none and may be lost."""
    return event.pos if isinstance(event, MessageReceived | MessageStatus | OtherEvent) else 0


@dataclass(frozen=True, slots=True)
class HistoryPage:
    """Messages in ascending order of seq; an empty token: there are no more pages."""

    messages: tuple[Message, ...] = ()
    next_page_token: str = ""


@dataclass(frozen=True, slots=True)
class InboxConversation:
    """A conversation as the inbox knows it: its newest message, and how many messages of others follow the seen mark `seen_seq`."""

    conversation_id: str
    last_message: Message
    unread_count: int = 0
    seen_seq: int = 0


@dataclass(frozen=True, slots=True)
class ConversationsPage:
    """Conversations, the last active first; an empty token: there are no more pages."""

    conversations: tuple[InboxConversation, ...] = ()
    next_page_token: str = ""


@dataclass(frozen=True, slots=True)
class Fix:
    """A place at a time, in degrees; the accuracy is a radius in metres, zero if not known."""

    lat: float
    lng: float
    timestamp: datetime
    accuracy_m: float = 0.0


@dataclass(frozen=True, slots=True)
class NearbyFriend:
    """A friend who is near: `distance` in miles to the place as it is shown."""

    friend_id: str
    name: str
    distance: float
    fix: Fix
    precision: str


@dataclass(frozen=True, slots=True)
class LocationSharing:
    """Whether friends may see where the user is, and how exactly those about whom nothing else was decided."""

    enabled: bool = False
    default_precision: str = "EXACT"


@dataclass(frozen=True, slots=True)
class LocationGrant:
    """What the user decided about one friend: HIDDEN, CITY, KILOMETRE or EXACT, until it ends (None: never)."""

    friend_id: str
    precision: str
    expires_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class LocationView:
    """Who was shown where the user is in 5 minutes: how exactly, when last, and how often at least."""

    viewer_id: str
    precision: str
    start_time: datetime
    last_time: datetime
    count: int


@dataclass(frozen=True, slots=True)
class User:
    """A person with an account."""

    user_id: str
    name: str = ""
    create_time: datetime | None = None


@dataclass(frozen=True, slots=True)
class Tokens:
    """What a signed-in device holds: the access token until `expires_at`; the refresh token gets the next pair, once."""

    access_token: str = field(repr=False)
    refresh_token: str = field(repr=False)
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class Friendship:
    """How the caller stands to another user: REQUESTED, PENDING, ACCEPTED or BLOCKED."""

    friend: User
    state: str
    update_time: datetime | None = None


@dataclass(frozen=True, slots=True)
class Member:
    """A member of a conversation: MEMBER or ADMIN."""

    user_id: str
    role: str = "MEMBER"
    join_time: datetime | None = None


@dataclass(frozen=True, slots=True)
class Conversation:
    """A conversation: DIRECT or GROUP."""

    conversation_id: str
    kind: str
    name: str = ""
    member_count: int = 0
    create_time: datetime | None = None
    members: tuple[Member, ...] = ()
