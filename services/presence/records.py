"""What is known of users' presence beyond this process: a record each in the Cache, and the words of the contract for it.

The record at `presence:<user>` is the serialised PresenceRecord that was published last: all of it, and who may see it.
That of a user who is there runs out unless it is renewed; that of a user who is not keeps the time the user was last seen
for much longer. At `presence-watch:<user>` stands whom each of the user's connections watches, for the next owner.
"""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress

from google.protobuf.message import DecodeError

from hither.presence.v1.presence_pb2 import PresenceEvent, PresenceRecord, PresenceStatus, PresenceWatch
from services.ports.cache import Cache
from services.presence.folding import Presence, Status, Told
from services.presence.settings import PresenceSettings
from services.presence.visibility import hidden

_PREFIX = "presence:"
_WATCH_PREFIX = "presence-watch:"
_OFFLINE = PresenceStatus.PRESENCE_STATUS_OFFLINE


def topic_of(user_id: str) -> str:
    """The Bus topic of a user's presence."""
    return _PREFIX + user_id


def user_of(topic: str) -> str:
    """The user whose presence a Bus topic tells."""
    return topic.removeprefix(_PREFIX)


def event_of(presence: Presence) -> PresenceEvent:
    """The presence as the contract says it."""
    event = PresenceEvent(user_id=presence.user_id, status=presence.status.value, text=presence.text)
    if presence.last_seen_ms:
        event.last_seen.FromMilliseconds(presence.last_seen_ms)
    return event


def parse(user_id: str, payload: bytes | None) -> PresenceRecord:
    """A record of the user as it stands in the Cache or on the Bus; as if there were none, if it cannot be read."""
    if payload is not None:
        with suppress(DecodeError):  # another version of this program may have written it
            record = PresenceRecord.FromString(payload)
            if record.event.user_id == user_id:
                return record
    return PresenceRecord(event=hidden(user_id))


def told_of(record: PresenceRecord) -> Told:
    """What the record says was told."""
    return Told(Status(record.event.status), record.event.text)


def is_there(event: PresenceEvent) -> bool:
    """Whether the event says that the user has a device connected."""
    return event.status != _OFFLINE


def is_recorded(record: PresenceRecord) -> bool:
    """Whether there was a record: each says who may see it."""
    return record.HasField("privacy")


class Records:
    """Presence records. Errors are the Cache's: Unavailable (ENGINE_DOWN)."""

    def __init__(self, cache: Cache, settings: PresenceSettings) -> None:
        self._cache = cache
        self._settings = settings

    async def read(self, user_ids: Sequence[str]) -> list[PresenceRecord]:
        """What was told of the users last, in their order; OFFLINE without a time and for nobody for users without a record."""
        if not user_ids:
            return []
        values = await self._cache.get([_PREFIX + user_id for user_id in user_ids])
        return [parse(user_id, value) for user_id, value in zip(user_ids, values, strict=True)]

    async def write(self, records: Iterable[PresenceRecord]) -> None:
        """Writes or renews records."""
        here: dict[str, bytes] = {}
        gone: dict[str, bytes] = {}
        for record in records:
            records_of_its_kind = here if is_there(record.event) else gone
            records_of_its_kind[_PREFIX + record.event.user_id] = record.SerializeToString()
        if here:
            await self._cache.set(here, self._settings.record_ttl_s)
        if gone:
            await self._cache.set(gone, self._settings.last_seen_ttl_s)

    async def keep_watch(self, user_id: str, device_id: str, watch: PresenceWatch) -> None:
        """Keeps whom the device's connection watches; watching nobody in particular is forgotten."""
        if watch.user_ids:
            payload = watch.SerializeToString()
            await self._cache.put_field(_WATCH_PREFIX + user_id, device_id, payload, self._settings.watch_ttl_s)
        else:
            await self._cache.delete_field(_WATCH_PREFIX + user_id, device_id)

    async def watches(self, user_ids: Sequence[str]) -> Sequence[Mapping[str, PresenceWatch]]:
        """Whom each of the users' devices watched last, by device, in order of the users; the connection may be gone."""
        found = await self._cache.fields([_WATCH_PREFIX + user_id for user_id in user_ids])
        return [{device: PresenceWatch.FromString(value) for device, value in watches.items()} for watches in found]
