import pytest

from discovery.errors import PermissionDenied
from discovery.fill import fill
from discovery.ids import direct_conversation_id
from discovery.rpc.call import ANONYMOUS, Caller, Role
from hither.messaging.v1 import messaging_service_pb2 as pb
from hither.presence.v1 import presence_service_pb2

ALICE = Caller(Role.USER, user_id="alice", device_id="phone")
FOR_ALICE = Caller(Role.SERVICE, user_id="alice", service="edge")


def test_empty_fields_get_the_caller() -> None:
    request = pb.AcknowledgeInboxRequest(pos=3)

    fill(request, ALICE)

    assert (request.user_id, request.device_id) == ("alice", "phone")


def test_filling_twice_changes_nothing() -> None:
    request = pb.SendMessageRequest(to="bob")
    fill(request, ALICE)
    once = request.SerializeToString()

    fill(request, ALICE)

    assert request.SerializeToString() == once


def test_a_recipient_becomes_the_direct_conversation() -> None:
    request = pb.SendMessageRequest(to="bob")

    fill(request, ALICE)

    assert request.conversation_id == direct_conversation_id("alice", "bob")


def test_a_conversation_stands_where_no_recipient_is_named() -> None:
    request = pb.SendMessageRequest(conversation_id="g.1")

    fill(request, ALICE)

    assert request.conversation_id == "g.1"


def test_a_recipient_and_another_conversation_are_refused() -> None:
    with pytest.raises(PermissionDenied) as refused:
        fill(pb.SendMessageRequest(conversation_id="g.1", to="bob"), ALICE)

    assert refused.value.reason == "NOT_YOURSELF"


def test_a_user_cannot_speak_for_another() -> None:
    with pytest.raises(PermissionDenied) as refused:
        fill(pb.SyncInboxRequest(user_id="bob"), ALICE)

    assert refused.value.reason == "NOT_YOURSELF"


def test_a_user_cannot_name_another_device() -> None:
    with pytest.raises(PermissionDenied):
        fill(presence_service_pb2.SetPresenceRequest(user_id="alice", device_id="laptop"), ALICE)


def test_a_user_may_name_itself() -> None:
    request = pb.SyncInboxRequest(user_id="alice")

    fill(request, ALICE)

    assert request.user_id == "alice"


def test_a_service_may_name_whom_it_likes() -> None:
    request = pb.SyncInboxRequest(user_id="bob")

    fill(request, FOR_ALICE)

    assert request.user_id == "bob"


def test_a_service_fills_for_the_user_it_speaks_for() -> None:
    request = pb.SyncInboxRequest()

    fill(request, FOR_ALICE)

    assert request.user_id == "alice"


def test_an_anonymous_caller_fills_nothing() -> None:
    request = pb.SyncInboxRequest()

    fill(request, ANONYMOUS)

    assert request.user_id == ""
