"""The OpenAPI and AsyncAPI documents are valid, and say what the codec does."""

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.message import Message
from openapi_spec_validator import OpenAPIV31SpecValidator

from discovery.contract import MethodSpec, contract_files, frames, methods
from edge.asyncapi import asyncapi_document
from edge.codec.json import encode_message
from edge.comments import Comments
from edge.openapi import openapi_document
from edge.schema import is_filled_by_mesh
from edge.transcoding import Route, RouteTable, descriptor_of
from tests.support.contract import a_contract_where, message_in
from tests.support.violations import a_valid

COMMENTS = Comments(contract_files())
TABLE = RouteTable(methods().values())
OPENAPI: dict[str, Any] = openapi_document(TABLE, COMMENTS)
ASYNCAPI: dict[str, Any] = asyncapi_document(methods().values(), COMMENTS)
OFFICIAL = Path(__file__).parents[2] / "support" / "schemas" / "asyncapi-3.0.0.json"


def operation(name: str) -> dict[str, Any]:
    return next(found for path in OPENAPI["paths"].values() for found in path.values() if found["operationId"] == name)


def body_of(name: str) -> dict[str, Any]:
    schema: dict[str, Any] = operation(name)["requestBody"]["content"]["application/json"]["schema"]
    return schema


def frame(key: str) -> dict[str, Any]:
    payload: dict[str, Any] = ASYNCAPI["components"]["messages"][key]["payload"]
    return payload


def check(value: object, schema: object, document: dict[str, Any]) -> None:
    """Raises jsonschema.ValidationError."""
    whole = {"components": document["components"], "allOf": [schema]}
    jsonschema.Draft202012Validator(whole).validate(value)


def test_the_openapi_document_is_valid() -> None:
    OpenAPIV31SpecValidator(OPENAPI).validate()


def test_the_asyncapi_document_is_valid_by_the_official_schema() -> None:
    jsonschema.Draft7Validator(json.loads(OFFICIAL.read_text())).validate(ASYNCAPI)


def test_every_reference_leads_somewhere() -> None:
    for document in (OPENAPI, ASYNCAPI):
        for reference in references(document):
            target: Any = document
            for step in reference.removeprefix("#/").split("/"):
                target = target[step]
            assert target


def references(value: object) -> list[str]:
    if isinstance(value, dict):
        own = [value["$ref"]] if "$ref" in value else []
        return own + [found for inner in value.values() for found in references(inner)]
    return [found for inner in value for found in references(inner)] if isinstance(value, list) else []


def test_everything_is_described() -> None:
    silent = [name for name, schema in OPENAPI["components"]["schemas"].items() if not schema.get("description")]
    assert silent == ["OtherDetail"]
    assert all(message["summary"] for message in ASYNCAPI["components"]["messages"].values())


@pytest.mark.parametrize("route", list(TABLE), ids=lambda route: route.spec.name)
def test_an_answer_is_as_documented(route: Route) -> None:
    schema = operation(route.spec.name)["responses"]["200"]["content"]["application/json"]["schema"]
    check(encode_message(a_valid(route.spec.response_type)), schema, OPENAPI)


@pytest.mark.parametrize("route", [route for route in TABLE if route.body], ids=lambda route: route.spec.name)
def test_a_valid_body_fits_its_schema_and_an_unknown_field_does_not(route: Route) -> None:
    body = sent_by_users(a_valid(route.spec.request_type), leave_out=route.variables)
    check(body, body_of(route.spec.name), OPENAPI)
    with pytest.raises(jsonschema.ValidationError):
        check({**body, "colour": "blue"}, body_of(route.spec.name), OPENAPI)


@pytest.mark.parametrize("spec", frames().values(), ids=lambda spec: spec.frame)
def test_a_valid_frame_fits_its_schema(spec: MethodSpec) -> None:
    fields = sent_by_users(a_valid(spec.request_type))
    check({"type": spec.frame, "id": "1", **fields}, frame(f"client.{spec.frame}"), ASYNCAPI)
    if not spec.one_way:
        answer = encode_message(a_valid(spec.response_type))
        check({"type": spec.reply, "id": "1", **answer}, frame(f"server.{spec.reply}"), ASYNCAPI)


def sent_by_users(request: Message, leave_out: tuple[str, ...] = ()) -> dict[str, object]:
    """The fields that a user gives: not what the mesh fills, not what stands in the path, nothing that is empty."""
    fields = descriptor_of(type(request)).fields_by_name
    return {
        name: value
        for name, value in encode_message(request).items()
        if name not in leave_out and not is_filled_by_mesh(fields[name]) and value not in ("", [])
    }


def test_operations_are_named_for_their_rpcs() -> None:
    names = {found["operationId"] for path in OPENAPI["paths"].values() for found in path.values()}
    assert names == {route.spec.name for route in TABLE}


def test_rules_become_keywords() -> None:
    properties = body_of("CreateUser")["properties"]
    assert properties["user_id"]["pattern"] == "^[A-Za-z0-9_.@+-]{1,64}$"
    assert (properties["name"]["minLength"], properties["name"]["maxLength"]) == (1, 100)
    assert properties["password"]["format"] == "password"
    assert body_of("CreateUser")["required"] == ["user_id", "name", "password"]


def test_lists_keep_their_bounds() -> None:
    members = body_of("AddMembers")["properties"]["member_ids"]
    assert (members["minItems"], members["maxItems"], members["uniqueItems"]) == (1, 99, True)
    assert members["items"]["pattern"] == "^[A-Za-z0-9_.@+-]{1,64}$"


def test_numbers_keep_their_bounds() -> None:
    page_size = next(item for item in operation("ListFriends")["parameters"] if item["name"] == "page_size")
    assert (page_size["schema"]["minimum"], page_size["schema"]["maximum"]) == (0, 200)
    assert (frame("client.location_update")["properties"]["lat"]["maximum"]) == 90.0


def test_wide_integers_are_strings() -> None:
    seq = OPENAPI["components"]["schemas"]["Message"]["properties"]["seq"]
    assert (seq["type"], seq["format"]) == ("string", "uint64")


def test_enums_go_by_their_short_names() -> None:
    assert OPENAPI["components"]["schemas"]["PresenceStatus"]["enum"] == ["ONLINE", "AWAY", "OFFLINE"]
    assert frame("client.set_presence")["properties"]["status"]["enum"] == ["ONLINE", "AWAY"]


def test_what_the_mesh_fills_is_not_asked_for() -> None:
    names = {item["name"] for item in operation("ListDevices")["parameters"]}
    assert names == {"page_size", "page_token"}
    assert frame("client.received")["properties"].keys() == {"type", "id", "pos"}


def test_path_variables_stand_in_the_path_only() -> None:
    found = operation("SendMessage")
    assert [(item["name"], item["in"], item["required"]) for item in found["parameters"]] == [
        ("conversation_id", "path", True)
    ]
    assert "conversation_id" not in body_of("SendMessage")["properties"]


def test_only_public_operations_need_no_token() -> None:
    public = {
        found["operationId"] for path in OPENAPI["paths"].values() for found in path.values() if not found["security"]
    }
    assert public == {"CreateUser", "CreateSession", "RefreshSession"}


def test_errors_stand_under_the_status_of_their_code() -> None:
    answers = operation("AddFriend")["responses"]
    assert "NO_SUCH_USER" in answers["404"]["description"]
    assert "BLOCKED" in answers["403"]["description"]
    assert "EXPIRED_TOKEN" in answers["401"]["description"]


def test_a_frame_without_an_answer_is_answered_only_when_it_fails() -> None:
    replies = ASYNCAPI["operations"]["receive.typing"]["reply"]["messages"]
    assert replies == [{"$ref": "#/channels/ws/messages/server.error"}]


def test_a_flat_event_is_told_by_its_type() -> None:
    event = {
        "type": "message_status",
        "pos": "0",
        "conversation_id": "g.1",
        "seq": "1",
        "status": "SEEN",
        "user_id": "ann",
    }
    schema = {"$ref": "#/components/schemas/InboxEvent"}
    check(event, schema, OPENAPI)
    with pytest.raises(jsonschema.ValidationError):
        check({**event, "type": "presence"}, schema, OPENAPI)


def test_a_request_whose_field_has_no_room_in_a_frame_is_refused() -> None:
    def change(files: FileDescriptorSet) -> None:
        message_in(files, "hither.messaging.v1.MarkReadRequest").field[1].name = "type"

    with pytest.raises(ValueError, match="no room"):
        asyncapi_document(a_contract_where(change).specs, COMMENTS)
