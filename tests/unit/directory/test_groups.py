"""Groups: who may add and remove, and who inherits."""

import pytest

from services.directory.errors import ConversationFull, DirectConversation, NotAMember, NotAnAdmin, NotFriends
from services.directory.groups import Removal, check_adding, check_admin, founders, newcomers, removal
from services.directory.model import Conversation, Kind, Member, MemberRole

ADMIN, MEMBER = MemberRole.ADMIN, MemberRole.MEMBER


def group(*members: tuple[str, MemberRole, int], kind: Kind = Kind.GROUP) -> Conversation:
    return Conversation("g.1", kind, "Group", 0, tuple(Member(*member) for member in members))


TRIO = group(("alice", ADMIN, 1), ("bob", MEMBER, 3), ("carol", MEMBER, 2))


def test_an_admin_may_add() -> None:
    assert check_admin(TRIO, "alice") is TRIO


def test_a_member_may_not_add() -> None:
    with pytest.raises(NotAnAdmin):
        check_admin(TRIO, "bob")


@pytest.mark.parametrize("conversation", [None, TRIO])
def test_a_stranger_does_not_learn_whether_there_is_a_conversation(conversation: Conversation | None) -> None:
    with pytest.raises(NotAMember):
        check_admin(conversation, "mallory")


def test_nobody_is_added_to_a_direct_conversation() -> None:
    direct = group(("alice", MEMBER, 1), ("bob", MEMBER, 1), kind=Kind.DIRECT)

    with pytest.raises(DirectConversation):
        check_admin(direct, "alice")


def test_who_is_in_the_group_already_is_no_newcomer() -> None:
    assert newcomers(TRIO, ["dave", "bob", "dave"]) == ("dave",)


def test_newcomers_must_be_friends_of_who_adds_them() -> None:
    with pytest.raises(NotFriends):
        check_adding(TRIO, ["dave"], friend_ids={"erin"}, most=100)


@pytest.mark.parametrize(("most", "fits"), [(4, True), (3, False)])
def test_a_group_takes_as_many_as_fit(most: int, fits: bool) -> None:
    if fits:
        check_adding(TRIO, ["dave"], friend_ids={"dave"}, most=most)
    else:
        with pytest.raises(ConversationFull):
            check_adding(TRIO, ["dave"], friend_ids={"dave"}, most=most)


def test_adding_nobody_to_a_full_group_is_no_error() -> None:
    check_adding(TRIO, [], friend_ids=set(), most=2)


def test_a_founder_who_is_named_among_the_members_counts_once() -> None:
    assert founders("alice", ["bob", "alice", "bob"], {"bob"}, most=2) == ("bob",)


def test_a_group_cannot_be_founded_with_strangers() -> None:
    with pytest.raises(NotFriends):
        founders("alice", ["bob"], set(), most=100)


def test_a_group_cannot_be_founded_over_its_limit() -> None:
    with pytest.raises(ConversationFull):
        founders("alice", ["bob", "carol"], {"bob", "carol"}, most=2)


def test_an_admin_removes_a_member() -> None:
    assert removal(TRIO, "alice", "bob") == Removal(promoted_id=None, empties=False)


def test_a_member_may_leave() -> None:
    assert removal(TRIO, "bob", "bob") == Removal(promoted_id=None, empties=False)


def test_a_member_may_not_remove_another() -> None:
    with pytest.raises(NotAnAdmin):
        removal(TRIO, "bob", "carol")


def test_who_is_not_in_the_group_cannot_be_removed() -> None:
    with pytest.raises(NotAMember):
        removal(TRIO, "alice", "dave")


def test_the_longest_standing_member_becomes_admin_when_the_last_admin_goes() -> None:
    assert removal(TRIO, "alice", "alice").promoted_id == "carol"


def test_of_members_that_came_together_the_first_by_id_inherits() -> None:
    peers = group(("alice", ADMIN, 1), ("carol", MEMBER, 2), ("bob", MEMBER, 2))

    assert removal(peers, "alice", "alice").promoted_id == "bob"


def test_nobody_is_promoted_while_an_admin_stays() -> None:
    two_admins = group(("alice", ADMIN, 1), ("bob", ADMIN, 2), ("carol", MEMBER, 0))

    assert removal(two_admins, "alice", "alice").promoted_id is None


def test_a_group_ends_with_its_last_member() -> None:
    assert removal(group(("alice", ADMIN, 1)), "alice", "alice") == Removal(promoted_id=None, empties=True)
