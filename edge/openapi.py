"""The OpenAPI 3.1 document of the REST routes, made from the descriptors and their comments.

An operation is named for its RPC, describes what the contract's comments say, and lists the errors that its comment
names ("Fails with NOT_A_MEMBER") under the HTTP status that their code maps to.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from typing import Final

from google.protobuf.descriptor import FieldDescriptor

from discovery.contract import MethodSpec
from discovery.errors import HitherError
from discovery.rpc.status import code_name, http_code
from edge.comments import Comments
from edge.schema import Schema, Schemas, is_filled_by_mesh, rules_of
from edge.transcoding import WHOLE_BODY, Route, RouteTable, descriptor_of, query_fields
from hither.mesh.v1 import errors_pb2, options_pb2

_REASON_PREFIX = "REASON_"
_ANY_REQUEST = (
    "MALFORMED_FRAME",
    "UNKNOWN_FIELD",
    "INVALID_REQUEST",
    "OVERLOADED",
    "NO_OWNER",
    "ENGINE_DOWN",
    "DEADLINE",
    "BUG",
)
_SIGNED_IN = ("NO_CREDENTIALS", "BAD_TOKEN", "EXPIRED_TOKEN", "ACCESS_DENIED")
_PUBLIC = ("RATE_LIMITED",)
_TITLES: Final = {
    400: "The request is wrong.",
    401: "Who calls is not known.",
    403: "Who calls may not.",
    404: "Not found.",
    409: "It does not fit what is there.",
    429: "A limit is reached; Retry-After says when to come back.",
    500: "A bug; the log tells more.",
    501: "Not built yet.",
    503: "Not now; Retry-After says when to come back.",
    504: "No answer in time; the outcome is not known.",
}


def openapi_document(table: RouteTable, comments: Comments) -> Schema:
    """The document for every route of a table."""
    schemas = Schemas(comments)
    errors = Errors(comments)
    paths: dict[str, dict[str, object]] = {}
    for route in table:
        paths.setdefault(route.template, {})[route.http_method.lower()] = _operation(route, comments, schemas, errors)
    services = sorted({route.spec.service for route in table})
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Hither",
            "version": version("hither"),
            "summary": "Messages, presence and whereabouts between people.",
            "description": (
                "64-bit integers are strings, timestamps RFC 3339, fields as in the proto files; an unknown field is "
                "refused. Errors are a google.rpc.Status with one ErrorInfo, whose reason names what happened."
            ),
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "tags": [{"name": tag_of(service), "description": comments.of(service)} for service in services],
        "paths": paths,
        "components": {
            "schemas": {**dict(sorted(schemas.components.items())), **_status_schemas(errors)},
            "securitySchemes": {
                "bearer": {
                    "type": "http",
                    "scheme": "bearer",
                    "bearerFormat": "JWT",
                    "description": "The access token of a session.",
                }
            },
        },
    }


def tag_of(service: str) -> str:
    """The name under which a service's operations stand: "Messaging" for hither.messaging.v1.MessagingService."""
    return service.rpartition(".")[2].removesuffix("Service")


class Errors:
    """What the contract says of each reason: the code that it comes with, and the HTTP status of that."""

    def __init__(self, comments: Comments) -> None:
        statuses = {code_name(error): http_code(error) for error in (kind() for kind in _kinds(HitherError))}
        self._said: dict[str, tuple[int, str]] = {}
        for value in errors_pb2.Reason.DESCRIPTOR.values:
            code, _, words = comments.of(f"{errors_pb2.Reason.DESCRIPTOR.full_name}.{value.name}").partition(": ")
            if code in statuses:
                self._said[value.name.removeprefix(_REASON_PREFIX)] = (statuses[code], words)

    @property
    def reasons(self) -> Sequence[str]:
        """Every reason that may be sent."""
        return list(self._said)

    def status_of(self, reason: str) -> int:
        """The HTTP status of a reason. Raises KeyError if there is none."""
        return self._said[reason][0]

    def words_of(self, reason: str) -> str:
        """What it means."""
        return self._said[reason][1]

    def named_in(self, comment: str) -> list[str]:
        """The reasons that a comment names, in its order."""
        return [word for word in re.findall(r"\b[A-Z][A-Z_]+\b", comment) if word in self._said]


def _kinds(base: type[HitherError]) -> Iterable[type[HitherError]]:
    for kind in base.__subclasses__():
        if kind.__module__ == HitherError.__module__:
            yield kind
            yield from _kinds(kind)


def _operation(route: Route, comments: Comments, schemas: Schemas, errors: Errors) -> Schema:
    spec = route.spec
    words = comments.of(spec.descriptor.full_name)
    summary, _, rest = words.partition(". ")
    public = spec.access == options_pb2.ACCESS_PUBLIC
    operation: Schema = {
        "operationId": spec.name,
        "tags": [tag_of(spec.service)],
        "summary": summary.removesuffix(".") + ".",
        **({"description": rest} if rest else {}),
        "security": [] if public else [{"bearer": []}],
        "x-hither-method": spec.path,
    }
    if spec.frame:
        operation["x-hither-frame"] = spec.frame
    if parameters := _parameters(route, schemas):
        operation["parameters"] = parameters
    if route.body:
        operation["requestBody"] = {"required": True, "content": _json(_body(route, schemas))}
    operation["responses"] = {
        "200": {
            "description": comments.of(spec.response_type.DESCRIPTOR.full_name),
            "content": _json(schemas.ref(descriptor_of(spec.response_type))),
        },
        **_failures(spec, words, errors),
    }
    return operation


def _parameters(route: Route, schemas: Schemas) -> list[Schema]:
    request = descriptor_of(route.spec.request_type)
    fields = dict(query_fields(request))
    found: list[Schema] = [_parameter("path", path, fields[path], schemas) for path in route.variables]
    if route.body == WHOLE_BODY:
        return found
    for path, field in fields.items():
        if path in route.variables or path.partition(".")[0] == route.body or is_filled_by_mesh(field):
            continue
        found.append(_parameter("query", path, field, schemas))
    return found


def _parameter(place: str, path: str, field: FieldDescriptor, schemas: Schemas) -> Schema:
    schema = schemas.field(field)
    words = schema.pop("description", "")
    required = place == "path" or rules_of(field).required
    return {"name": path, "in": place, "required": required, "description": words, "schema": schema}


def _body(route: Route, schemas: Schemas) -> Schema:
    request = descriptor_of(route.spec.request_type)
    if route.body != WHOLE_BODY:
        return schemas.field(request.fields_by_name[route.body])
    return schemas.message(request, leave_out=route.variables)


def _failures(spec: MethodSpec, words: str, errors: Errors) -> dict[str, Schema]:
    general = _PUBLIC if spec.access == options_pb2.ACCESS_PUBLIC else _SIGNED_IN
    by_status: dict[int, list[str]] = {}
    for reason in dict.fromkeys((*_ANY_REQUEST, *general, *errors.named_in(words))):
        by_status.setdefault(errors.status_of(reason), []).append(reason)
    return {
        str(status): {
            "description": " ".join(
                [_TITLES.get(status, "It failed."), *(f"{reason}: {errors.words_of(reason)}" for reason in reasons)]
            ),
            "content": _json({"$ref": "#/components/schemas/Status"}),
            **({"headers": _RETRY_AFTER} if status in (429, 503) else {}),
        }
        for status, reasons in sorted(by_status.items())
    }


_RETRY_AFTER: Schema = {"Retry-After": {"description": "Seconds to wait.", "schema": {"type": "integer", "minimum": 1}}}


def _json(schema: Schema) -> Schema:
    return {"application/json": {"schema": schema}}


def _status_schemas(errors: Errors) -> Mapping[str, Schema]:
    return {
        "Status": {
            "type": "object",
            "description": "google.rpc.Status: what went wrong.",
            "properties": {
                "code": {"type": "integer", "description": "A google.rpc.Code."},
                "message": {"type": "string", "description": "For developers."},
                "details": {
                    "type": "array",
                    "description": "Exactly one ErrorInfo, and what else helps.",
                    "items": {
                        "anyOf": [
                            {"$ref": f"#/components/schemas/{name}"}
                            for name in ("ErrorInfo", "BadRequest", "RetryInfo")
                        ]
                        + [{"$ref": "#/components/schemas/OtherDetail"}]
                    },
                },
            },
            "required": ["code", "message", "details"],
        },
        "ErrorInfo": _detail(
            "ErrorInfo",
            "Why, as a name that programs can depend on.",
            {
                "reason": {"type": "string", "enum": list(errors.reasons)},
                "domain": {"const": "hither"},
                "metadata": {"type": "object", "additionalProperties": {"type": "string"}},
            },
            ["reason", "domain"],
        ),
        "BadRequest": _detail(
            "BadRequest",
            "The fields that break a rule.",
            {
                "field_violations": {
                    "type": "array",
                    "items": {
                        "type": "object",
                        "properties": {"field": {"type": "string"}, "description": {"type": "string"}},
                    },
                }
            },
            ["field_violations"],
        ),
        "RetryInfo": _detail(
            "RetryInfo",
            "When to try again.",
            {"retry_delay": {"type": "string", "examples": ["1.500s"]}},
            ["retry_delay"],
        ),
        "OtherDetail": {"type": "object", "properties": {"@type": {"type": "string"}}, "required": ["@type"]},
    }


def _detail(name: str, words: str, properties: Schema, required: list[str]) -> Schema:
    return {
        "type": "object",
        "description": words,
        "properties": {"@type": {"const": f"type.googleapis.com/google.rpc.{name}"}, **properties},
        "required": ["@type", *required],
    }
