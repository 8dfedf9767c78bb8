"""Who may do what in a conversation, and who inherits it. Pure: conversations in, decisions out."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from services.directory.errors import ConversationFull, DirectConversation, NotAMember, NotAnAdmin, NotFriends
from services.directory.model import Conversation, Kind, Member, MemberRole


@dataclass(frozen=True, slots=True)
class Removal:
    """What follows from a member's going: who becomes an admin (None: nobody), and whether nobody is left."""

    promoted_id: str | None
    empties: bool


def founders(founder_id: str, member_ids: Sequence[str], friend_ids: Collection[str], most: int) -> tuple[str, ...]:
    """The members of a new group beside its founder: each once, without the founder.

    Raises NotFriends if one is not among `friend_ids`, the founder's friends, and ConversationFull if there would be
    more than `most` members.
    """
    others = tuple(member_id for member_id in dict.fromkeys(member_ids) if member_id != founder_id)
    _check_friends(others, friend_ids)
    if 1 + len(others) > most:
        raise ConversationFull()
    return others


def newcomers(group: Conversation, member_ids: Sequence[str]) -> tuple[str, ...]:
    """Those of `member_ids` that are not members yet, each once."""
    return tuple(member_id for member_id in dict.fromkeys(member_ids) if group.member(member_id) is None)


def check_adding(group: Conversation, newcomer_ids: Sequence[str], friend_ids: Collection[str], most: int) -> None:
    """Passes if the newcomers, none of whom is a member, fit into the group.

    Raises NotFriends for one that is not among `friend_ids`, the friends of who adds them, and ConversationFull if there
    would be more than `most` members.
    """
    _check_friends(newcomer_ids, friend_ids)
    if newcomer_ids and len(group.members) + len(newcomer_ids) > most:
        raise ConversationFull()


def check_admin(group: Conversation | None, actor_id: str) -> Conversation:
    """The group, if the actor is one of its admins. Raises NotAMember, DirectConversation or NotAnAdmin."""
    known, actor = _membership(group, actor_id)
    if actor.role is not MemberRole.ADMIN:
        raise NotAnAdmin()
    return known


def removal(group: Conversation | None, actor_id: str, member_id: str) -> Removal:
    """What follows when the actor removes the member, who may be the actor.

    Raises NotAMember if either is none, DirectConversation, and NotAnAdmin if the actor may only leave. When the last
    admin goes, the longest-standing of the rest becomes one; of those that came together, the first by user id.
    """
    known, actor = _membership(group, actor_id)
    if actor_id != member_id and actor.role is not MemberRole.ADMIN:
        raise NotAnAdmin()
    if known.member(member_id) is None:
        raise NotAMember()
    rest = [member for member in known.members if member.user_id != member_id]
    if not rest:
        return Removal(promoted_id=None, empties=True)
    if any(member.role is MemberRole.ADMIN for member in rest):
        return Removal(promoted_id=None, empties=False)
    heir = min(rest, key=lambda member: (member.join_time_ms, member.user_id))
    return Removal(promoted_id=heir.user_id, empties=False)


def _membership(group: Conversation | None, actor_id: str) -> tuple[Conversation, Member]:
    actor = None if group is None else group.member(actor_id)
    if group is None or actor is None:
        raise NotAMember()
    if group.kind is Kind.DIRECT:
        raise DirectConversation()
    return group, actor


def _check_friends(user_ids: Sequence[str], friend_ids: Collection[str]) -> None:
    stranger = next((user_id for user_id in user_ids if user_id not in friend_ids), None)
    if stranger is not None:
        raise NotFriends(f"{stranger} is not a friend of yours.")
