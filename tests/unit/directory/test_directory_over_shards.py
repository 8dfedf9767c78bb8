"""The directory over a store of several databases: people and conversations of which some are on each."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from discovery.ids import direct_conversation_id
from hither.directory.v1 import directory_service_pb2 as pb
from services.directory.errors import BadToken, Blocked
from services.storage.sql.sharded.store import ShardedDirectoryStore
from tests.support.directory import DirectoryDesk, desk_over
from tests.support.servers.postgresql import PostgresqlServer

DIRECT = direct_conversation_id("alice", "bob")


@pytest.fixture
async def desk(postgresql_server: PostgresqlServer) -> AsyncIterator[DirectoryDesk]:
    store = await ShardedDirectoryStore.open([postgresql_server.new_database() for _ in range(3)])
    async with desk_over(store) as desk:
        await desk.sign_up("alice", "bob", "carol", "dave")
        yield desk


async def friend_ids(desk: DirectoryDesk, user_id: str) -> list[str]:
    answer = await desk.by_service(desk.servicer.ListFriendIds, pb.ListFriendIdsRequest(user_id=user_id))
    return list(answer.friend_ids)


async def resolve(desk: DirectoryDesk, sender_id: str, peer_id: str) -> list[str]:
    request = pb.ResolveConversationRequest(conversation_id=DIRECT, sender_id=sender_id, peer_id=peer_id)
    return list((await desk.by_service(desk.servicer.ResolveConversation, request)).member_ids)


async def listed(desk: DirectoryDesk, user_id: str) -> list[str]:
    answer = await desk.by(user_id, desk.servicer.ListConversations, pb.ListConversationsRequest())
    return [conversation.conversation_id for conversation in answer.conversations]


async def test_all_become_friends_of_all_at_once(desk: DirectoryDesk) -> None:
    people = ["alice", "bob", "carol", "dave"]
    pairs = [(one, other) for one in people for other in people if one != other]

    await asyncio.gather(
        *(desk.by(one, desk.servicer.AddFriend, pb.AddFriendRequest(friend_id=other)) for one, other in pairs)
    )

    assert {one: [one, *await friend_ids(desk, one)] for one in people} == {
        one: [one, *(other for other in people if other != one)] for one in people
    }


async def test_who_is_blocked_is_no_friend_and_reaches_nobody(desk: DirectoryDesk) -> None:
    await desk.befriend("alice", "bob", "carol")
    members = await resolve(desk, "alice", "bob")
    await desk.by("bob", desk.servicer.BlockUser, pb.BlockUserRequest(blocked_id="alice"))

    assert sorted(members) == ["alice", "bob"]
    assert await friend_ids(desk, "alice") == ["carol"]
    with pytest.raises(Blocked):
        await resolve(desk, "alice", "bob")


async def test_a_direct_conversation_is_made_once(desk: DirectoryDesk) -> None:
    answers = await asyncio.gather(*(resolve(desk, *sides) for sides in [("alice", "bob"), ("bob", "alice")] * 5))

    assert all(answer == answers[0] for answer in answers)
    assert await listed(desk, "alice") == await listed(desk, "bob") == [DIRECT]


async def test_groups_are_listed_for_those_who_are_in_them(desk: DirectoryDesk) -> None:
    await desk.befriend("alice", "bob", "carol")
    first = await desk.group("alice", "bob")
    desk.clock.advance(1)
    second = await desk.group("alice", "bob", "carol")
    leave = pb.RemoveMemberRequest(conversation_id=first, member_id="bob")
    await desk.by("bob", desk.servicer.RemoveMember, leave)

    assert await listed(desk, "alice") == [second, first]
    assert await listed(desk, "bob") == [second]
    assert await listed(desk, "dave") == []


async def test_a_session_is_refreshed_and_ends_when_a_token_is_used_twice(desk: DirectoryDesk) -> None:
    first = await desk.sign_in("alice")
    second = await desk.by_nobody(
        desk.servicer.RefreshSession, pb.RefreshSessionRequest(refresh_token=first.refresh_token)
    )

    for token in (first.refresh_token, second.refresh_token):
        with pytest.raises(BadToken):
            await desk.by_nobody(desk.servicer.RefreshSession, pb.RefreshSessionRequest(refresh_token=token))
