"""What waits for the application: pure and bounded.

Durable events are counted; `room` says how many more fit, and nobody may put one in where there is no room. Events that may be
lost are conflated: a newer one of the same kind about the same thing takes the waiting one's place; when too many different
ones wait, the oldest goes.
"""

from collections import OrderedDict
from typing import TypeAlias

from hither_client.models import (
    Connected,
    Disconnected,
    Event,
    FriendLocationGone,
    FriendLocationUpdate,
    LiveLocationEnded,
    LiveLocationMoved,
    LiveLocations,
    LiveLocationStale,
    MessageStatus,
    OtherEvent,
    PresenceChanged,
    ServerError,
    Synced,
    Typing,
    place,
)

_Key: TypeAlias = tuple[str | int, ...]


class EventQueue:
    """At most `limit` durable events and `limit` of the others, in order of arrival."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._waiting: OrderedDict[_Key, Event] = OrderedDict()
        self._durable = 0

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def room(self) -> int:
        """How many durable events still fit."""
        return self._limit - self._durable

    def put(self, event: Event) -> None:
        """Adds an event; a durable one only while there is `room`."""
        if place(event) and self.room <= 0:
            raise OverflowError("a durable event was put where there is no room")
        key = _key(event)
        if place(event) and key not in self._waiting:
            self._durable += 1
        if isinstance(event, Synced):
            self._waiting.pop(key, None)  # it says "all before this", so it must stand behind what came since
        self._waiting[key] = event
        if len(self._waiting) - self._durable > self._limit:
            self._drop_oldest_conflatable()

    def take(self) -> Event:
        """The oldest event; raises KeyError if there is none."""
        _, event = self._waiting.popitem(last=False)
        if place(event):
            self._durable -= 1
        return event

    def _drop_oldest_conflatable(self) -> None:
        del self._waiting[next(key for key, event in self._waiting.items() if not place(event))]


def _key(event: Event) -> _Key:
    if pos := place(event):
        return ("pos", pos)
    match event:
        case MessageStatus():
            return ("message_status", event.conversation_id, event.user_id, event.status)
        case Typing():
            return ("typing", event.conversation_id, event.user_id)
        case PresenceChanged():
            return ("presence", event.user_id)
        case (
            FriendLocationUpdate()
            | FriendLocationGone()
            | LiveLocationMoved()
            | LiveLocationEnded()
            | LiveLocationStale()
        ):
            return _whereabouts_key(event)
        case Synced():
            return ("synced",)
        case Connected() | Disconnected():
            return ("connection",)
        case ServerError():
            return ("error", event.code, event.reason)
        case OtherEvent():
            about = ("friend_id", "session_id", "user_id", "conversation_id")
            return (event.type, *(f"{name}={event.fields[name]}" for name in about if name in event.fields))
        case _:  # what there is to see in a watched conversation, among others
            return (type(event).__name__, event.conversation_id if isinstance(event, LiveLocations) else "")


def _whereabouts_key(
    event: FriendLocationUpdate | FriendLocationGone | LiveLocationMoved | LiveLocationEnded | LiveLocationStale,
) -> _Key:
    """The newest about a friend or a session is enough."""
    if isinstance(event, FriendLocationUpdate | FriendLocationGone):
        return ("nearby", event.friend_id)
    return ("live_location", event.session_id)
