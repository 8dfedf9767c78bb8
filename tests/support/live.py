"""Live-location sessions in memory, and the services that they ask and tell, for tests of one process."""

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

from discovery.errors import HitherError, PermissionDenied
from hither.directory.v1.directory_service_pb2 import ResolveConversationRequest, ResolveConversationResponse
from hither.location.v1.location_service_pb2 import EndLiveLocationRequest, EndLiveLocationResponse
from hither.messaging.v1.messaging_service_pb2 import PostMessageRequest, PostMessageResponse
from services.ports.live_session_store import Ending, LiveSessionRow


class MemoryLiveSessions:
    """services.ports.live_session_store.LiveSessionStore, of as many processes as share it."""

    def __init__(self) -> None:
        self.rows: dict[str, LiveSessionRow] = {}
        self.fails: HitherError | None = None

    async def add(self, row: LiveSessionRow) -> LiveSessionRow:
        self._check()
        return self.rows.setdefault(row.session_id, row)

    async def replace(self, before: LiveSessionRow, after: LiveSessionRow) -> bool:
        self._check()
        stands = self.rows.get(before.session_id)
        if stands is None or stands.version != before.version:
            return False
        self.rows[before.session_id] = replace(after, version=before.version + 1)
        return True

    async def find(self, session_id: str) -> LiveSessionRow | None:
        self._check()
        return self.rows.get(session_id)

    async def active_in(self, conversation_id: str, limit: int) -> Sequence[LiveSessionRow]:
        self._check()
        rows = [row for _, row in sorted(self.rows.items()) if row.conversation_id == conversation_id]
        return [row for row in rows if row.ending is Ending.NONE][:limit]

    async def open_in(self, partition: int, after_session_id: str, limit: int) -> Sequence[LiveSessionRow]:
        self._check()
        rows = [row for _, row in sorted(self.rows.items()) if row.partition == partition and not row.told]
        return [row for row in rows if row.session_id > after_session_id][:limit]

    async def purge(self, before_ms: int, limit: int) -> int:
        self._check()
        old = [name for name, row in self.rows.items() if row.told and row.keep_until_ms < before_ms][:limit]
        for name in old:
            del self.rows[name]
        return len(old)

    async def close(self) -> None:
        """Nothing to let go of."""

    def _check(self) -> None:
        if self.fails is not None:
            raise self.fails


class FakeDirectory:
    """Members by conversation; `fails` is what everybody gets while it is set."""

    def __init__(self) -> None:
        self.members: defaultdict[str, list[str]] = defaultdict(list)
        self.fails: HitherError | None = None
        self.asked = 0

    async def ResolveConversation(
        self, request: ResolveConversationRequest, context: object
    ) -> ResolveConversationResponse:
        self.asked += 1
        if self.fails is not None:
            raise self.fails
        members = self.members[request.conversation_id]
        if request.sender_id not in members:
            raise PermissionDenied(reason="NOT_A_MEMBER")
        return ResolveConversationResponse(member_ids=members)


class FakeMessaging:
    """Keeps what was posted, each client id once."""

    def __init__(self) -> None:
        self.posted: dict[tuple[str, str, str], PostMessageRequest] = {}
        self.fails: HitherError | None = None

    async def PostMessage(self, request: PostMessageRequest, context: object) -> PostMessageResponse:
        if self.fails is not None:
            raise self.fails
        self.posted.setdefault((request.conversation_id, request.sender_id, request.client_id), request)
        return PostMessageResponse(message_id=1, seq=len(self.posted))


class FakeLocation:
    """Remembers which sessions it was told have ended."""

    def __init__(self) -> None:
        self.ended: list[EndLiveLocationRequest] = []
        self.heard = asyncio.Event()
        self.fails: HitherError | None = None

    async def EndLiveLocation(self, request: EndLiveLocationRequest, context: object) -> EndLiveLocationResponse:
        if self.fails is not None:
            raise self.fails
        self.ended.append(request)
        self.heard.set()
        return EndLiveLocationResponse()
