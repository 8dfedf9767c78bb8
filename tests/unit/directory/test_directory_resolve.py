"""Who is in a conversation, as the services ask it."""

import asyncio

import pytest

from discovery.errors import InvalidArgument
from discovery.ids import direct_conversation_id
from hither.directory.v1 import directory_pb2
from hither.directory.v1 import directory_service_pb2 as pb
from services.directory.errors import Blocked, DirectConversation, NoSuchUser, NotAMember
from tests.support.directory import DirectoryDesk

DIRECT = direct_conversation_id("alice", "bob")


async def resolve(
    desk: DirectoryDesk, sender_id: str, conversation_id: str = DIRECT, peer_id: str = ""
) -> pb.ResolveConversationResponse:
    request = pb.ResolveConversationRequest(conversation_id=conversation_id, sender_id=sender_id, peer_id=peer_id)
    return await desk.by_service(desk.servicer.ResolveConversation, request)


async def block(desk: DirectoryDesk, user_id: str, blocked_id: str) -> None:
    await desk.by(user_id, desk.servicer.BlockUser, pb.BlockUserRequest(blocked_id=blocked_id))


@pytest.fixture(autouse=True)
async def _people(desk: DirectoryDesk) -> None:
    await desk.sign_up("alice", "bob", "carol")


async def test_a_direct_conversation_is_made_on_first_use(desk: DirectoryDesk) -> None:
    made = await resolve(desk, "alice", peer_id="bob")

    assert (made.kind, sorted(made.member_ids)) == (directory_pb2.CONVERSATION_KIND_DIRECT, ["alice", "bob"])
    assert desk.bus.lines == []  # nobody has known other members of it


async def test_a_direct_conversation_is_made_once(desk: DirectoryDesk) -> None:
    sides = [("alice", "bob"), ("bob", "alice")] * 5

    answers = await asyncio.gather(*(resolve(desk, sender_id, peer_id=peer_id) for sender_id, peer_id in sides))

    assert all(answer == answers[0] for answer in answers)
    assert desk.bus.lines == []  # nobody has known other members of it


async def test_a_direct_conversation_that_is_there_needs_no_peer(desk: DirectoryDesk) -> None:
    made = await resolve(desk, "alice", peer_id="bob")

    assert await resolve(desk, "bob") == made


async def test_a_direct_conversation_shows_to_both_and_cannot_be_changed(desk: DirectoryDesk) -> None:
    await resolve(desk, "alice", peer_id="bob")

    shown = await desk.by("bob", desk.servicer.GetConversation, pb.GetConversationRequest(conversation_id=DIRECT))

    assert (shown.conversation.name, shown.conversation.member_count) == ("", 2)
    with pytest.raises(DirectConversation) as refused:
        await desk.by(
            "bob", desk.servicer.RemoveMember, pb.RemoveMemberRequest(conversation_id=DIRECT, member_id="bob")
        )
    assert refused.value.reason == "DIRECT_CONVERSATION"


async def test_a_conversation_that_is_not_there_has_no_members(desk: DirectoryDesk) -> None:
    with pytest.raises(NotAMember):
        await resolve(desk, "alice")


async def test_a_third_user_is_no_member_of_a_direct_conversation(desk: DirectoryDesk) -> None:
    await resolve(desk, "alice", peer_id="bob")

    with pytest.raises(NotAMember):
        await resolve(desk, "carol")


@pytest.mark.parametrize(("sender_id", "peer_id"), [("alice", "carol"), ("carol", "bob"), ("alice", "alice")])
async def test_the_id_must_be_that_of_sender_and_peer(desk: DirectoryDesk, sender_id: str, peer_id: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        await resolve(desk, sender_id, peer_id=peer_id)

    assert refused.value.reason == "INVALID_REQUEST"


async def test_a_group_has_a_name_and_a_direct_conversation_has_none(desk: DirectoryDesk) -> None:
    await desk.befriend("alice", "bob")
    group_id = await desk.group("alice", "bob", name="Lunch")

    assert (await resolve(desk, "bob", group_id)).name == "Lunch"
    assert (await resolve(desk, "alice", peer_id="bob")).name == ""


async def test_a_group_takes_no_peer(desk: DirectoryDesk) -> None:
    group = await desk.group("alice")

    with pytest.raises(InvalidArgument):
        await resolve(desk, "alice", group, peer_id="bob")


@pytest.mark.parametrize(("sender_id", "peer_id"), [("alice", "nobody"), ("nobody", "alice")])
async def test_a_direct_conversation_needs_two_users(desk: DirectoryDesk, sender_id: str, peer_id: str) -> None:
    with pytest.raises(NoSuchUser):
        await resolve(desk, sender_id, direct_conversation_id(sender_id, peer_id), peer_id)


@pytest.mark.parametrize("peer_id", ["", "bob"])
@pytest.mark.parametrize(("blocker", "blocked"), [("alice", "bob"), ("bob", "alice")])
async def test_a_block_by_either_closes_a_direct_conversation(
    desk: DirectoryDesk, blocker: str, blocked: str, peer_id: str
) -> None:
    await resolve(desk, "alice", peer_id="bob")
    await block(desk, blocker, blocked)

    with pytest.raises(Blocked):
        await resolve(desk, "alice", peer_id=peer_id)


async def test_a_block_keeps_a_direct_conversation_from_being_made(desk: DirectoryDesk) -> None:
    await block(desk, "bob", "alice")

    with pytest.raises(Blocked):
        await resolve(desk, "alice", peer_id="bob")

    assert await desk.store.read(lambda tables: tables.conversations.find(DIRECT)) is None


async def test_a_block_taken_back_opens_the_conversation_again(desk: DirectoryDesk) -> None:
    await block(desk, "bob", "alice")
    await desk.by("bob", desk.servicer.UnblockUser, pb.UnblockUserRequest(blocked_id="alice"))

    await resolve(desk, "alice", peer_id="bob")


async def test_blocks_do_not_count_in_groups(desk: DirectoryDesk) -> None:
    await desk.befriend("alice", "bob")
    group = await desk.group("alice", "bob")
    await block(desk, "bob", "alice")

    answer = await resolve(desk, "alice", group)

    assert (answer.kind, list(answer.member_ids)) == (directory_pb2.CONVERSATION_KIND_GROUP, ["alice", "bob"])


async def test_who_left_a_group_is_no_member(desk: DirectoryDesk) -> None:
    await desk.befriend("alice", "bob")
    group = await desk.group("alice", "bob")
    await desk.by("bob", desk.servicer.RemoveMember, pb.RemoveMemberRequest(conversation_id=group, member_id="bob"))

    with pytest.raises(NotAMember):
        await resolve(desk, "bob", group)
