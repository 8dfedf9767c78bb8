"""The directory's values in the words of the contract."""

from google.protobuf.timestamp_pb2 import Timestamp

from hither.directory.v1 import directory_pb2 as pb
from services.directory.model import Conversation, Friendship, Kind, Member, MemberRole, Side, User

_SIDES = {
    Side.REQUESTED: pb.FRIENDSHIP_STATE_REQUESTED,
    Side.PENDING: pb.FRIENDSHIP_STATE_PENDING,
    Side.ACCEPTED: pb.FRIENDSHIP_STATE_ACCEPTED,
    Side.BLOCKED: pb.FRIENDSHIP_STATE_BLOCKED,
}
_STATES = {state: side for side, state in _SIDES.items()}
_KINDS = {Kind.DIRECT: pb.CONVERSATION_KIND_DIRECT, Kind.GROUP: pb.CONVERSATION_KIND_GROUP}
_ROLES = {MemberRole.MEMBER: pb.MEMBER_ROLE_MEMBER, MemberRole.ADMIN: pb.MEMBER_ROLE_ADMIN}


def timestamp(time_ms: int) -> Timestamp:
    """A time in milliseconds since 1970."""
    return Timestamp(seconds=time_ms // 1000, nanos=time_ms % 1000 * 1_000_000)


def user_message(user: User) -> pb.User:
    """A user."""
    return pb.User(user_id=user.user_id, name=user.name, create_time=timestamp(user.create_time_ms))


def friendship_message(friendship: Friendship) -> pb.Friendship:
    """A friendship."""
    return pb.Friendship(
        friend=user_message(friendship.friend),
        state=_SIDES[friendship.side],
        update_time=timestamp(friendship.update_time_ms),
    )


def side_of(state: pb.FriendshipState.ValueType) -> Side | None:
    """The side that a state names; None for unspecified."""
    return _STATES.get(state)


def kind_value(kind: Kind) -> pb.ConversationKind.ValueType:
    """The kind of a conversation."""
    return _KINDS[kind]


def conversation_message(conversation: Conversation) -> pb.Conversation:
    """A conversation with its members."""
    return pb.Conversation(
        conversation_id=conversation.conversation_id,
        kind=_KINDS[conversation.kind],
        name=conversation.name,
        member_count=len(conversation.members),
        create_time=timestamp(conversation.create_time_ms),
        members=[_member_message(member) for member in conversation.members],
    )


def _member_message(member: Member) -> pb.Member:
    return pb.Member(user_id=member.user_id, role=_ROLES[member.role], join_time=timestamp(member.join_time_ms))
