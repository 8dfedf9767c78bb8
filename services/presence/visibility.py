"""Who may see what of a user's presence. Pure: the one place that decides it, for events, lists and answers alike."""

from enum import Enum
from types import MappingProxyType

from hither.presence.v1.presence_pb2 import (
    PresenceAudience,
    PresenceEvent,
    PresencePrivacy,
    PresenceRecord,
    PresenceStatus,
)
from services.ports.privacy_store import Audience, PrivacyRow


class Relation(Enum):
    """How somebody who watches stands to the user who is watched. Who is blocked stands in none."""

    FRIEND = "friend"
    STRANGER = "stranger"


_NEEDED = MappingProxyType(
    {
        Relation.FRIEND: PresenceAudience.PRESENCE_AUDIENCE_FRIENDS,
        Relation.STRANGER: PresenceAudience.PRESENCE_AUDIENCE_EVERYONE,
    }
)
"""The narrowest audience that one of the relation belongs to. Audiences are numbered from narrow to wide."""
_AUDIENCES = MappingProxyType(
    {
        Audience.NOBODY: PresenceAudience.PRESENCE_AUDIENCE_NOBODY,
        Audience.FRIENDS: PresenceAudience.PRESENCE_AUDIENCE_FRIENDS,
        Audience.EVERYONE: PresenceAudience.PRESENCE_AUDIENCE_EVERYONE,
    }
)
_KEPT = MappingProxyType({word: audience for audience, word in _AUDIENCES.items()})


def hidden(user_id: str) -> PresenceEvent:
    """What is seen of a user who is not to be seen, or of whom nothing is known: OFFLINE, never seen."""
    return PresenceEvent(user_id=user_id, status=PresenceStatus.PRESENCE_STATUS_OFFLINE)


def view(record: PresenceRecord, relation: Relation | None) -> PresenceEvent:
    """What one of this relation may see. A record without an audience shows nothing to anybody."""
    event = record.event
    if relation is None or record.privacy.presence < _NEEDED[relation]:
        return hidden(event.user_id)
    if record.privacy.last_seen >= _NEEDED[relation]:
        return event
    return PresenceEvent(user_id=event.user_id, status=event.status, text=event.text)


def privacy_message(privacy: PrivacyRow) -> PresencePrivacy:
    """What the store keeps, as the contract says it."""
    return PresencePrivacy(presence=_AUDIENCES[privacy.presence], last_seen=_AUDIENCES[privacy.last_seen])


def audience_of(audience: PresenceAudience.ValueType) -> Audience | None:
    """The contract's word as the store keeps it; None if it says none."""
    return _KEPT.get(audience)
