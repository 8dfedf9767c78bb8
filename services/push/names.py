"""What senders and groups are called, as the directory says, remembered for a while. A push does not wait long for a name."""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Protocol

from discovery.clock import Clock
from discovery.errors import DeadlineExceeded, HitherError, Unavailable
from discovery.mesh import Mesh
from hither.directory.v1 import directory_service_pb2 as pb
from hither.directory.v1.directory_service_pb2_grpc import DirectoryServiceStub
from services.push import metrics
from services.push.pipeline_settings import PushPipelineSettings


class NameReader(Protocol):
    """The directory, as push needs it. Raises HitherError."""

    async def user_name(self, user_id: str) -> str:
        """What the user is called; empty if nobody is."""

    async def group_name(self, conversation_id: str, member_id: str) -> str:
        """What the group is called for a member; empty if it has no name."""


class DirectoryNames:
    """Asks the directory's owner over the mesh."""

    def __init__(self, mesh: Mesh, timeout_s: float) -> None:
        self._directory = mesh.stub(DirectoryServiceStub)
        self._timeout_s = timeout_s

    async def user_name(self, user_id: str) -> str:
        """See NameReader."""
        response = await self._directory.FindNames(pb.FindNamesRequest(user_ids=[user_id]), timeout=self._timeout_s)
        return next((found.name for found in response.names), "")

    async def group_name(self, conversation_id: str, member_id: str) -> str:
        """See NameReader."""
        request = pb.ResolveConversationRequest(conversation_id=conversation_id, sender_id=member_id)
        response = await self._directory.ResolveConversation(request, timeout=self._timeout_s)
        return response.name


class Names:
    """Remembered names. While the directory does not answer an old name serves, or none."""

    def __init__(self, reader: NameReader, clock: Clock, settings: PushPipelineSettings) -> None:
        self._reader = reader
        self._clock = clock
        self._settings = settings
        self._users: OrderedDict[str, tuple[str, float]] = OrderedDict()
        self._groups: OrderedDict[str, tuple[str, float]] = OrderedDict()
        self._one_at_a_time = asyncio.Lock()
        self._not_before_s = 0.0

    async def user(self, user_id: str) -> str:
        """The name of the user, or empty."""
        return await self._find(self._users, user_id, lambda: self._reader.user_name(user_id))

    async def group(self, conversation_id: str, member_id: str) -> str:
        """The name of the group, or empty."""
        return await self._find(
            self._groups, conversation_id, lambda: self._reader.group_name(conversation_id, member_id)
        )

    async def _find(
        self, names: OrderedDict[str, tuple[str, float]], key: str, ask: Callable[[], Awaitable[str]]
    ) -> str:
        known = names.get(key)
        if known is not None and self._clock.monotonic_s() < known[1]:
            return known[0]
        async with self._one_at_a_time:  # who waited finds what the first one asked for
            known = names.get(key)
            now_s = self._clock.monotonic_s()
            if (known is not None and now_s < known[1]) or now_s < self._not_before_s:
                return known[0] if known else ""
            return await self._ask(names, key, ask)

    async def _ask(
        self, names: OrderedDict[str, tuple[str, float]], key: str, ask: Callable[[], Awaitable[str]]
    ) -> str:
        try:
            async with asyncio.timeout(self._settings.unread_timeout_s):
                name = await ask()
        except (Unavailable, DeadlineExceeded, TimeoutError):
            metrics.ENGINE_FAILURES.labels("names").inc()
            self._not_before_s = self._clock.monotonic_s() + self._settings.unread_timeout_s
            return names.get(key, ("", 0.0))[0]
        except HitherError:  # of a group that the user has left, say
            return ""
        names[key] = name, self._clock.monotonic_s() + self._settings.names_ttl_s
        names.move_to_end(key)
        if len(names) > self._settings.most_names:
            names.popitem(last=False)
        return name
