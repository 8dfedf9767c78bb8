"""What the users who are here let be known: loaded from the store when they come, changed by themselves, part of every record.

A change is in the store, in the record and on the Bus when update() returns: whoever reads or hears of the user from then on
meets the new rules. Records are written one batch at a time, so that none with the old rules can come to stand after it.
Two owners may overlap for a moment: each change is announced to all, and the greater version wins.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

import structlog

from discovery.errors import Aborted, HitherError, Unavailable
from hither.presence.v1.presence_pb2 import PresenceEvent, PresenceRecord
from services.ports.bus import Bus
from services.ports.privacy_store import Audience, PrivacyRow, PrivacyStore
from services.presence.folding import Presence
from services.presence.records import Records, event_of, is_recorded, topic_of
from services.presence.settings import PresenceSettings
from services.presence.visibility import audience_of, privacy_message

PRIVACY_TOPIC = "presence.privacy"

_log = structlog.get_logger("hither.presence")


class Privacy:
    """The rules of the users who are here, and their records, which say them."""

    def __init__(
        self,
        store: PrivacyStore,
        records: Records,
        bus: Bus,
        is_here: Callable[[str], bool],
        settings: PresenceSettings,
    ) -> None:
        self._store = store
        self._is_here = is_here
        self._records = records
        self._bus = bus
        self._settings = settings
        self._rules: dict[str, PrivacyRow] = {}
        self._writing = asyncio.Lock()

    def knows(self, user_id: str) -> bool:
        """Whether the user's rules are loaded."""
        return user_id in self._rules

    def forget(self, user_id: str) -> None:
        """The user is here no longer."""
        self._rules.pop(user_id, None)

    def record_of(self, presence: Presence) -> PresenceRecord:
        """The presence of a user whose rules are loaded, with the rules as they are now."""
        return _record(event_of(presence), self._rules[presence.user_id])

    def is_for_nobody(self, user_id: str) -> bool:
        """Whether nobody may know of the user, whose rules are loaded."""
        return self._rules[user_id].presence is Audience.NOBODY

    async def load(self, recorded: Mapping[str, PresenceRecord]) -> None:
        """Loads the rules of users whose records are given. While the store is away the records' own rules serve; users without
        a record then stay unknown.
        """
        if not recorded:
            return
        try:
            rows = await self._store.privacy(list(recorded))
        except HitherError as error:
            _log.warning("privacy.failed", error=str(error))
            rows = {user_id: _rules_in(user_id, record) for user_id, record in recorded.items() if is_recorded(record)}
        for row in rows.values():
            self._learn(row)

    async def write(self, presences: Iterable[Presence]) -> None:
        """Writes records of users whose rules are loaded. Raises Unavailable."""
        async with self._writing:
            await self._records.write([self.record_of(one) for one in presences if one.user_id in self._rules])

    async def get(self, user_id: str) -> PrivacyRow:
        """What the user lets be known. Raises Unavailable."""
        return (await self._store.privacy([user_id]))[user_id]

    async def update(self, user_id: str, presence: Audience | None, last_seen: Audience | None) -> PrivacyRow:
        """Changes what is given. Nobody learns more than the new rules allow when this returns. Raises Unavailable, after which
        it may or may not be in force, and Aborted if other changes of the user's keep coming in between.
        """
        try:
            async with asyncio.timeout(self._settings.engine_timeout_s):
                row = await self._store_change(user_id, presence, last_seen)
                if self._is_here(user_id):  # who comes later loads what is stored by now
                    self._learn(row)
                await self._announce(user_id, row)
        except TimeoutError:
            raise Unavailable("An engine does not answer in time.", reason="OUTCOME_UNKNOWN") from None
        return row

    def take_announcement(self, _topic: str, payload: bytes) -> None:
        """Takes a change that perhaps another owner of the user made."""
        record = PresenceRecord.FromString(payload)
        if record.event.user_id in self._rules:
            self._learn(_rules_in(record.event.user_id, record))

    async def _announce(self, user_id: str, row: PrivacyRow) -> None:
        async with self._writing:
            [record] = await self._records.read([user_id])
            changed = _record(record.event, self._rules.get(user_id, row))
            await self._records.write([changed])
            payload = changed.SerializeToString()
            await self._bus.publish(topic_of(user_id), payload)
            await self._bus.publish(PRIVACY_TOPIC, payload)

    def _learn(self, row: PrivacyRow) -> None:
        known = self._rules.get(row.user_id)
        if known is None or row.version >= known.version:
            self._rules[row.user_id] = row

    async def _store_change(self, user_id: str, presence: Audience | None, last_seen: Audience | None) -> PrivacyRow:
        for _ in range(self._settings.asks_most):
            before = await self.get(user_id)
            after = replace(before, presence=presence or before.presence, last_seen=last_seen or before.last_seen)
            if after == before:
                return before
            try:
                return replace(after, version=await self._store.put_privacy(after, before.version))
            except Aborted:
                continue  # where the user may be seen was changed meanwhile; it stands in the same row
        raise Aborted("The user's privacy keeps changing.")


def _record(event: PresenceEvent, rules: PrivacyRow) -> PresenceRecord:
    return PresenceRecord(event=event, privacy=privacy_message(rules), privacy_version=rules.version)


def _rules_in(user_id: str, record: PresenceRecord) -> PrivacyRow:
    """The rules that a record says; for nobody what it does not say."""
    return PrivacyRow(
        user_id,
        audience_of(record.privacy.presence) or Audience.NOBODY,
        audience_of(record.privacy.last_seen) or Audience.NOBODY,
        version=record.privacy_version,
    )
