"""How users want to be woken up: settings and muted conversations, as they change them."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from weakref import WeakValueDictionary
from zoneinfo import available_timezones

from discovery.clock import Clock
from discovery.errors import InvalidArgument, Violation
from services.ports.push_store import FOREVER_MS, Preview, PushSettingsRow, PushStore
from services.push.errors import TooMany
from services.push.settings import PushSettings

_NO_ZONES = frozenset({"Factory", "localtime"})
"""Names that stand beside the time zones and say nothing, or something else on each machine."""


@dataclass(frozen=True, slots=True)
class SettingsChange:
    """What is to change; None: it stays."""

    preview: Preview | None = None
    quiet_from_min: int | None = None
    quiet_to_min: int | None = None
    time_zone: str | None = None


class Wishes:
    """Belongs to the users' owner: changes of one user come one after the other. Raises what the store raises."""

    def __init__(self, store: PushStore, clock: Clock, settings: PushSettings) -> None:
        self._store = store
        self._clock = clock
        self._most_mutes = settings.most_mutes
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def settings(self, user_id: str) -> PushSettingsRow:
        """What the user has chosen, or the defaults."""
        return (await self._store.preferences([user_id]))[user_id].settings

    async def change(self, user_id: str, change: SettingsChange) -> PushSettingsRow:
        """Changes what is given; returns what holds now. Raises InvalidArgument for a time zone that is none."""
        if change.time_zone is not None and change.time_zone not in _time_zones():
            rule = "must be an IANA time zone"
            raise InvalidArgument(f"time_zone: {rule}", violations=(Violation("time_zone", rule),))
        async with self._one_by_one(user_id):
            before = await self.settings(user_id)
            after = replace(
                before,
                preview=before.preview if change.preview is None else change.preview,
                quiet_from_min=before.quiet_from_min if change.quiet_from_min is None else change.quiet_from_min,
                quiet_to_min=before.quiet_to_min if change.quiet_to_min is None else change.quiet_to_min,
                time_zone=before.time_zone if change.time_zone is None else change.time_zone,
            )
            await self._store.put_settings(after)
            return after

    async def mute(self, user_id: str, conversation_id: str, until_ms: int) -> None:
        """Mutes the conversation until then (FOREVER_MS: further notice). Raises InvalidArgument for a past time, TooMany."""
        if until_ms != FOREVER_MS and until_ms <= self._clock.now_ms():
            rule = "must be in the future"
            raise InvalidArgument(f"until: {rule}", violations=(Violation("until", rule),))
        async with self._one_by_one(user_id):
            if await self._store.put_mute(user_id, conversation_id, until_ms, self._most_mutes):
                return
            await self._forget_past_mutes(user_id)
            if not await self._store.put_mute(user_id, conversation_id, until_ms, self._most_mutes):
                raise TooMany(f"A user mutes at most {self._most_mutes} conversations; let one be heard again.")

    async def unmute(self, user_id: str, conversation_id: str) -> None:
        """Lets the conversation be heard again."""
        await self._store.remove_mute(user_id, conversation_id)

    async def mutes(self, user_id: str) -> Mapping[str, int]:
        """The conversations that are muted now, and until when, in order of their ids."""
        mutes = (await self._store.preferences([user_id]))[user_id].mutes
        now_ms = self._clock.now_ms()
        return {name: mutes[name] for name in sorted(mutes) if not _is_past(mutes[name], now_ms)}

    async def _forget_past_mutes(self, user_id: str) -> None:
        mutes = (await self._store.preferences([user_id]))[user_id].mutes
        now_ms = self._clock.now_ms()
        for conversation_id, until_ms in mutes.items():
            if _is_past(until_ms, now_ms):
                await self._store.remove_mute(user_id, conversation_id)

    def _one_by_one(self, user_id: str) -> asyncio.Lock:
        lock = self._locks.get(user_id)
        if lock is None:
            lock = self._locks[user_id] = asyncio.Lock()
        return lock


def _is_past(until_ms: int, now_ms: int) -> bool:
    return until_ms != FOREVER_MS and until_ms <= now_ms


@cache
def _time_zones() -> frozenset[str]:
    return frozenset(available_timezones()) - _NO_ZONES
