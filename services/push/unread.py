"""What a user has not read: asked just before a push is sent, for its badge and to cancel what was read elsewhere meanwhile."""

import asyncio
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Protocol

from discovery.clock import Clock
from discovery.errors import HitherError
from discovery.mesh import Mesh
from hither.messaging.v1.messaging_service_pb2 import GetUnreadRequest
from hither.messaging.v1.messaging_service_pb2_grpc import MessagingServiceStub
from services.push import metrics
from services.push.pipeline_settings import PushPipelineSettings


@dataclass(frozen=True, slots=True)
class Unread:
    """What a user has not read. `total`: messages, in all conversations. `seen`: conversation to the seq up to which it is read."""

    total: int
    seen: Mapping[str, int]


class UnreadReader(Protocol):
    """Messaging, as push needs it."""

    async def unread(self, user_id: str, conversation_ids: Collection[str]) -> Unread:
        """What the user has not read, with the marks of these conversations. Raises HitherError."""


class MessagingUnread:
    """UnreadReader over the mesh."""

    def __init__(self, mesh: Mesh, timeout_s: float) -> None:
        self._messaging = mesh.stub(MessagingServiceStub)
        self._timeout_s = timeout_s

    async def unread(self, user_id: str, conversation_ids: Collection[str]) -> Unread:
        """See UnreadReader."""
        request = GetUnreadRequest(user_id=user_id, conversation_ids=conversation_ids)
        response = await self._messaging.GetUnread(request, timeout=self._timeout_s)
        return Unread(response.unread_count, dict(zip(conversation_ids, response.seen_seqs, strict=True)))


class Glance:
    """What is unread of one user, for the pushes of one plan: asked once for all devices, and again when that is some seconds ago."""

    __slots__ = ("_asked_s", "_conversation_id", "_glances", "_lock", "_unread", "_user_id")

    def __init__(self, glances: "Glances", user_id: str, conversation_id: str) -> None:
        self._glances = glances
        self._user_id = user_id
        self._conversation_id = conversation_id
        self._unread: Unread | None = None
        self._asked_s: float | None = None
        self._lock = asyncio.Lock()

    async def look(self) -> Unread | None:
        """What is unread; None if messaging does not say."""
        async with self._lock:
            now_s = self._glances.clock.monotonic_s()
            if self._asked_s is None or now_s - self._asked_s >= self._glances.fresh_s:
                self._unread = await self._glances.ask(self._user_id, self._conversation_id)
                self._asked_s = now_s
            return self._unread


class Glances:
    """Asks messaging; leaves it alone for a moment after it failed, so that pushes do not wait for it one by one."""

    def __init__(self, reader: UnreadReader, clock: Clock, settings: PushPipelineSettings) -> None:
        self.clock = clock
        self.fresh_s = settings.unread_fresh_s
        self._reader = reader
        self._timeout_s = settings.unread_timeout_s
        self._not_before_s = 0.0

    def of(self, user_id: str, conversation_id: str) -> Glance:
        """A glance at the user's conversation; nothing is asked yet."""
        return Glance(self, user_id, conversation_id)

    async def ask(self, user_id: str, conversation_id: str) -> Unread | None:
        """Asks; None if it fails."""
        if self.clock.monotonic_s() < self._not_before_s:
            return None
        try:
            async with asyncio.timeout(self._timeout_s):
                return await self._reader.unread(user_id, (conversation_id,))
        except (HitherError, TimeoutError):
            metrics.ENGINE_FAILURES.labels("unread").inc()
            self._not_before_s = self.clock.monotonic_s() + self._timeout_s
            return None
