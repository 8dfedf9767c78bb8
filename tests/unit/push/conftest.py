"""The push service over its embedded engines, with a sender that does as it is told and a clock that stands still."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from hither.push.v1 import push_pb2
from hither.push.v1 import push_service_pb2 as pb
from services.ports.push_provider import Verdict, WakeUp
from services.ports.push_store import DeliveryLog, DeliveryRow, Fate, PushStore, PushTokenRow
from services.push.service import Push
from services.push.settings import PushSettings
from services.storage.sql.directory import sqlite_url
from services.storage.sql.push import SqlPushStore
from services.storage.sql.push_deliveries import SqlDeliveryLog
from tests.support.clock import ManualClock

SETTINGS = PushSettings(most_tokens=3, most_mutes=3)


class Sender:
    """A pipeline that has a provider's answer to every test, and remembers what it was to send."""

    def __init__(self, clock: ManualClock) -> None:
        self.asked: list[PushTokenRow] = []
        self.has_provider = True
        self._clock = clock

    async def send_test(self, token: PushTokenRow) -> DeliveryRow:
        """See TestSender."""
        self.asked.append(token)
        row = delivery(f"test{len(self.asked)}", self._clock.now_ms(), token.user_id, token.device_id, kind="test")
        return row if self.has_provider else replace(row, fate=Fate.DROPPED, reason="NO_PROVIDER")

    async def run(self) -> None:
        """See Pipeline."""
        await asyncio.Event().wait()

    async def handed_over(self) -> None:
        """See Pipeline."""


def delivery(
    push_id: str, at_ms: int, user_id: str = "ann", device_id: str = "phone", kind: str = "direct"
) -> DeliveryRow:
    return DeliveryRow(user_id, device_id, push_id, at_ms, Fate.REFUSED, "BadTopic", kind, "d.1", 3, "c1", 2, 45)


class Provider:
    """A provider that is only closed."""

    def __init__(self) -> None:
        self.is_closed = False

    async def send(self, wake_up: WakeUp) -> Verdict:
        """See PushProvider."""
        raise AssertionError("the pipeline of these tests sends by none")

    async def close(self) -> None:
        """See PushProvider."""
        self.is_closed = True


class PushDesk:
    """Calls the service as its callers do."""

    def __init__(self, store: PushStore, log: DeliveryLog) -> None:
        self.store = store
        self.log = log
        self.clock = ManualClock()
        self.sender = Sender(self.clock)
        self.provider = Provider()
        self.push = Push(store, log, self.sender, [self.provider], self.clock, SETTINGS, "BKey")
        self.servicer = self.push.servicer

    async def register(
        self,
        token: str,
        device_id: str = "phone",
        user_id: str = "ann",
        platform: push_pb2.PushPlatform.ValueType = push_pb2.PUSH_PLATFORM_ANDROID,
    ) -> None:
        request = pb.RegisterPushTokenRequest(user_id=user_id, device_id=device_id, platform=platform, token=token)
        await self.servicer.RegisterPushToken(request, None)

    async def tokens(self, page_size: int = 0, page_token: str = "", user_id: str = "ann") -> pb.ListPushTokensResponse:
        request = pb.ListPushTokensRequest(user_id=user_id, page_size=page_size, page_token=page_token)
        return await self.servicer.ListPushTokens(request, None)

    async def devices(self, user_id: str = "ann") -> list[str]:
        return [token.device_id for token in (await self.tokens(user_id=user_id)).tokens]

    async def update(self, **fields: object) -> push_pb2.PushSettings:
        request = pb.UpdatePushSettingsRequest(user_id="ann", **fields)  # type: ignore[arg-type]
        return (await self.servicer.UpdatePushSettings(request, None)).settings

    async def settings(self, user_id: str = "ann") -> push_pb2.PushSettings:
        request = pb.GetPushSettingsRequest(user_id=user_id)
        return (await self.servicer.GetPushSettings(request, None)).settings

    async def mute(self, conversation_id: str, until_ms: int | None = None) -> push_pb2.PushMute:
        request = pb.MuteConversationRequest(user_id="ann", conversation_id=conversation_id)
        if until_ms is not None:
            request.until.FromMilliseconds(until_ms)
        return (await self.servicer.MuteConversation(request, None)).mute

    async def mutes(self, page_size: int = 0, page_token: str = "") -> pb.ListMutesResponse:
        request = pb.ListMutesRequest(user_id="ann", page_size=page_size, page_token=page_token)
        return await self.servicer.ListMutes(request, None)

    async def muted(self) -> list[str]:
        return [mute.conversation_id for mute in (await self.mutes()).mutes]

    async def test(self, device_id: str = "phone", user_id: str = "ann") -> push_pb2.PushDelivery:
        request = pb.SendTestPushRequest(user_id=user_id, device_id=device_id)
        return (await self.servicer.SendTestPush(request, None)).delivery

    async def deliveries(
        self, page_size: int = 0, page_token: str = "", user_id: str = "ann", device_id: str = "phone"
    ) -> pb.ListPushDeliveriesResponse:
        request = pb.ListPushDeliveriesRequest(
            user_id=user_id, device_id=device_id, page_size=page_size, page_token=page_token
        )
        return await self.servicer.ListPushDeliveries(request, None)

    async def record(self, *rows: DeliveryRow) -> Sequence[DeliveryRow]:
        await self.log.record(rows)
        return rows


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[PushDesk]:
    url = sqlite_url(tmp_path / "push.db")
    store, log = await SqlPushStore.open(url), await SqlDeliveryLog.open(url)
    yield PushDesk(store, log)
    await log.close()
    await store.close()
