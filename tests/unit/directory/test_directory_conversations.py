"""Conversations and members, over a real store."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from discovery.errors import InvalidArgument
from hither.directory.v1 import directory_pb2
from hither.directory.v1 import directory_service_pb2 as pb
from services.directory.errors import ConversationFull, NotAMember, NotAnAdmin, NotFriends
from tests.support.directory import QUICK, DirectoryDesk, directory_desk

ADMIN, MEMBER = directory_pb2.MEMBER_ROLE_ADMIN, directory_pb2.MEMBER_ROLE_MEMBER


async def get(desk: DirectoryDesk, user_id: str, conversation_id: str) -> directory_pb2.Conversation:
    request = pb.GetConversationRequest(conversation_id=conversation_id)
    return (await desk.by(user_id, desk.servicer.GetConversation, request)).conversation


async def roles(desk: DirectoryDesk, user_id: str, conversation_id: str) -> dict[str, int]:
    return {member.user_id: member.role for member in (await get(desk, user_id, conversation_id)).members}


async def add(desk: DirectoryDesk, user_id: str, conversation_id: str, *member_ids: str) -> directory_pb2.Conversation:
    request = pb.AddMembersRequest(conversation_id=conversation_id, member_ids=member_ids)
    return (await desk.by(user_id, desk.servicer.AddMembers, request)).conversation


async def remove(desk: DirectoryDesk, user_id: str, conversation_id: str, member_id: str) -> None:
    request = pb.RemoveMemberRequest(conversation_id=conversation_id, member_id=member_id)
    await desk.by(user_id, desk.servicer.RemoveMember, request)


@pytest.fixture(autouse=True)
async def _people(desk: DirectoryDesk) -> None:
    await desk.sign_up("alice", "bob", "carol", "dave")
    await desk.befriend("alice", "bob", "carol")
    desk.bus.lines.clear()


async def test_who_makes_a_group_is_its_admin(desk: DirectoryDesk) -> None:
    group = await desk.group("alice", "bob", "carol", name="Trio")

    made = await get(desk, "bob", group)

    assert (made.name, made.kind, made.member_count) == ("Trio", directory_pb2.CONVERSATION_KIND_GROUP, 3)
    assert {member.user_id: member.role for member in made.members} == {"alice": ADMIN, "bob": MEMBER, "carol": MEMBER}
    assert desk.bus.lines == [f"conversation {group}"]


async def test_a_group_may_begin_with_its_founder_alone(desk: DirectoryDesk) -> None:
    assert await roles(desk, "dave", await desk.group("dave")) == {"dave": ADMIN}


async def test_a_group_is_made_of_friends(desk: DirectoryDesk) -> None:
    with pytest.raises(NotFriends):
        await desk.group("alice", "bob", "dave")

    assert (await desk.by("alice", desk.servicer.ListConversations, pb.ListConversationsRequest())).conversations == []


async def test_making_a_group_again_under_its_request_id_makes_no_second_one(desk: DirectoryDesk) -> None:
    first = await desk.group("alice", "bob", request_id="r1")
    second = await desk.group("alice", "bob", request_id="r1")

    listed = await desk.by("alice", desk.servicer.ListConversations, pb.ListConversationsRequest())
    assert (second, [entry.conversation_id for entry in listed.conversations]) == (first, [first])


async def test_of_many_requests_with_one_id_at_once_one_makes_the_group(desk: DirectoryDesk) -> None:
    made = await asyncio.gather(*(desk.group("alice", "bob", request_id="r1") for _ in range(5)))

    assert len(set(made)) == 1


async def test_a_request_id_that_was_used_for_another_group_is_refused(desk: DirectoryDesk) -> None:
    await desk.group("alice", "bob", request_id="r1")

    with pytest.raises(InvalidArgument):
        await desk.group("alice", "carol", request_id="r1")


async def test_a_group_cannot_have_a_name_that_not_every_store_can_keep(desk: DirectoryDesk) -> None:
    with pytest.raises(InvalidArgument):
        await desk.group("alice", name="Tr\0io")


async def test_each_request_without_an_id_makes_a_group(desk: DirectoryDesk) -> None:
    assert await desk.group("alice", "bob") != await desk.group("alice", "bob")


async def test_a_group_shows_to_its_members_only(desk: DirectoryDesk) -> None:
    group = await desk.group("alice", "bob")

    with pytest.raises(NotAMember) as refused:
        await get(desk, "carol", group)
    with pytest.raises(NotAMember):
        await get(desk, "carol", "g.1")

    assert refused.value.reason == "NOT_A_MEMBER"


async def test_conversations_are_listed_newest_first_and_page_by_page(desk: DirectoryDesk) -> None:
    groups = []
    for _ in range(3):
        groups.append(await desk.group("alice", "bob"))
        desk.clock.advance(1)

    first = await desk.by("bob", desk.servicer.ListConversations, pb.ListConversationsRequest(page_size=2))
    second = await desk.by(
        "bob",
        desk.servicer.ListConversations,
        pb.ListConversationsRequest(page_size=2, page_token=first.next_page_token),
    )

    pages = [[entry.conversation_id for entry in page.conversations] for page in (first, second)]
    assert (pages, second.next_page_token) == ([[groups[2], groups[1]], [groups[0]]], "")


async def test_an_admin_adds_friends(desk: DirectoryDesk) -> None:
    group = await desk.group("alice", "bob")
    desk.bus.lines.clear()

    answered = await add(desk, "alice", group, "carol", "bob")

    assert answered == await get(desk, "carol", group)
    assert [member.user_id for member in answered.members] == ["alice", "bob", "carol"]
    assert desk.bus.lines == [f"conversation {group}"]


async def test_adding_who_is_a_member_already_changes_and_announces_nothing(desk: DirectoryDesk) -> None:
    group = await desk.group("alice", "bob")
    desk.bus.lines.clear()

    await add(desk, "alice", group, "bob")

    assert desk.bus.lines == []


async def test_who_is_a_member_already_need_not_be_a_friend_any_more(desk: DirectoryDesk) -> None:
    group = await desk.group("alice", "bob")
    await desk.by("alice", desk.servicer.RemoveFriend, pb.RemoveFriendRequest(friend_id="bob"))

    assert len((await add(desk, "alice", group, "bob", "carol")).members) == 3


async def test_one_stranger_keeps_all_from_being_added(desk: DirectoryDesk) -> None:
    group = await desk.group("alice", "bob")

    with pytest.raises(NotFriends):
        await add(desk, "alice", group, "carol", "dave")

    assert set(await roles(desk, "alice", group)) == {"alice", "bob"}


async def test_a_member_that_is_no_admin_adds_and_removes_nobody(desk: DirectoryDesk) -> None:
    group = await desk.group("alice", "bob", "carol")

    with pytest.raises(NotAnAdmin):
        await add(desk, "bob", group, "alice")
    with pytest.raises(NotAnAdmin):
        await remove(desk, "bob", group, "carol")


async def test_a_group_has_at_most_as_many_members_as_allowed(desk: DirectoryDesk, tmp_path: Path) -> None:
    async with directory_desk(tmp_path, replace(QUICK, members_most=2)) as small:
        group = await small.group("alice", "bob")

        with pytest.raises(ConversationFull) as refused:
            await add(small, "alice", group, "carol")
        with pytest.raises(ConversationFull):
            await small.group("alice", "bob", "carol")

        assert refused.value.reason == "CONVERSATION_FULL"


async def test_a_group_is_not_overfilled_by_many_at_once(desk: DirectoryDesk, tmp_path: Path) -> None:
    async with directory_desk(tmp_path, replace(QUICK, members_most=3)) as small:
        await small.befriend("alice", "dave")
        group = await small.group("alice")

        adding = (add(small, "alice", group, member_id) for member_id in ("bob", "carol", "dave"))
        outcomes = await asyncio.gather(*adding, return_exceptions=True)

        assert sum(isinstance(outcome, ConversationFull) for outcome in outcomes) == 1
        assert len(await roles(small, "alice", group)) == 3


async def test_an_admin_removes_a_member(desk: DirectoryDesk) -> None:
    group = await desk.group("alice", "bob")
    desk.bus.lines.clear()

    await remove(desk, "alice", group, "bob")

    assert await roles(desk, "alice", group) == {"alice": ADMIN}
    assert desk.bus.lines == [f"conversation {group}"]
    with pytest.raises(NotAMember):
        await get(desk, "bob", group)


async def test_who_was_removed_cannot_be_removed_again(desk: DirectoryDesk) -> None:
    group = await desk.group("alice", "bob")
    await remove(desk, "alice", group, "bob")

    with pytest.raises(NotAMember):
        await remove(desk, "alice", group, "bob")


async def test_the_longest_standing_member_inherits_a_group(desk: DirectoryDesk) -> None:
    group = await desk.group("alice", "carol")
    desk.clock.advance(1)
    await add(desk, "alice", group, "bob")

    await remove(desk, "alice", group, "alice")

    assert await roles(desk, "bob", group) == {"carol": ADMIN, "bob": MEMBER}


async def test_a_group_has_an_admin_however_its_members_leave_at_once(desk: DirectoryDesk) -> None:
    group = await desk.group("alice", "bob", "carol")

    await asyncio.gather(remove(desk, "alice", group, "alice"), remove(desk, "bob", group, "bob"))

    assert await roles(desk, "carol", group) == {"carol": ADMIN}


async def test_a_group_ends_with_its_last_member(desk: DirectoryDesk) -> None:
    group = await desk.group("alice")
    await remove(desk, "alice", group, "alice")

    assert await desk.store.read(lambda tables: tables.conversations.find(group)) is None
