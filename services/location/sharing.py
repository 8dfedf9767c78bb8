"""What users decide about who may know where they are: in force at once, everywhere.

A decision is in the store and was published when it is answered. The news say nothing but the new version: who shows the user to
anybody reads the rules again first.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

from discovery.clock import Clock
from discovery.errors import Aborted, NotFound, ResourceExhausted, Unavailable
from services.location.records import Record, Records, encode, topic_of
from services.location.settings import LocationSettings
from services.paging import decode_token, encode_token
from services.ports.bus import Bus
from services.ports.privacy_store import GrantRow, Precision, PrivacyRow, PrivacyStore

_TRIES = 5


class NotFriends(NotFound):
    """The two are not friends."""

    reason = "NOT_FRIENDS"


class Sharing:
    """Decisions by user. Raises Unavailable where a decision may not be in force yet: it may be repeated."""

    def __init__(
        self,
        store: PrivacyStore,
        records: Records,
        bus: Bus,
        friends_of: Callable[[str], Awaitable[Sequence[str]]],
        clock: Clock,
        settings: LocationSettings,
    ) -> None:
        self._store = store
        self._records = records
        self._bus = bus
        self._friends_of = friends_of
        self._clock = clock
        self._settings = settings

    async def setting(self, user_id: str) -> PrivacyRow:
        """What the user decided in general."""
        async with asyncio.timeout(self._settings.engine_timeout_s):
            return (await self._store.privacy([user_id]))[user_id]

    async def share(self, user_id: str, enabled: bool, default: Precision | None) -> PrivacyRow:
        """Turns sharing on or off, and says how exactly (None: as before)."""
        row = await self._change(user_id, enabled, default)
        try:
            async with asyncio.timeout(self._settings.engine_timeout_s):
                if not enabled:
                    await self._records.forget(user_id)
                await self._publish(user_id, row.version, is_forgotten=not enabled)
        except TimeoutError:
            raise Unavailable("The decision could not be made known in time.") from None
        return row

    async def grant(self, user_id: str, friend_id: str, precision: Precision, duration_s: int) -> GrantRow:
        """Decides about a friend. Raises NotFriends and ResourceExhausted (QUOTA_EXCEEDED)."""
        if friend_id not in await self._friends_of(user_id):
            raise NotFriends("The two are not friends.")
        expires_ms = self._clock.now_ms() + duration_s * 1000 if duration_s else 0
        row = GrantRow(user_id, friend_id, precision, expires_ms)
        version = await self._store.put_grant(row, self._settings.most_grants)
        if version is None:
            raise ResourceExhausted("The user has decided about as many friends as may be.", reason="QUOTA_EXCEEDED")
        await self._announce(user_id, version)
        return row

    async def revoke(self, user_id: str, friend_id: str) -> None:
        """Takes a decision back."""
        version = await self._store.remove_grant(user_id, friend_id)
        if (
            version is None
        ):  # perhaps it was removed by this very request, which is repeated as it could not be announced
            version = (await self.setting(user_id)).version
        await self._announce(user_id, version)

    async def grants(self, user_id: str, size: int, token: str) -> tuple[Sequence[GrantRow], str]:
        """A page of decisions, and the token of the next one. Raises InvalidArgument (BAD_PAGE_TOKEN)."""
        list_name = f"location-grants/{user_id}"
        after = decode_token(list_name, token, 1)
        found = await self._store.grants_by(user_id, after[0] if after else "", size + 1)
        if len(found) <= size:
            return found, ""
        return found[:size], encode_token(list_name, found[size - 1].viewer_id)

    async def _change(self, user_id: str, enabled: bool, default: Precision | None) -> PrivacyRow:
        for _ in range(_TRIES):
            before = await self.setting(user_id)
            after = replace(before, shares_location=enabled, default_precision=default or before.default_precision)
            if after == before:
                return before
            try:
                return replace(after, version=await self._store.put_privacy(after, before.version))
            except Aborted:
                continue  # something else in the same row was changed meanwhile
        raise Aborted("The user's privacy keeps changing.")

    async def _announce(self, user_id: str, version: int) -> None:
        try:
            async with asyncio.timeout(self._settings.engine_timeout_s):
                await self._publish(user_id, version)
        except TimeoutError:
            raise Unavailable("The decision could not be made known in time.") from None

    async def _publish(self, user_id: str, version: int, *, is_forgotten: bool = False) -> None:
        record = Record(user_id, None, None, version, is_forgotten=is_forgotten)
        await self._bus.publish(topic_of(user_id), encode(record))
