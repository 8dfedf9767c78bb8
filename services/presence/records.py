"""What is known of users' presence beyond this process: a record each in the Cache, and the words of the contract for it.

The record at `presence:<user>` is the serialised PresenceEvent that friends were told last. That of a user who is there
runs out unless it is renewed; that of a user who is not keeps the time the user was last seen for much longer.
"""

from collections.abc import Iterable, Mapping, Sequence

from hither.presence.v1.presence_pb2 import PresenceEvent, PresenceStatus
from services.ports.cache import Cache
from services.presence.folding import Presence, Status
from services.presence.settings import PresenceSettings

_PREFIX = "presence:"
_OFFLINE = PresenceStatus.PRESENCE_STATUS_OFFLINE


def topic_of(user_id: str) -> str:
    """The Bus topic of a user's presence."""
    return _PREFIX + user_id


def user_of(topic: str) -> str:
    """The user whose presence a Bus topic tells."""
    return topic.removeprefix(_PREFIX)


def event_of(presence: Presence) -> PresenceEvent:
    """The presence as the contract says it."""
    event = PresenceEvent(user_id=presence.user_id, status=presence.status.value)
    if presence.last_seen_ms:
        event.last_seen.FromMilliseconds(presence.last_seen_ms)
    return event


def is_there(event: PresenceEvent) -> bool:
    """Whether the event says that the user has a device connected."""
    return event.status != _OFFLINE


def is_recorded(event: PresenceEvent) -> bool:
    """Whether there was a record of it: those of users who are not there say since when."""
    return is_there(event) or event.HasField("last_seen")


class Records:
    """Presence records. Errors are the Cache's: Unavailable (ENGINE_DOWN)."""

    def __init__(self, cache: Cache, settings: PresenceSettings) -> None:
        self._cache = cache
        self._settings = settings

    async def read(self, user_ids: Sequence[str]) -> list[PresenceEvent]:
        """What was told of the users last, in their order; OFFLINE without a time for users without a record."""
        values = await self._cache.get([_PREFIX + user_id for user_id in user_ids])
        return [
            PresenceEvent(user_id=user_id, status=_OFFLINE) if value is None else PresenceEvent.FromString(value)
            for user_id, value in zip(user_ids, values, strict=True)
        ]

    async def told(self, user_ids: Sequence[str]) -> Mapping[str, Status]:
        """The status of each user that was told last."""
        if not user_ids:
            return {}
        return {event.user_id: Status(event.status) for event in await self.read(user_ids)}

    async def write(self, presences: Iterable[Presence]) -> None:
        """Writes or renews records."""
        here: dict[str, bytes] = {}
        gone: dict[str, bytes] = {}
        for presence in presences:
            records = gone if presence.status is Status.OFFLINE else here
            records[_PREFIX + presence.user_id] = event_of(presence).SerializeToString()
        if here:
            await self._cache.set(here, self._settings.record_ttl_s)
        if gone:
            await self._cache.set(gone, self._settings.last_seen_ttl_s)
