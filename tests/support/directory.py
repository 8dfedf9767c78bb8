"""A directory over a SQLite file, with a clock that stands still and a bus that remembers."""

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar, cast

from google.protobuf.message import Message

from discovery.errors import Unavailable
from discovery.ids import Snowflakes
from discovery.rpc.call import ANONYMOUS, Call, Caller, Role
from discovery.rpc.dispatcher import Dispatcher
from hither.directory.v1 import directory_service_pb2 as pb
from services.directory.ports import DirectoryStore
from services.directory.service import Directory
from services.directory.settings import DirectorySettings
from services.directory.tokens import TokenIssuer, generate_keys
from services.ports.bus import Handler, OnGap, Subscription
from services.storage.sql.directory import SqlDirectoryStore, sqlite_url
from tests.support.clock import ManualClock

if TYPE_CHECKING:
    from discovery.mesh import Mesh

CLUSTER = "test-cluster"
_SERVICE = "hither.directory.v1.DirectoryService"
PASSWORD = "correct horse"
QUICK = DirectorySettings(hash_passes=1, hash_memory_kib=8)
"""Settings with hashes that take no time."""

Q = TypeVar("Q", bound=Message)
A = TypeVar("A")


class RememberingBus:
    """Keeps what is published; can be switched off."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.is_down = False

    async def publish(self, topic: str, payload: bytes) -> None:
        """See Bus."""
        if self.is_down:
            raise Unavailable()
        assert topic == "directory.changes"
        self.lines += payload.decode().splitlines()

    async def subscribe(self, topic: str, handler: Handler, on_gap: OnGap | None = None) -> Subscription:
        """Not needed here."""
        raise NotImplementedError

    async def close(self) -> None:
        """See Bus."""


class DirectoryDesk:
    """Calls the directory in anybody's name."""

    def __init__(self, store: DirectoryStore, settings: DirectorySettings) -> None:
        self.store = store
        self.settings = settings
        self.clock = ManualClock()
        self.bus = RememberingBus()
        self.keys = generate_keys()
        issuer = TokenIssuer(self.keys.private_pem, CLUSTER, self.clock)
        no_mesh = cast("Mesh", None)
        self.directory = Directory(no_mesh, store, self.bus, issuer, Snowflakes(1, self.clock), self.clock, settings)
        self.servicer = self.directory.servicer
        self._dispatcher = Dispatcher()
        self._dispatcher.add(self.servicer, _SERVICE)

    async def call(self, method: Callable[[Q, object], Awaitable[A]], request: Q, caller: Caller) -> A:
        """One call, with its own identity."""
        path = f"/{_SERVICE}/{method.__name__}"
        call = Call(path, caller, time.monotonic() + 5, "trace")
        return cast(A, await self._dispatcher.dispatch(path, request, call))

    async def by(self, user_id: str, method: Callable[[Q, object], Awaitable[A]], request: Q) -> A:
        """A call of a signed-in user."""
        return await self.call(method, request, Caller(Role.USER, user_id=user_id, device_id="phone"))

    async def by_service(self, method: Callable[[Q, object], Awaitable[A]], request: Q) -> A:
        """A call of a service."""
        return await self.call(method, request, Caller(Role.SERVICE, service="messaging"))

    async def by_nobody(self, method: Callable[[Q, object], Awaitable[A]], request: Q) -> A:
        """A call without credentials."""
        return await self.call(method, request, ANONYMOUS)

    async def sign_up(self, *user_ids: str) -> None:
        """Accounts with PASSWORD, and the id with a capital for a name."""
        for user_id in user_ids:
            await self.by_nobody(
                self.servicer.CreateUser,
                pb.CreateUserRequest(user_id=user_id, name=user_id.capitalize(), password=PASSWORD),
            )

    async def sign_in(
        self, user_id: str, password: str = PASSWORD, device_id: str = "phone"
    ) -> pb.CreateSessionResponse:
        """A session of the user."""
        return await self.by_nobody(
            self.servicer.CreateSession,
            pb.CreateSessionRequest(user_id=user_id, password=password, device_id=device_id),
        )

    async def befriend(self, user_id: str, *friend_ids: str) -> None:
        """Makes the user and each of the others friends."""
        for friend_id in friend_ids:
            await self.by(user_id, self.servicer.AddFriend, pb.AddFriendRequest(friend_id=friend_id))
            await self.by(friend_id, self.servicer.AddFriend, pb.AddFriendRequest(friend_id=user_id))

    async def group(self, founder_id: str, *member_ids: str, name: str = "Group", request_id: str = "") -> str:
        """A new group of the founder and friends; its id."""
        made = await self.by(
            founder_id,
            self.servicer.CreateConversation,
            pb.CreateConversationRequest(name=name, member_ids=member_ids, request_id=request_id),
        )
        return made.conversation.conversation_id


@asynccontextmanager
async def directory_desk(folder: Path, settings: DirectorySettings = QUICK) -> AsyncIterator[DirectoryDesk]:
    """A directory whose database is in the folder."""
    async with desk_over(await SqlDirectoryStore.open(sqlite_url(folder / "directory.db")), settings) as desk:
        yield desk


@asynccontextmanager
async def desk_over(store: DirectoryStore, settings: DirectorySettings = QUICK) -> AsyncIterator[DirectoryDesk]:
    """A directory over the store, which it closes."""
    desk = DirectoryDesk(store, settings)
    try:
        yield desk
    finally:
        desk.directory.close()
        await store.close()
