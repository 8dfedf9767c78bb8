"""Conversations: made, changed and looked up, each as one transaction. What is allowed is decided in groups.py."""

from discovery.ids import direct_conversation_id
from services.directory import friendship, groups
from services.directory.changes import News
from services.directory.errors import Blocked, NoSuchUser, NotAMember, invalid_field
from services.directory.model import Conversation, Kind, Member, MemberRole
from services.directory.ports import Tables


async def create(
    tables: Tables,
    news: News,
    founder_id: str,
    group: Conversation,
    member_ids: tuple[str, ...],
    most: int,
) -> Conversation:
    """Stores `group`, which has no members yet, with its founder as admin and the members.

    Raises NotFriends, ConversationFull, and NoSuchUser if the founder has no account.
    """
    if not await tables.users.find([founder_id]):
        raise NoSuchUser()
    friend_ids = await tables.friendships.friends_among(founder_id, member_ids)
    others = groups.founders(founder_id, member_ids, friend_ids, most)
    members = [Member(founder_id, MemberRole.ADMIN, group.create_time_ms)]
    members += [Member(other_id, MemberRole.MEMBER, group.create_time_ms) for other_id in others]
    founded = _with_members(group, members)
    added = await tables.conversations.add(founded)
    assert added, "the ids of groups are made to differ"
    news.members_changed(founded.conversation_id)
    return founded


async def get(tables: Tables, user_id: str, conversation_id: str) -> Conversation:
    """The conversation, if the user is a member. Raises NotAMember."""
    found = await tables.conversations.find(conversation_id)
    if found is None or found.member(user_id) is None:
        raise NotAMember()
    return found


async def add_members(
    tables: Tables,
    news: News,
    actor_id: str,
    conversation_id: str,
    member_ids: tuple[str, ...],
    now_ms: int,
    most: int,
) -> Conversation:
    """Adds to a group who is not in it, and answers the group as it then stands. Raises what groups.check_admin and
    groups.check_adding do.
    """
    group = groups.check_admin(await tables.conversations.find(conversation_id), actor_id)
    newcomer_ids = groups.newcomers(group, member_ids)
    friend_ids = await tables.friendships.friends_among(actor_id, newcomer_ids)
    groups.check_adding(group, newcomer_ids, friend_ids, most)
    if not newcomer_ids:
        return group
    added = [Member(newcomer_id, MemberRole.MEMBER, now_ms) for newcomer_id in newcomer_ids]
    await tables.conversations.add_members(conversation_id, added)
    news.members_changed(conversation_id)
    return _with_members(group, [*group.members, *added])


async def remove_member(tables: Tables, news: News, actor_id: str, conversation_id: str, member_id: str) -> None:
    """Removes a member of a group. Raises what groups.removal does. A group that nobody is left in ends."""
    group = await tables.conversations.find(conversation_id)
    follows = groups.removal(group, actor_id, member_id)
    await tables.conversations.remove_member(conversation_id, member_id)
    if follows.promoted_id is not None:
        await tables.conversations.set_role(conversation_id, follows.promoted_id, MemberRole.ADMIN)
    if follows.empties:
        await tables.conversations.remove(conversation_id)
    news.members_changed(conversation_id)


async def resolve(tables: Tables, conversation_id: str, sender_id: str, peer_id: str) -> Conversation | None:
    """The conversation in which the sender wants to act; None for a direct one with the peer that has yet to be made.

    Raises NotAMember, Blocked for a direct conversation if either has blocked the other, and InvalidArgument if the id
    is not that of the sender's and the peer's conversation.
    """
    if peer_id:
        _check_direct(conversation_id, sender_id, peer_id)
    found = await tables.conversations.find(conversation_id)
    if found is None and peer_id:
        return None
    if found is None or found.member(sender_id) is None:
        raise NotAMember()
    if found.kind is Kind.DIRECT:
        for member in found.members:
            await _check_not_blocked(tables, sender_id, member.user_id)
    return found


async def make_direct(tables: Tables, conversation_id: str, sender_id: str, peer_id: str, now_ms: int) -> Conversation:
    """As resolve with a peer, but makes the direct conversation if there is none yet. Raises NoSuchUser too.

    That is no news: nobody has known other members of it, and none ever come.
    """
    _check_direct(conversation_id, sender_id, peer_id)
    if len(await tables.users.find([sender_id, peer_id])) < 2:
        raise NoSuchUser()
    await _check_not_blocked(tables, sender_id, peer_id)
    members = [Member(user_id, MemberRole.MEMBER, now_ms) for user_id in (sender_id, peer_id)]
    made = _with_members(Conversation(conversation_id, Kind.DIRECT, "", now_ms, ()), members)
    if await tables.conversations.add(made):
        return made
    return await get(tables, sender_id, conversation_id)


def _check_direct(conversation_id: str, sender_id: str, peer_id: str) -> None:
    if sender_id == peer_id:
        raise invalid_field("peer_id", "must be another user than the sender")
    if conversation_id != direct_conversation_id(sender_id, peer_id):
        raise invalid_field("conversation_id", "must be that of the sender's and the peer's direct conversation")


async def _check_not_blocked(tables: Tables, user_id: str, other_id: str) -> None:
    if user_id != other_id and friendship.is_blocked(await tables.friendships.pair(user_id, other_id)):
        raise Blocked()


def _with_members(conversation: Conversation, members: list[Member]) -> Conversation:
    return Conversation(
        conversation_id=conversation.conversation_id,
        kind=conversation.kind,
        name=conversation.name,
        create_time_ms=conversation.create_time_ms,
        members=tuple(sorted(members, key=lambda member: member.user_id)),
    )
