"""REST routes from the contract's google.api.http rules, and requests from what crosses them.

Pure: knows rules, paths and JSON values; never a socket, a header or a caller. The rules are compiled once into a
tree of path segments. A rule that this room does not carry out is refused when the table is made, not when a client
meets it.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, cast
from urllib.parse import unquote_to_bytes

from google.api import annotations_pb2, http_pb2
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from discovery.contract import MethodSpec
from discovery.errors import HitherError, InvalidArgument, NotFound, Unimplemented, Violation
from edge.codec.json import decode_message

WHOLE_BODY: Final = "*"
_MAX_DEPTH = 3
_VARIABLE = ""
_SEGMENT = re.compile(r"[^/{}:*]+|\{[a-z0-9_.]+\}")
_INTEGER = re.compile(r"-?[0-9]{1,20}")
_NUMBER = re.compile(r"-?[0-9]{1,40}(\.[0-9]{1,40})?([eE][+-]?[0-9]{1,3})?")
_NARROW = {FieldDescriptor.CPPTYPE_INT32, FieldDescriptor.CPPTYPE_UINT32}
_REAL = {FieldDescriptor.CPPTYPE_DOUBLE, FieldDescriptor.CPPTYPE_FLOAT}
_TRUTH = {"true": True, "false": False}
_SPELT_AS_STRING = {"google.protobuf.Timestamp", "google.protobuf.Duration", "google.protobuf.FieldMask"}


class BadRule(Exception):
    """A google.api.http rule that cannot be served; the message names the method and says why."""


class MethodNotAllowed(Unimplemented):
    """The path exists, but not under this HTTP method. `allowed` are those under which it does."""

    reason = "UNKNOWN_TYPE"

    def __init__(self, allowed: Sequence[str]) -> None:
        super().__init__(f"this path takes {', '.join(allowed)}")
        self.allowed = tuple(allowed)


@dataclass(frozen=True, slots=True)
class Route:
    """One HTTP method on one path template.

    `template` is the rule's ("/api/v1/conversations/{conversation_id}:markRead"); `segments` its parts without the
    verb, a variable as "{path}"; `body` is empty, "*" or the name of a request field.
    """

    spec: MethodSpec
    http_method: str
    template: str
    segments: tuple[str, ...]
    verb: str
    body: str

    @property
    def variables(self) -> tuple[str, ...]:
        """The request fields that the path names, as paths through messages."""
        return tuple(segment[1:-1] for segment in self.segments if segment.startswith("{"))


@dataclass(frozen=True, slots=True)
class Match:
    """A route and what the path says of the request."""

    route: Route
    variables: Mapping[str, str]


@dataclass(slots=True)
class _Node:
    children: dict[str, "_Node"] = field(default_factory=dict)
    routes: dict[tuple[str, str], Route] = field(default_factory=dict)
    """By verb and HTTP method."""


class RouteTable:
    """Every route of a contract."""

    def __init__(self, specs: Iterable[MethodSpec]) -> None:
        """Raises BadRule for a rule that cannot be served, or two that say the same."""
        self._root = _Node()
        self._routes: list[Route] = []
        for spec in specs:
            for route in routes_of(spec):
                self._add(route)

    def __iter__(self) -> Iterator[Route]:
        return iter(self._routes)

    def match(self, http_method: str, raw_path: str) -> Match:
        """The route of a path that is still percent-encoded. HEAD finds what GET finds.

        Raises NotFound NO_SUCH_ROUTE, MethodNotAllowed, or InvalidArgument for a path that is not UTF-8.
        """
        wanted = "GET" if http_method == "HEAD" else http_method
        for verb, segments in _readings(raw_path):
            allowed: set[str] = set()
            for node, values in _walk(self._root, segments, ()):
                route = node.routes.get((verb, wanted))
                if route is not None:
                    return Match(route, dict(zip(route.variables, map(_decoded, values), strict=True)))
                allowed.update(method for known, method in node.routes if known == verb)
            if allowed:
                raise MethodNotAllowed(sorted(allowed | ({"HEAD"} if "GET" in allowed else set())))
        raise NotFound("no such path", reason="NO_SUCH_ROUTE")

    def _add(self, route: Route) -> None:
        node = self._root
        for segment in route.segments:
            node = node.children.setdefault(_VARIABLE if segment.startswith("{") else segment, _Node())
        other = node.routes.setdefault((route.verb, route.http_method), route)
        if other is not route:
            raise BadRule(f"{route.spec.path} and {other.spec.path}: both are {route.http_method} {route.template}")
        self._routes.append(route)


def routes_of(spec: MethodSpec) -> Iterator[Route]:
    """The routes of one method: none without a rule. Raises BadRule."""
    options = spec.descriptor.GetOptions()
    if not options.HasExtension(annotations_pb2.http):
        return
    rule: http_pb2.HttpRule = options.Extensions[annotations_pb2.http]
    for binding in (rule, *rule.additional_bindings):
        yield _route(spec, binding)


def _route(spec: MethodSpec, rule: http_pb2.HttpRule) -> Route:
    pattern = rule.WhichOneof("pattern")
    if pattern is None or pattern == "custom" or rule.response_body:
        raise BadRule(f"{spec.path}: a rule must be one of get, put, post, delete and patch, without response_body")
    template: str = getattr(rule, pattern)
    path, _, verb = template.partition(":")
    segments = tuple(path.removeprefix("/").split("/"))
    if not path.startswith("/") or not all(_SEGMENT.fullmatch(segment) for segment in segments):
        raise BadRule(f"{spec.path}: {template} is more than segments, {{fields}} and a verb")
    if pattern in ("get", "delete") and rule.body:
        raise BadRule(f"{spec.path}: {pattern} takes no body")
    route = Route(spec, pattern.upper(), template, segments, verb, rule.body)
    _check_fields(route)
    return route


def _check_fields(route: Route) -> None:
    request = descriptor_of(route.spec.request_type)
    for path in route.variables:
        if path not in {name for name, _ in query_fields(request)}:
            raise BadRule(f"{route.spec.path}: {path} is no single scalar field of {request.full_name}")
    if route.body not in ("", WHOLE_BODY) and route.body not in request.fields_by_name:
        raise BadRule(f"{route.spec.path}: {route.body} is no field of {request.full_name}")


def descriptor_of(kind: type[Message]) -> Descriptor:
    """The descriptor of a message class, under the one type that the stubs of its fields have."""
    return cast(Descriptor, kind.DESCRIPTOR)


def query_fields(message: Descriptor, prefix: str = "") -> Iterator[tuple[str, FieldDescriptor]]:
    """The fields of a request that a query parameter can carry, each with its path ("filter.name"), messages opened.

    Repeated messages, maps and messages inside themselves have no place in a query.
    """
    for found in message.fields:
        path = prefix + found.name
        inner = found.message_type
        if inner is None or inner.full_name in _SPELT_AS_STRING:
            yield path, found
        elif not found.is_repeated and inner.file.package != "google.protobuf" and path.count(".") < _MAX_DEPTH:
            yield from query_fields(inner, path + ".")


def read_request(match: Match, query: Sequence[tuple[str, str]], body: object | None) -> Message:
    """The request that a matched path, a query (decoded, in order) and a JSON body (None if there is none) make.

    Raises InvalidArgument: UNKNOWN_FIELD for a parameter or field that the request does not have, INVALID_REQUEST for
    a field that is given twice, MALFORMED_FRAME for a value that does not fit its field.
    """
    route = match.route
    request = descriptor_of(route.spec.request_type)
    known = dict(query_fields(request))
    gathered = _body_fields(route, body)
    for path, text in match.variables.items():
        _put(gathered, path, _value(known[path], path, text))
    for path, texts in _grouped(query).items():
        found = known.get(path)
        if found is None or route.body == WHOLE_BODY or path.partition(".")[0] == route.body:
            raise _wrong(path, "no such query parameter", "UNKNOWN_FIELD")
        if found.is_repeated:
            _put(gathered, path, [_value(found, path, text) for text in texts])
        elif len(texts) > 1:
            raise _wrong(path, "must be given once", "INVALID_REQUEST")
        else:
            _put(gathered, path, _value(found, path, texts[0]))
    return decode_message(route.spec.request_type, gathered)


def _body_fields(route: Route, body: object | None) -> dict[str, object]:
    if not route.body:
        if body is not None:
            raise InvalidArgument("this path takes no body", reason="MALFORMED_FRAME")
        return {}
    if route.body != WHOLE_BODY:
        return {} if body is None else {route.body: body}
    if body is None:
        return {}
    if not isinstance(body, dict):
        raise InvalidArgument("the body must be a JSON object", reason="MALFORMED_FRAME")
    return dict(body)


def _grouped(query: Sequence[tuple[str, str]]) -> dict[str, list[str]]:
    grouped: dict[str, list[str]] = {}
    for name, text in query:
        grouped.setdefault(name, []).append(text)
    return grouped


def _put(target: dict[str, object], path: str, value: object) -> None:
    """Sets a value that may be there already, if it is the same: a path and a body may not contradict each other."""
    *parents, name = path.split(".")
    for parent in parents:
        inner = target.setdefault(parent, {})
        if not isinstance(inner, dict):
            raise _wrong(path, f"{parent} must be an object", "MALFORMED_FRAME")
        target = inner
    if target.setdefault(name, value) != value:
        raise _wrong(path, "is given twice, with different values", "INVALID_REQUEST")


def _value(found: FieldDescriptor, path: str, text: str) -> object:
    """What `text` would be in a JSON body; the codec judges the rest."""
    if found.cpp_type in _NARROW:
        if not _INTEGER.fullmatch(text):
            raise _wrong(path, "must be an integer", "MALFORMED_FRAME")
        return int(text)
    if found.cpp_type in _REAL:
        if not _NUMBER.fullmatch(text):
            raise _wrong(path, "must be a number", "MALFORMED_FRAME")
        return float(text)
    if found.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
        if text not in _TRUTH:
            raise _wrong(path, "must be true or false", "MALFORMED_FRAME")
        return _TRUTH[text]
    return text


def _readings(raw_path: str) -> Iterator[tuple[str, list[str]]]:
    """A path as verb and segments: with what stands behind the last colon as the verb, then without a verb."""
    segments = raw_path.removeprefix("/").split("/")
    last, colon, verb = segments[-1].rpartition(":")
    if colon and verb:
        yield verb, [*segments[:-1], last]
    yield "", segments


def _walk(node: _Node, segments: Sequence[str], values: tuple[str, ...]) -> Iterator[tuple[_Node, tuple[str, ...]]]:
    """Every node that the segments lead to, literal segments before variables, each with the variables' raw values."""
    if not segments:
        yield node, values
        return
    head, rest = segments[0], segments[1:]
    if head and (literal := node.children.get(head)) is not None:
        yield from _walk(literal, rest, values)
    if head and (variable := node.children.get(_VARIABLE)) is not None:
        yield from _walk(variable, rest, (*values, head))


def _decoded(raw: str) -> str:
    try:
        return unquote_to_bytes(raw).decode()
    except UnicodeDecodeError:
        raise InvalidArgument("the path is not UTF-8", reason="MALFORMED_FRAME") from None


def _wrong(path: str, description: str, reason: str) -> HitherError:
    return InvalidArgument(f"{path}: {description}", reason=reason, violations=[Violation(path, description)])
