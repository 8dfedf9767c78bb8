"""google.api.http rules as routes, and requests from paths, queries and bodies."""

import pytest
from google.api import annotations_pb2
from google.protobuf.descriptor_pb2 import FileDescriptorSet

from discovery.contract import methods
from discovery.errors import InvalidArgument, NotFound
from edge.transcoding import BadRule, Match, MethodNotAllowed, RouteTable, read_request
from hither.directory.v1 import directory_pb2, directory_service_pb2
from hither.messaging.v1 import messaging_service_pb2
from tests.support.contract import a_contract_where, method_in

SIGN_UP = "hither.directory.v1.DirectoryService.CreateUser"


@pytest.fixture(scope="module")
def table() -> RouteTable:
    return RouteTable(methods().values())


def operation(match: Match) -> str:
    return match.route.spec.name


def test_a_path_finds_its_operation(table: RouteTable) -> None:
    assert operation(table.match("POST", "/api/v1/users")) == "CreateUser"


def test_a_path_variable_is_taken_from_its_segment(table: RouteTable) -> None:
    match = table.match("GET", "/api/v1/conversations/g.17/messages")
    assert operation(match) == "ListMessages"
    assert match.variables == {"conversation_id": "g.17"}


def test_several_variables_are_taken_in_order(table: RouteTable) -> None:
    match = table.match("DELETE", "/api/v1/conversations/g.17/members/bob")
    assert match.variables == {"conversation_id": "g.17", "member_id": "bob"}


def test_a_variable_is_percent_decoded(table: RouteTable) -> None:
    assert table.match("GET", "/api/v1/users/a%40b%2Fc").variables == {"user_id": "a@b/c"}


def test_a_variable_that_is_not_utf_8_is_refused(table: RouteTable) -> None:
    with pytest.raises(InvalidArgument) as caught:
        table.match("GET", "/api/v1/users/%FF")
    assert caught.value.reason == "MALFORMED_FRAME"


def test_a_verb_follows_a_literal_segment(table: RouteTable) -> None:
    assert operation(table.match("POST", "/api/v1/sessions:refresh")) == "RefreshSession"
    assert operation(table.match("POST", "/api/v1/sessions")) == "CreateSession"


def test_a_verb_follows_a_variable(table: RouteTable) -> None:
    match = table.match("POST", "/api/v1/conversations/g.17:markRead")
    assert operation(match) == "MarkRead"
    assert match.variables == {"conversation_id": "g.17"}


def test_an_encoded_colon_is_no_verb(table: RouteTable) -> None:
    match = table.match("GET", "/api/v1/conversations/g.17%3AmarkRead")
    assert match.variables == {"conversation_id": "g.17:markRead"}


def test_an_unknown_verb_is_part_of_the_variable(table: RouteTable) -> None:
    assert table.match("GET", "/api/v1/conversations/g.17:sing").variables == {"conversation_id": "g.17:sing"}


@pytest.mark.parametrize(
    "path", ["/", "/api/v1", "/api/v1/", "/api/v1/users/", "/api/v1//users", "/api/v1/nothing", "/api/v1/users/a/b", ""]
)
def test_a_path_that_no_rule_names_is_not_found(table: RouteTable, path: str) -> None:
    with pytest.raises(NotFound) as caught:
        table.match("GET", path)
    assert caught.value.reason == "NO_SUCH_ROUTE"


def test_another_method_is_told_which_there_are(table: RouteTable) -> None:
    with pytest.raises(MethodNotAllowed) as caught:
        table.match("PATCH", "/api/v1/conversations/g.17/messages")
    assert caught.value.allowed == ("GET", "HEAD", "POST")


def test_another_method_on_a_verb_is_told_the_verb_s(table: RouteTable) -> None:
    with pytest.raises(MethodNotAllowed) as caught:
        table.match("GET", "/api/v1/conversations/g.17:markRead")
    assert caught.value.allowed == ("POST",)


def test_head_finds_what_get_finds(table: RouteTable) -> None:
    assert operation(table.match("HEAD", "/api/v1/friends")) == "ListFriends"


def test_path_and_body_make_one_request(table: RouteTable) -> None:
    match = table.match("POST", "/api/v1/conversations/g.17/messages")
    request = read_request(match, [], {"client_id": "c1", "text": "hi"})
    assert request == messaging_service_pb2.SendMessageRequest(conversation_id="g.17", client_id="c1", text="hi")


def test_a_body_may_repeat_what_the_path_says(table: RouteTable) -> None:
    match = table.match("POST", "/api/v1/conversations/g.17:markRead")
    request = read_request(match, [], {"conversation_id": "g.17", "seq": "3"})
    assert request == messaging_service_pb2.MarkReadRequest(conversation_id="g.17", seq=3)


def test_a_body_may_not_contradict_the_path(table: RouteTable) -> None:
    match = table.match("POST", "/api/v1/conversations/g.17:markRead")
    with pytest.raises(InvalidArgument) as caught:
        read_request(match, [], {"conversation_id": "g.18", "seq": "3"})
    assert (caught.value.reason, caught.value.violations[0].field) == ("INVALID_REQUEST", "conversation_id")


def test_the_query_carries_what_neither_path_nor_body_does(table: RouteTable) -> None:
    match = table.match("GET", "/api/v1/conversations/g.17/messages")
    request = read_request(match, [("before_seq", "9007199254740993"), ("limit", "20")], None)
    assert request == messaging_service_pb2.ListMessagesRequest(
        conversation_id="g.17", before_seq=9007199254740993, limit=20
    )


def test_an_enum_in_the_query_goes_by_its_short_name(table: RouteTable) -> None:
    request = read_request(table.match("GET", "/api/v1/friends"), [("state", "PENDING")], None)
    assert request == directory_service_pb2.ListFriendsRequest(state=directory_pb2.FRIENDSHIP_STATE_PENDING)


def test_an_unknown_query_parameter_is_refused_by_name(table: RouteTable) -> None:
    with pytest.raises(InvalidArgument) as caught:
        read_request(table.match("GET", "/api/v1/friends"), [("colour", "blue")], None)
    assert (caught.value.reason, caught.value.violations[0].field) == ("UNKNOWN_FIELD", "colour")


def test_a_query_parameter_beside_a_whole_body_is_refused(table: RouteTable) -> None:
    with pytest.raises(InvalidArgument) as caught:
        read_request(table.match("POST", "/api/v1/friends"), [("friend_id", "bob")], {})
    assert caught.value.reason == "UNKNOWN_FIELD"


def test_a_single_parameter_that_is_given_twice_is_refused(table: RouteTable) -> None:
    with pytest.raises(InvalidArgument) as caught:
        read_request(table.match("GET", "/api/v1/friends"), [("page_size", "1"), ("page_size", "2")], None)
    assert caught.value.reason == "INVALID_REQUEST"


def test_a_parameter_may_not_contradict_the_path(table: RouteTable) -> None:
    match = table.match("GET", "/api/v1/conversations/g.17/messages")
    with pytest.raises(InvalidArgument) as caught:
        read_request(match, [("conversation_id", "g.18")], None)
    assert caught.value.reason == "INVALID_REQUEST"


@pytest.mark.parametrize("text", ["", "ten", "1.5", "1e3", " 1", "1_0", "+1", "٣"])
def test_an_integer_in_the_query_is_digits_only(table: RouteTable, text: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        read_request(table.match("GET", "/api/v1/friends"), [("page_size", text)], None)
    assert caught.value.violations[0].field == "page_size"


def test_a_body_where_none_is_due_is_refused(table: RouteTable) -> None:
    with pytest.raises(InvalidArgument) as caught:
        read_request(table.match("GET", "/api/v1/friends"), [], {"page_size": 1})
    assert caught.value.reason == "MALFORMED_FRAME"


def test_a_body_that_is_no_object_is_refused(table: RouteTable) -> None:
    with pytest.raises(InvalidArgument) as caught:
        read_request(table.match("POST", "/api/v1/friends"), [], [1])
    assert caught.value.reason == "MALFORMED_FRAME"


def test_an_unknown_field_in_the_body_is_refused(table: RouteTable) -> None:
    with pytest.raises(InvalidArgument) as caught:
        read_request(table.match("POST", "/api/v1/friends"), [], {"friend_id": "bob", "colour": "blue"})
    assert caught.value.reason == "UNKNOWN_FIELD"


def routes_after(**rule: str) -> RouteTable:
    """The table of a contract whose sign-up has another rule."""

    def change(files: FileDescriptorSet) -> None:
        http = method_in(files, SIGN_UP).options.Extensions[annotations_pb2.http]
        http.Clear()
        for name, value in rule.items():
            setattr(http, name, value)

    return RouteTable(a_contract_where(change).specs)


def test_a_body_may_be_one_field() -> None:
    match = routes_after(put="/api/v1/people/{user_id}", body="name").match("PUT", "/api/v1/people/ann")
    request = read_request(match, [("request_id", "r1")], "Ann")
    assert (request.user_id, request.name, request.request_id) == ("ann", "Ann", "r1")  # type: ignore[attr-defined] # a dynamic message


@pytest.mark.parametrize(
    "rule",
    [
        {"post": "/api/v1/users/{nobody}", "body": "*"},
        {"post": "/api/v1/users/{user_id=*}", "body": "*"},
        {"post": "/api/v1/users/**", "body": "*"},
        {"post": "api/v1/users", "body": "*"},
        {"post": "/api/v1/users", "body": "nobody"},
        {"get": "/api/v1/users", "body": "*"},
        {"post": "/api/v1/users", "response_body": "user"},
        {"post": "/api/v1/sessions", "body": "*"},
    ],
)
def test_a_rule_that_cannot_be_served_is_refused_at_the_start(rule: dict[str, str]) -> None:
    with pytest.raises(BadRule):
        routes_after(**rule)
