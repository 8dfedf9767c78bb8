"""Push's store and delivery log in memory, providers that answer as a test has them, and what messaging and the directory say."""

import asyncio
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

from discovery.errors import Unavailable
from services.ports.push_provider import Outcome, Verdict, WakeUp
from services.ports.push_store import (
    DeliveryRow,
    Platform,
    PushPreferences,
    PushSettingsRow,
    PushTokenRow,
)
from services.push.unread import Unread


class MemoryPushStore:
    """services.ports.push_store.PushStore; `away`: it raises."""

    def __init__(self) -> None:
        self.away = False
        self.rows: dict[tuple[str, str], PushTokenRow] = {}
        self.settings: dict[str, PushSettingsRow] = {}
        self.mutes: defaultdict[str, dict[str, int]] = defaultdict(dict)
        self.asked = 0

    def register(self, user_id: str, device_id: str = "phone", platform: Platform = Platform.IOS) -> PushTokenRow:
        """The user's device has a token."""
        row = PushTokenRow(user_id, device_id, platform, f"token of {user_id} {device_id}", 0)
        self.rows[user_id, device_id] = row
        return row

    async def put_token(self, row: PushTokenRow, most: int) -> bool:
        await self._check()
        mine = [key for key in self.rows if key[0] == row.user_id and key[1] != row.device_id]
        if len(mine) >= most:
            return False
        others = [key for key, other in self.rows.items() if (other.platform, other.token) == (row.platform, row.token)]
        for key in others:
            del self.rows[key]
        self.rows[row.user_id, row.device_id] = row
        return True

    async def tokens(self, user_ids: Collection[str]) -> Mapping[str, Sequence[PushTokenRow]]:
        await self._check()
        asked = set(user_ids)
        found: defaultdict[str, list[PushTokenRow]] = defaultdict(list)
        for (user_id, _), row in sorted(self.rows.items()):
            if user_id in asked:
                found[user_id].append(row)
        return found

    async def remove_token(self, user_id: str, device_id: str, token: str | None = None) -> bool:
        await self._check()
        row = self.rows.get((user_id, device_id))
        if row is None or token not in (None, row.token):
            return False
        del self.rows[user_id, device_id]
        return True

    async def preferences(self, user_ids: Collection[str]) -> Mapping[str, PushPreferences]:
        await self._check()
        return {
            user_id: PushPreferences(
                self.settings.get(user_id, PushSettingsRow(user_id)), dict(self.mutes.get(user_id, {}))
            )
            for user_id in user_ids
        }

    async def put_settings(self, row: PushSettingsRow) -> None:
        await self._check()
        self.settings[row.user_id] = row

    async def put_mute(self, user_id: str, conversation_id: str, until_ms: int, most: int) -> bool:
        await self._check()
        mutes = self.mutes[user_id]
        if conversation_id not in mutes and len(mutes) >= most:
            return False
        mutes[conversation_id] = until_ms
        return True

    async def remove_mute(self, user_id: str, conversation_id: str) -> bool:
        await self._check()
        return self.mutes[user_id].pop(conversation_id, None) is not None

    async def close(self) -> None:
        """Nothing to let go of."""

    async def _check(self) -> None:
        for _ in range(3):  # as one that has to ask somebody
            await asyncio.sleep(0)
        self.asked += 1
        if self.away:
            raise Unavailable("The store is away.")


class MemoryDeliveryLog:
    """services.ports.push_store.DeliveryLog, without its bound; `away`: it raises."""

    def __init__(self) -> None:
        self.away = False
        self.rows: dict[tuple[str, str, str], DeliveryRow] = {}

    async def record(self, rows: Sequence[DeliveryRow]) -> None:
        if self.away:
            raise Unavailable("The delivery log is away.")
        for row in rows:
            self.rows[row.user_id, row.device_id, row.push_id] = row

    async def read(
        self, user_id: str, device_id: str, before: tuple[int, str] | None, limit: int
    ) -> Sequence[DeliveryRow]:
        mine = [row for key, row in self.rows.items() if key[:2] == (user_id, device_id)]
        mine.sort(key=lambda row: (row.at_ms, row.push_id), reverse=True)
        return [row for row in mine if before is None or (row.at_ms, row.push_id) < before][:limit]

    async def forget(self, user_id: str, device_id: str) -> None:
        for key in [key for key in self.rows if key[:2] == (user_id, device_id)]:
            del self.rows[key]

    async def close(self) -> None:
        """Nothing to let go of."""

    def fates(self) -> Counter[str]:
        """How many entries there are of each fate and reason."""
        return Counter(f"{row.fate.name} {row.reason}".strip() for row in self.rows.values())


ACCEPTED = Verdict(Outcome.ACCEPTED)
Script = Callable[[WakeUp], Verdict | None]


@dataclass(slots=True)
class ScriptedProvider:
    """services.ports.push_provider.PushProvider: answers as `script` says; None: it hangs until `release` is set."""

    script: Script = lambda _: ACCEPTED
    asked: list[WakeUp] = field(default_factory=list)
    sent: list[WakeUp] = field(default_factory=list)
    at_once: int = 0
    most_at_once: int = 0
    release: asyncio.Event = field(default_factory=asyncio.Event)
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    async def send(self, wake_up: WakeUp) -> Verdict:
        self.asked.append(wake_up)
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        self._touch()
        try:
            await asyncio.sleep(0)
            verdict = self.script(wake_up)
            if verdict is None:
                await self.release.wait()
                verdict = ACCEPTED
        finally:
            self.at_once -= 1
        if verdict.outcome is Outcome.ACCEPTED:
            self.sent.append(wake_up)
        self._touch()
        return verdict

    async def close(self) -> None:
        """Nothing to let go of."""

    async def until(self, true: Callable[[], bool]) -> None:
        """Returns when the condition holds; it is looked at after each attempt begins and ends."""
        async with asyncio.timeout(30):
            while not true():
                await self.changed.wait()

    def _touch(self) -> None:
        self.changed.set()
        self.changed = asyncio.Event()


@dataclass(slots=True)
class Marks:
    """services.push.unread.UnreadReader; `away`: it raises."""

    total: int = 7
    seen: dict[tuple[str, str], int] = field(default_factory=dict)
    away: bool = False
    asked: int = 0

    async def unread(self, user_id: str, conversation_ids: Collection[str]) -> Unread:
        self.asked += 1
        if self.away:
            raise Unavailable("Messaging is away.")
        return Unread(self.total, {each: self.seen.get((user_id, each), 0) for each in conversation_ids})


@dataclass(slots=True)
class NameBook:
    """services.push.names.NameReader; `away`: it raises."""

    users: dict[str, str] = field(default_factory=dict)
    groups: dict[str, str] = field(default_factory=dict)
    away: bool = False
    asked: int = 0

    async def user_name(self, user_id: str) -> str:
        return self._answer(self.users.get(user_id, ""))

    async def group_name(self, conversation_id: str, member_id: str) -> str:
        return self._answer(self.groups.get(conversation_id, ""))

    def _answer(self, name: str) -> str:
        self.asked += 1
        if self.away:
            raise Unavailable("The directory is away.")
        return name
