import pytest

from discovery.errors import InvalidArgument
from discovery.rpc.validation import validate
from hither.messaging.v1 import messaging_service_pb2 as messaging
from hither.sessions.v1 import sessions_service_pb2 as sessions


def broken_fields(message: object) -> list[str]:
    with pytest.raises(InvalidArgument) as refused:
        validate(message)  # type: ignore[arg-type]
    assert refused.value.reason == "INVALID_REQUEST"
    return [violation.field for violation in refused.value.violations]


def test_a_request_that_keeps_the_rules_passes() -> None:
    validate(messaging.SendMessageRequest(conversation_id="g.1", client_id="1", text="hi"))


def test_every_field_that_breaks_a_rule_is_named() -> None:
    request = messaging.SendMessageRequest(conversation_id="no such", to="a b", text="hi")

    assert broken_fields(request) == ["conversation_id", "to", "client_id"]


def test_a_rule_of_the_whole_message_names_no_field() -> None:
    assert broken_fields(messaging.SendMessageRequest(conversation_id="g.1", client_id="1")) == [""]


def test_a_place_in_a_list_is_named() -> None:
    assert broken_fields(sessions.LookupConnectionsRequest(user_ids=["ok", "not ok"])) == ["user_ids[1]"]


def test_a_field_inside_a_list_is_named() -> None:
    request = sessions.AdvanceCursorsRequest(advances=[sessions.CursorAdvance(user_id="a", device_id="d")])

    assert broken_fields(request) == ["advances[0].pos"]


def test_the_message_says_what_is_wrong_with_which_field() -> None:
    with pytest.raises(InvalidArgument, match="client_id: must be at least 1 characters"):
        validate(messaging.SendMessageRequest(conversation_id="g.1", text="hi"))
