"""The contract keeps to its rules, and each rule would notice if it did not."""

from collections.abc import Callable

import pytest
from buf.validate import validate_pb2
from google.api import annotations_pb2
from google.protobuf.descriptor_pb2 import FileDescriptorSet, MethodOptions

from hither.mesh.v1 import options_pb2
from tests.contract import rules
from tests.contract.rules import RULES, Rule
from tests.support.contract import a_contract_where, field_in, message_in, method_in, service_in, the_contract

MESSAGING = "hither.messaging.v1.MessagingService"
DIRECTORY = "hither.directory.v1.DirectoryService"

Change = Callable[[FileDescriptorSet], None]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_contract_keeps_the_rule(rule: Rule) -> None:
    assert list(rule(the_contract())) == []


def without_access(files: FileDescriptorSet) -> None:
    method_in(files, f"{MESSAGING}.MarkRead").options.ClearExtension(options_pb2.access)


def without_comments(files: FileDescriptorSet) -> None:
    for file in files.file:
        file.ClearField("source_code_info")


def an_rpc_without_a_comment(files: FileDescriptorSet) -> None:
    added = service_in(files, MESSAGING).method.add()
    added.CopyFrom(method_in(files, f"{MESSAGING}.MarkRead"))
    added.name = "Added"


def a_shared_request(files: FileDescriptorSet) -> None:
    method_in(files, f"{MESSAGING}.MarkRead").input_type = ".hither.messaging.v1.SendTypingRequest"


def a_routing_key_that_is_no_field(files: FileDescriptorSet) -> None:
    method_in(files, f"{MESSAGING}.MarkRead").options.Extensions[options_pb2.routing_key] = "conversation"


def a_routing_key_that_is_a_number(files: FileDescriptorSet) -> None:
    method_in(files, f"{MESSAGING}.MarkRead").options.Extensions[options_pb2.routing_key] = "seq"


def a_frame_that_is_taken(files: FileDescriptorSet) -> None:
    method_in(files, f"{MESSAGING}.MarkRead").options.Extensions[options_pb2.frame] = "typing"


def a_frame_of_the_connection(files: FileDescriptorSet) -> None:
    method_in(files, f"{MESSAGING}.MarkRead").options.Extensions[options_pb2.frame] = "ping"


def a_reply_that_is_an_event(files: FileDescriptorSet) -> None:
    method_in(files, f"{MESSAGING}.SendMessage").options.Extensions[options_pb2.reply] = "message"


def an_answer_that_would_be_lost(files: FileDescriptorSet) -> None:
    method_in(files, f"{MESSAGING}.SendMessage").options.ClearExtension(options_pb2.reply)


def a_string_without_a_rule(files: FileDescriptorSet) -> None:
    field_in(files, "hither.messaging.v1.MarkReadRequest.conversation_id").options.ClearExtension(validate_pb2.field)


def a_number_without_a_rule(files: FileDescriptorSet) -> None:
    field_in(files, "hither.messaging.v1.MarkReadRequest.seq").options.ClearExtension(validate_pb2.field)


def an_inner_field_without_a_rule(files: FileDescriptorSet) -> None:
    field_in(files, "hither.messaging.v1.Content.data").options.ClearExtension(validate_pb2.field)


def a_rule_that_says_nothing(files: FileDescriptorSet) -> None:
    rule = field_in(files, "hither.messaging.v1.MarkReadRequest.seq").options.Extensions[validate_pb2.field]
    rule.Clear()
    rule.uint64.SetInParent()


def a_list_without_an_end(files: FileDescriptorSet) -> None:
    field = field_in(files, "hither.directory.v1.AddMembersRequest.member_ids")
    field.options.Extensions[validate_pb2.field].repeated.ClearField("max_items")


def a_list_in_one_piece(files: FileDescriptorSet) -> None:
    for name in ("page_size", "page_token"):
        field_in(files, f"hither.directory.v1.ListFriendsRequest.{name}").name = f"other_{name}"


def a_list_without_a_next_page(files: FileDescriptorSet) -> None:
    field_in(files, "hither.directory.v1.ListFriendsResponse.next_page_token").name = "other"


def a_mutation_without_an_id(files: FileDescriptorSet) -> None:
    fields = message_in(files, "hither.directory.v1.CreateConversationRequest").field
    del fields[[field.name for field in fields].index("request_id")]


def a_change_by_get(files: FileDescriptorSet) -> None:
    options = method_in(files, f"{DIRECTORY}.ListFriends").options
    options.idempotency_level = MethodOptions.IDEMPOTENT


def a_route_elsewhere(files: FileDescriptorSet) -> None:
    method_in(files, f"{DIRECTORY}.ListFriends").options.Extensions[annotations_pb2.http].get = "/friends"


def a_route_to_what_nobody_may_call(files: FileDescriptorSet) -> None:
    method_in(files, f"{DIRECTORY}.ListFriends").options.Extensions[options_pb2.access] = options_pb2.ACCESS_SERVICE


def an_operation_without_a_way_in(files: FileDescriptorSet) -> None:
    method_in(files, f"{DIRECTORY}.ListFriends").options.ClearExtension(annotations_pb2.http)


def a_frame_that_nobody_may_call(files: FileDescriptorSet) -> None:
    method_in(files, f"{MESSAGING}.SendTyping").options.Extensions[options_pb2.access] = options_pb2.ACCESS_ADMIN


@pytest.mark.parametrize(
    ("rule", "change"),
    [
        (rules.has_access, without_access),
        (rules.has_comments, without_comments),
        (rules.has_comments, an_rpc_without_a_comment),
        (rules.has_its_own_request_and_response, a_shared_request),
        (rules.routes_by_a_string, a_routing_key_that_is_no_field),
        (rules.routes_by_a_string, a_routing_key_that_is_a_number),
        (rules.has_a_frame_of_its_own, a_frame_that_is_taken),
        (rules.has_a_frame_of_its_own, a_frame_of_the_connection),
        (rules.has_a_frame_of_its_own, a_reply_that_is_an_event),
        (rules.answers_ok_with_nothing, an_answer_that_would_be_lost),
        (rules.validates_what_callers_fill, a_string_without_a_rule),
        (rules.validates_what_callers_fill, a_number_without_a_rule),
        (rules.validates_what_callers_fill, an_inner_field_without_a_rule),
        (rules.validates_what_callers_fill, a_rule_that_says_nothing),
        (rules.validates_what_callers_fill, a_list_without_an_end),
        (rules.pages_its_lists, a_list_in_one_piece),
        (rules.pages_its_lists, a_list_without_a_next_page),
        (rules.can_be_repeated, a_mutation_without_an_id),
        (rules.reads_by_get, a_change_by_get),
        (rules.reads_by_get, a_route_elsewhere),
        (rules.reads_by_get, a_route_to_what_nobody_may_call),
        (rules.serves_clients_what_they_may_call, an_operation_without_a_way_in),
        (rules.serves_clients_what_they_may_call, a_frame_that_nobody_may_call),
    ],
    ids=lambda value: value.__name__,
)
def test_a_contract_with_this_is_caught(rule: Rule, change: Change) -> None:
    assert list(rule(a_contract_where(change))) != []


def test_every_rule_was_seen_to_fail() -> None:
    marks = test_a_contract_with_this_is_caught.pytestmark  # type: ignore[attr-defined] # pytest puts it there
    assert {rule for rule, _ in marks[0].args[1]} == set(RULES)
