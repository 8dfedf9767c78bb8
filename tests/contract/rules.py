"""What every contract must keep to. Each rule looks at a whole contract and tells what breaks it.

Nothing here names an operation, except where an exception is stated with its reason.
"""

from collections.abc import Callable, Iterator
from typing import Final

from buf.validate import validate_pb2
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.descriptor_pb2 import MethodOptions

from discovery.contract import MethodSpec
from edge.asyncapi import FIXED, OPENING, event_kinds
from edge.comments import elements_of
from edge.schema import filled_of, rules_of
from edge.transcoding import descriptor_of, routes_of
from hither.mesh.v1 import options_pb2
from tests.support.contract import Contract, fields_below

Rule = Callable[[Contract], Iterator[str]]

UNPAGED: Final = {"ListFriendIds": "for the services, bounded: a user has up to 10,000 friends"}
UNREPEATABLE: Final = {
    "SendTestPush": "a test that is repeated is another test; there is one in 10 s at most",
    "CreateSession": "signing in twice makes two pairs of tokens; neither harms the other",
    "RefreshSession": "a refresh token serves once, so that the token is the request's id",
}

_FD = FieldDescriptor


def has_access(contract: Contract) -> Iterator[str]:
    """Every RPC says who may call it."""
    for spec in contract.specs:
        if spec.access == options_pb2.ACCESS_UNSPECIFIED:
            yield f"{spec.path} has no access"


def has_comments(contract: Contract) -> Iterator[str]:
    """Every service, RPC, message, field, oneof, enum, value and option has a comment."""
    comments = contract.comments
    for file in contract.own_files:
        for name, _ in elements_of(file):
            if not comments.of(name):
                yield f"{name} has no comment"


def has_its_own_request_and_response(contract: Contract) -> Iterator[str]:
    """An RPC X takes an XRequest and answers with an XResponse, which nobody else uses."""
    for spec in unary(contract):
        for kind, message in (("Request", spec.request_type), ("Response", spec.response_type)):
            if message.DESCRIPTOR.name != f"{spec.name}{kind}":
                yield f"{spec.path}: {message.DESCRIPTOR.name} should be {spec.name}{kind}"


def routes_by_a_string(contract: Contract) -> Iterator[str]:
    """A routing key leads to a string field, through at most one repeated field."""
    for spec in contract.specs:
        if not spec.routing_key:
            continue
        path = list(_along(descriptor_of(spec.request_type), spec.routing_key))
        last = path[-1]
        if last is None:
            yield f"{spec.path}: {spec.routing_key} is no field of the request"
        elif last.type != _FD.TYPE_STRING or sum(field.is_repeated for field in path if field) > 1:
            yield f"{spec.path}: {spec.routing_key} is no string behind at most one repeated field"


def has_a_frame_of_its_own(contract: Contract) -> Iterator[str]:
    """A frame type calls one method, and an answer is told from an event and from the frames of the connection."""
    taken: dict[str, str] = dict.fromkeys(OPENING, "the connection")
    for spec in contract.specs:
        if spec.frame and (other := taken.setdefault(spec.frame, spec.path)) != spec.path:
            yield f"{spec.path}: the frame {spec.frame} belongs to {other}"
    sent = {*FIXED, *(kind.name for kind in event_kinds())}
    answers: dict[str, str] = {}
    for spec in contract.specs:
        if not spec.frame or spec.one_way or spec.reply == "ok":
            continue
        if spec.reply in sent or answers.setdefault(spec.reply, spec.path) != spec.path:
            yield f"{spec.path}: the reply {spec.reply} means something else already"


ADVICE_BESIDE_OK = frozenset({"location_update"})
"""Frames whose `ok` says something that a client may ignore."""


def answers_ok_with_nothing(contract: Contract) -> Iterator[str]:
    """A frame that is answered with `ok`, or not at all, has nothing to say: its response is empty."""
    for spec in contract.specs:
        if spec.frame in ADVICE_BESIDE_OK:
            continue
        if spec.frame and (spec.one_way or spec.reply == "ok") and spec.response_type.DESCRIPTOR.fields:
            yield f"{spec.path}: {spec.response_type.DESCRIPTOR.name} would be lost behind `ok`"


def validates_what_callers_fill(contract: Contract) -> Iterator[str]:
    """Every field that a caller fills has a rule; of booleans there is nothing to forbid, and messages are looked into."""
    for spec in unary(contract):
        for field in fields_below(descriptor_of(spec.request_type)):
            single_message = field.message_type is not None and not field.is_repeated
            if single_message or field.type == _FD.TYPE_BOOL or filled_of(field):
                continue
            if not _says_something(rules_of(field)):
                yield f"{field.full_name} has no validation rule"
            elif field.is_repeated and not rules_of(field).repeated.max_items:
                yield f"{field.full_name} may be endless: it needs max_items"


def pages_its_lists(contract: Contract) -> Iterator[str]:
    """A list is read in pages from the first day."""
    for spec in unary(contract):
        if not spec.name.startswith(("List", "Sync")) or spec.name in UNPAGED:
            continue
        asked, given = descriptor_of(spec.request_type), descriptor_of(spec.response_type)
        if {"page_size", "limit"}.isdisjoint(asked.fields_by_name):
            yield f"{spec.path}: {asked.name} has no page_size"
        if {"next_page_token", "next_pos"}.isdisjoint(given.fields_by_name):
            yield f"{spec.path}: {given.name} has no next_page_token"
        if "next_page_token" in given.fields_by_name and "page_token" not in asked.fields_by_name:
            yield f"{spec.path}: {asked.name} has no page_token"


def can_be_repeated(contract: Contract) -> Iterator[str]:
    """A mutation that does not say that repeating it is harmless carries an id that makes it so."""
    for spec in unary(contract):
        if spec.idempotent or spec.name in UNREPEATABLE:
            continue
        if {"request_id", "client_id"}.isdisjoint(descriptor_of(spec.request_type).fields_by_name):
            yield f"{spec.path}: {spec.request_type.DESCRIPTOR.name} has no request_id"


def reads_by_get(contract: Contract) -> Iterator[str]:
    """REST stands under /api/v1, and GET is for what has no side effects, and the other way round."""
    for spec in contract.specs:
        for route in routes_of(spec):
            reads = spec.descriptor.GetOptions().idempotency_level == MethodOptions.NO_SIDE_EFFECTS
            if not route.template.startswith("/api/v1/"):
                yield f"{spec.path}: {route.template} is not under /api/v1/"
            if reads != (route.http_method == "GET"):
                yield f"{spec.path}: {route.http_method} does not fit its idempotency"
            if spec.access not in (options_pb2.ACCESS_PUBLIC, options_pb2.ACCESS_USER):
                yield f"{spec.path}: clients can reach it by REST and may never call it"


def serves_clients_what_they_may_call(contract: Contract) -> Iterator[str]:
    """What users may call has a way in, and what has a frame is for users."""
    for spec in contract.specs:
        if spec.access in (options_pb2.ACCESS_PUBLIC, options_pb2.ACCESS_USER):
            if not spec.frame and not list(routes_of(spec)):
                yield f"{spec.path} is open to users and has neither frame nor route"
        elif spec.frame:
            yield f"{spec.path} has the frame {spec.frame} and is not open to users"


RULES: Final[tuple[Rule, ...]] = (
    has_access,
    has_comments,
    has_its_own_request_and_response,
    routes_by_a_string,
    has_a_frame_of_its_own,
    answers_ok_with_nothing,
    validates_what_callers_fill,
    pages_its_lists,
    can_be_repeated,
    reads_by_get,
    serves_clients_what_they_may_call,
)


def unary(contract: Contract) -> Iterator[MethodSpec]:
    """The RPCs that are no streams: streams carry batches of the mesh's own making."""
    return (spec for spec in contract.specs if not spec.streaming)


def _along(message: Descriptor, path: str) -> Iterator[FieldDescriptor | None]:
    step: Descriptor | None = message
    for name in path.split("."):
        field = step.fields_by_name.get(name) if step is not None else None
        yield field
        step = field.message_type if field is not None else None


def _says_something(rules: validate_pb2.FieldRules) -> bool:
    kind = rules.WhichOneof("type")
    return rules.required or bool(rules.cel) or (kind is not None and getattr(rules, kind).ByteSize() > 0)
