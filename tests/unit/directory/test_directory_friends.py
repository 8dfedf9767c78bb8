"""Friends and blocks, over a real store."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from discovery.errors import InvalidArgument, PermissionDenied
from discovery.rpc.call import Caller, Role
from hither.directory.v1 import directory_pb2
from hither.directory.v1 import directory_service_pb2 as pb
from services.directory.errors import Blocked, NoSuchUser, NotFriends, QuotaExceeded
from tests.support.directory import QUICK, DirectoryDesk, directory_desk

ACCEPTED = directory_pb2.FRIENDSHIP_STATE_ACCEPTED
REQUESTED = directory_pb2.FRIENDSHIP_STATE_REQUESTED
PENDING = directory_pb2.FRIENDSHIP_STATE_PENDING
UNSPECIFIED = directory_pb2.FRIENDSHIP_STATE_UNSPECIFIED
BLOCKED = directory_pb2.FRIENDSHIP_STATE_BLOCKED


async def ask(desk: DirectoryDesk, user_id: str, friend_id: str) -> directory_pb2.Friendship:
    return (await desk.by(user_id, desk.servicer.AddFriend, pb.AddFriendRequest(friend_id=friend_id))).friendship


async def end(desk: DirectoryDesk, user_id: str, friend_id: str) -> None:
    await desk.by(user_id, desk.servicer.RemoveFriend, pb.RemoveFriendRequest(friend_id=friend_id))


async def block(desk: DirectoryDesk, user_id: str, blocked_id: str) -> None:
    await desk.by(user_id, desk.servicer.BlockUser, pb.BlockUserRequest(blocked_id=blocked_id))


async def unblock(desk: DirectoryDesk, user_id: str, blocked_id: str) -> None:
    await desk.by(user_id, desk.servicer.UnblockUser, pb.UnblockUserRequest(blocked_id=blocked_id))


async def listed(
    desk: DirectoryDesk, user_id: str, state: directory_pb2.FriendshipState.ValueType = UNSPECIFIED
) -> list[tuple[str, int]]:
    request = pb.ListFriendsRequest(state=state)
    answer = await desk.by(user_id, desk.servicer.ListFriends, request)
    return [(entry.friend.user_id, entry.state) for entry in answer.friendships]


async def friend_ids(desk: DirectoryDesk, user_id: str) -> list[str]:
    answer = await desk.by_service(desk.servicer.ListFriendIds, pb.ListFriendIdsRequest(user_id=user_id))
    return list(answer.friend_ids)


@pytest.fixture(autouse=True)
async def _people(desk: DirectoryDesk) -> None:
    await desk.sign_up("alice", "bob", "carol", "dave")


async def test_asking_waits_for_the_other(desk: DirectoryDesk) -> None:
    asked = await ask(desk, "alice", "bob")

    assert (asked.friend.name, asked.state) == ("Bob", REQUESTED)
    assert await listed(desk, "bob") == [("alice", PENDING)]
    assert await friend_ids(desk, "alice") == []


async def test_asking_back_accepts(desk: DirectoryDesk) -> None:
    await ask(desk, "alice", "bob")

    assert (await ask(desk, "bob", "alice")).state == ACCEPTED
    assert await friend_ids(desk, "alice") == ["bob"]
    assert await friend_ids(desk, "bob") == ["alice"]


async def test_two_that_ask_at_once_become_friends(desk: DirectoryDesk) -> None:
    states = await asyncio.gather(ask(desk, "alice", "bob"), ask(desk, "bob", "alice"))

    assert sorted(entry.state for entry in states) == sorted([REQUESTED, ACCEPTED])
    assert await friend_ids(desk, "alice") == ["bob"]


async def test_asking_again_changes_and_announces_nothing(desk: DirectoryDesk) -> None:
    first = await ask(desk, "alice", "bob")
    desk.clock.advance(5)

    assert await ask(desk, "alice", "bob") == first
    assert desk.bus.lines == ["friends alice bob"]


async def test_who_does_not_exist_cannot_be_asked(desk: DirectoryDesk) -> None:
    with pytest.raises(NoSuchUser):
        await ask(desk, "alice", "nobody")


async def test_who_has_no_account_cannot_ask(desk: DirectoryDesk) -> None:
    with pytest.raises(NoSuchUser):
        await ask(desk, "nobody", "alice")


async def test_nobody_befriends_or_blocks_oneself(desk: DirectoryDesk) -> None:
    with pytest.raises(InvalidArgument):
        await ask(desk, "alice", "alice")
    with pytest.raises(InvalidArgument):
        await block(desk, "alice", "alice")


async def test_either_ends_a_friendship_for_both(desk: DirectoryDesk) -> None:
    await desk.befriend("alice", "bob")
    desk.bus.lines.clear()

    await end(desk, "bob", "alice")

    assert (await listed(desk, "alice"), await listed(desk, "bob")) == ([], [])
    assert desk.bus.lines == ["friends bob alice"]


async def test_a_friendship_that_is_not_there_cannot_be_ended(desk: DirectoryDesk) -> None:
    with pytest.raises(NotFriends) as refused:
        await end(desk, "alice", "bob")

    assert refused.value.reason == "NOT_FRIENDS"


async def test_a_block_ends_the_friendship_and_shows_only_to_who_blocks(desk: DirectoryDesk) -> None:
    await desk.befriend("alice", "bob")
    desk.bus.lines.clear()

    await block(desk, "alice", "bob")

    assert await listed(desk, "alice", BLOCKED) == [("bob", BLOCKED)]
    assert [await listed(desk, "alice"), await listed(desk, "bob"), await listed(desk, "bob", BLOCKED)] == [[], [], []]
    assert desk.bus.lines == ["friends alice bob"]


@pytest.mark.parametrize(("asker", "asked"), [("alice", "bob"), ("bob", "alice")])
async def test_a_block_keeps_both_from_asking(desk: DirectoryDesk, asker: str, asked: str) -> None:
    await block(desk, "alice", "bob")

    with pytest.raises(Blocked) as refused:
        await ask(desk, asker, asked)

    assert refused.value.reason == "BLOCKED"


async def test_who_does_not_exist_cannot_be_blocked(desk: DirectoryDesk) -> None:
    with pytest.raises(NoSuchUser):
        await block(desk, "alice", "nobody")


async def test_a_block_taken_back_leaves_strangers(desk: DirectoryDesk) -> None:
    await desk.befriend("alice", "bob")
    await block(desk, "alice", "bob")
    await unblock(desk, "alice", "bob")

    assert await listed(desk, "alice") == []
    assert (await ask(desk, "bob", "alice")).state == REQUESTED


async def test_taking_back_a_block_that_is_not_there_does_nothing(desk: DirectoryDesk) -> None:
    await desk.befriend("alice", "bob")
    desk.bus.lines.clear()

    await unblock(desk, "alice", "bob")
    await unblock(desk, "alice", "nobody")

    assert (await friend_ids(desk, "alice"), desk.bus.lines) == (["bob"], [])


async def test_friends_are_listed_page_by_page(desk: DirectoryDesk) -> None:
    await desk.befriend("alice", "bob", "carol", "dave")

    first = await desk.by("alice", desk.servicer.ListFriends, pb.ListFriendsRequest(page_size=2))
    second = await desk.by(
        "alice", desk.servicer.ListFriends, pb.ListFriendsRequest(page_size=2, page_token=first.next_page_token)
    )

    pages = [[entry.friend.user_id for entry in page.friendships] for page in (first, second)]
    assert (pages, second.next_page_token) == ([["bob", "carol"], ["dave"]], "")


async def test_a_page_that_ends_with_the_last_friend_has_no_successor(desk: DirectoryDesk) -> None:
    await desk.befriend("alice", "bob", "carol")

    page = await desk.by("alice", desk.servicer.ListFriends, pb.ListFriendsRequest(page_size=2))

    assert page.next_page_token == ""


@pytest.mark.parametrize(("user_id", "state"), [("bob", 0), ("alice", ACCEPTED)])
async def test_a_page_token_serves_its_own_list_only(
    desk: DirectoryDesk, user_id: str, state: directory_pb2.FriendshipState.ValueType
) -> None:
    await desk.befriend("alice", "bob", "carol")
    page = await desk.by("alice", desk.servicer.ListFriends, pb.ListFriendsRequest(page_size=1))

    request = pb.ListFriendsRequest(state=state, page_token=page.next_page_token)
    with pytest.raises(InvalidArgument) as refused:
        await desk.by(user_id, desk.servicer.ListFriends, request)

    assert refused.value.reason == "BAD_PAGE_TOKEN"


async def test_a_call_that_names_no_user_has_no_friends_to_list(desk: DirectoryDesk) -> None:
    with pytest.raises(PermissionDenied):
        await desk.call(desk.servicer.ListFriends, pb.ListFriendsRequest(), Caller(Role.ADMIN))


async def test_a_user_has_no_more_friends_and_requests_than_allowed(tmp_path: Path) -> None:
    folder = tmp_path / "another"
    folder.mkdir()
    async with directory_desk(folder, replace(QUICK, friends_most=2)) as desk:
        await desk.sign_up("alice", "bob", "carol", "dave")
        await desk.befriend("alice", "bob")
        await ask(desk, "alice", "carol")

        with pytest.raises(QuotaExceeded) as refused:
            await ask(desk, "alice", "dave")

        assert refused.value.reason == "QUOTA_EXCEEDED"
        assert await listed(desk, "dave") == []


async def test_services_learn_of_blocks_in_either_direction_and_of_no_others(desk: DirectoryDesk) -> None:
    await ask(desk, "alice", "bob")
    await block(desk, "alice", "carol")
    await block(desk, "dave", "alice")
    await block(desk, "dave", "bob")

    request = pb.FindBlocksRequest(user_id="alice", other_ids=["dave", "bob", "carol", "alice", "nobody"])
    answer = await desk.by_service(desk.servicer.FindBlocks, request)

    assert list(answer.blocked_ids) == ["dave", "carol"]
