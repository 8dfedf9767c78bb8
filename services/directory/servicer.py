"""DirectoryService: takes each request apart, runs what it asks for as one transaction, and puts the answer together."""

from collections.abc import Awaitable, Callable
from typing import TypeVar

from google.protobuf.message import Message

from discovery.clock import Clock
from discovery.errors import PermissionDenied
from discovery.ids import Snowflakes
from discovery.rpc.call import current_call
from hither.directory.v1 import directory_service_pb2 as pb
from hither.directory.v1.directory_service_pb2_grpc import DirectoryServiceServicer
from services.directory import accounts, answers, conversations, friends
from services.directory.accounts import SignIn
from services.directory.changes import Changes, News
from services.directory.errors import check_text
from services.directory.model import AnswerKey, Conversation, Kind, User
from services.directory.passwords import Passwords
from services.directory.ports import DirectoryStore, Tables
from services.directory.settings import DirectorySettings
from services.directory.wire import (
    conversation_message,
    friendship_message,
    kind_value,
    side_of,
    timestamp,
    user_message,
)
from services.paging import decode_token, encode_token

M = TypeVar("M", bound=Message)


class DirectoryServicer(DirectoryServiceServicer):
    """See hither/directory/v1/directory_service.proto for what each method does and refuses."""

    def __init__(
        self,
        store: DirectoryStore,
        changes: Changes,
        passwords: Passwords,
        sign_in: SignIn,
        snowflakes: Snowflakes,
        clock: Clock,
        settings: DirectorySettings,
    ) -> None:
        self._store = store
        self._changes = changes
        self._passwords = passwords
        self._sign_in = sign_in
        self._snowflakes = snowflakes
        self._clock = clock
        self._settings = settings

    async def CreateUser(self, request: pb.CreateUserRequest, context: object) -> pb.CreateUserResponse:
        """See the contract."""
        check_text("name", request.name)
        check_text("request_id", request.request_id)
        # Nobody is signed in yet: the id is the caller's as the user that it becomes.
        key = AnswerKey(request.user_id, current_call().method, request.request_id)

        async def look(tables: Tables) -> pb.CreateUserResponse | None:
            earlier = await answers.find(tables, key, request, pb.CreateUserResponse)
            if earlier is None:
                await accounts.check_free(tables, request.user_id)
            return earlier

        # Looked up first, so that hashing is not wasted on who is there already.
        earlier = await self._store.read(look)
        if earlier is not None:
            return earlier
        password_hash = await self._passwords.hash(request.password)

        async def make(tables: Tables, _news: News) -> pb.CreateUserResponse:
            user = User(request.user_id, request.name, self._clock.now_ms())
            return pb.CreateUserResponse(user=user_message(await accounts.sign_up(tables, user, password_hash)))

        return await self._once(key, request, pb.CreateUserResponse, make)

    async def GetUser(self, request: pb.GetUserRequest, context: object) -> pb.GetUserResponse:
        """See the contract."""
        caller_id = _caller_id()
        user = await self._store.read(lambda tables: accounts.see(tables, caller_id, request.user_id))
        return pb.GetUserResponse(user=user_message(user))

    async def CreateSession(self, request: pb.CreateSessionRequest, context: object) -> pb.CreateSessionResponse:
        """See the contract."""
        grant = await self._sign_in.by_password(request.user_id, request.password, request.device_id)
        return pb.CreateSessionResponse(
            access_token=grant.access_token,
            refresh_token=grant.refresh_token,
            expires_at=timestamp(grant.expires_at_ms),
        )

    async def RefreshSession(self, request: pb.RefreshSessionRequest, context: object) -> pb.RefreshSessionResponse:
        """See the contract."""
        grant = await self._sign_in.by_refresh_token(request.refresh_token)
        return pb.RefreshSessionResponse(
            access_token=grant.access_token,
            refresh_token=grant.refresh_token,
            expires_at=timestamp(grant.expires_at_ms),
        )

    async def AddFriend(self, request: pb.AddFriendRequest, context: object) -> pb.AddFriendResponse:
        """See the contract."""
        caller_id, now_ms = _caller_id(), self._clock.now_ms()
        stands = await self._changes.write(
            lambda tables, news: friends.ask(
                tables, news, caller_id, request.friend_id, now_ms, self._settings.friends_most
            )
        )
        return pb.AddFriendResponse(friendship=friendship_message(stands))

    async def RemoveFriend(self, request: pb.RemoveFriendRequest, context: object) -> pb.RemoveFriendResponse:
        """See the contract."""
        caller_id, now_ms = _caller_id(), self._clock.now_ms()
        await self._changes.write(lambda tables, news: friends.end(tables, news, caller_id, request.friend_id, now_ms))
        return pb.RemoveFriendResponse()

    async def ListFriends(self, request: pb.ListFriendsRequest, context: object) -> pb.ListFriendsResponse:
        """See the contract."""
        caller_id = _caller_id()
        side = side_of(request.state)
        sides = friends.SHOWN_BY_DEFAULT if side is None else frozenset({side})
        list_name = f"friends/{caller_id}/{request.state}"
        place = decode_token(list_name, request.page_token, 1)
        after_id = place[0] if place else ""
        limit = request.page_size or self._settings.page_size
        found = await self._store.read(lambda tables: tables.friendships.page(caller_id, sides, after_id, limit + 1))
        page = found[:limit]
        return pb.ListFriendsResponse(
            friendships=[friendship_message(entry) for entry in page],
            next_page_token=encode_token(list_name, page[-1].friend.user_id) if len(found) > limit else "",
        )

    async def BlockUser(self, request: pb.BlockUserRequest, context: object) -> pb.BlockUserResponse:
        """See the contract."""
        caller_id, now_ms = _caller_id(), self._clock.now_ms()
        await self._changes.write(
            lambda tables, news: friends.block(tables, news, caller_id, request.blocked_id, now_ms)
        )
        return pb.BlockUserResponse()

    async def UnblockUser(self, request: pb.UnblockUserRequest, context: object) -> pb.UnblockUserResponse:
        """See the contract."""
        caller_id, now_ms = _caller_id(), self._clock.now_ms()
        await self._changes.write(
            lambda tables, news: friends.unblock(tables, news, caller_id, request.blocked_id, now_ms)
        )
        return pb.UnblockUserResponse()

    async def CreateConversation(
        self, request: pb.CreateConversationRequest, context: object
    ) -> pb.CreateConversationResponse:
        """See the contract."""
        caller_id = _caller_id()
        check_text("name", request.name)
        check_text("request_id", request.request_id)
        key = AnswerKey(caller_id, current_call().method, request.request_id)
        group = Conversation(f"g.{self._snowflakes.next()}", Kind.GROUP, request.name, self._clock.now_ms(), members=())

        async def make(tables: Tables, news: News) -> pb.CreateConversationResponse:
            made = await conversations.create(
                tables, news, caller_id, group, tuple(request.member_ids), self._settings.members_most
            )
            return pb.CreateConversationResponse(conversation=conversation_message(made))

        return await self._once(key, request, pb.CreateConversationResponse, make)

    async def GetConversation(self, request: pb.GetConversationRequest, context: object) -> pb.GetConversationResponse:
        """See the contract."""
        caller_id = _caller_id()
        found = await self._store.read(lambda tables: conversations.get(tables, caller_id, request.conversation_id))
        return pb.GetConversationResponse(conversation=conversation_message(found))

    async def ListConversations(
        self, request: pb.ListConversationsRequest, context: object
    ) -> pb.ListConversationsResponse:
        """See the contract."""
        caller_id = _caller_id()
        list_name = f"conversations/{caller_id}"
        place = decode_token(list_name, request.page_token, 2)
        before = (int(place[0]), place[1]) if place else None
        limit = request.page_size or self._settings.page_size
        found = await self._store.read(lambda tables: tables.conversations.page(caller_id, before, limit + 1))
        page = found[:limit]
        more = len(found) > limit
        return pb.ListConversationsResponse(
            conversations=[conversation_message(conversation) for conversation in page],
            next_page_token=encode_token(list_name, str(page[-1].create_time_ms), page[-1].conversation_id)
            if more
            else "",
        )

    async def AddMembers(self, request: pb.AddMembersRequest, context: object) -> pb.AddMembersResponse:
        """See the contract."""
        caller_id, now_ms = _caller_id(), self._clock.now_ms()
        group = await self._changes.write(
            lambda tables, news: conversations.add_members(
                tables,
                news,
                caller_id,
                request.conversation_id,
                tuple(request.member_ids),
                now_ms,
                self._settings.members_most,
            )
        )
        return pb.AddMembersResponse(conversation=conversation_message(group))

    async def RemoveMember(self, request: pb.RemoveMemberRequest, context: object) -> pb.RemoveMemberResponse:
        """See the contract."""
        caller_id = _caller_id()
        await self._changes.write(
            lambda tables, news: conversations.remove_member(
                tables, news, caller_id, request.conversation_id, request.member_id
            )
        )
        return pb.RemoveMemberResponse()

    async def ResolveConversation(
        self, request: pb.ResolveConversationRequest, context: object
    ) -> pb.ResolveConversationResponse:
        """See the contract."""
        place = (request.conversation_id, request.sender_id, request.peer_id)
        found = await self._store.read(lambda tables: conversations.resolve(tables, *place))
        if found is None:
            now_ms = self._clock.now_ms()
            found = await self._changes.write(lambda tables, _news: conversations.make_direct(tables, *place, now_ms))
        return pb.ResolveConversationResponse(
            kind=kind_value(found.kind), member_ids=[member.user_id for member in found.members], name=found.name
        )

    async def FindNames(self, request: pb.FindNamesRequest, context: object) -> pb.FindNamesResponse:
        """See the contract."""
        users = await self._store.read(lambda tables: tables.users.find(request.user_ids))
        return pb.FindNamesResponse(
            names=(pb.UserName(user_id=user.user_id, name=user.name) for user in users.values())
        )

    async def ListFriendIds(self, request: pb.ListFriendIdsRequest, context: object) -> pb.ListFriendIdsResponse:
        """See the contract."""
        found = await self._store.read(
            lambda tables: tables.friendships.friend_ids(request.user_id, self._settings.friends_most)
        )
        return pb.ListFriendIdsResponse(friend_ids=found)

    async def FindBlocks(self, request: pb.FindBlocksRequest, context: object) -> pb.FindBlocksResponse:
        """See the contract."""
        found = await self._store.read(lambda tables: friends.find_blocked(tables, request.user_id, request.other_ids))
        return pb.FindBlocksResponse(blocked_ids=found)

    async def _once(
        self, key: AnswerKey, request: Message, kind: type[M], make: Callable[[Tables, News], Awaitable[M]]
    ) -> M:
        """Runs a mutation, or answers as it was answered before under the same request id."""
        now_ms = self._clock.now_ms()
        return await self._changes.write(
            lambda tables, news: answers.once(tables, key, request, now_ms, lambda: make(tables, news), kind)
        )


def _caller_id() -> str:
    """The user who calls, or for whom an operator does. Raises PermissionDenied if there is none."""
    user_id = current_call().caller.user_id
    if not user_id:
        raise PermissionDenied("Only a user has these; the call names none.")
    return user_id
