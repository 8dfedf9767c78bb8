"""JSON Schema (2020-12) of the contract's messages, as the JSON codec reads and writes them.

Both documents, OpenAPI and AsyncAPI, take their schemas from here. Validation rules become the keywords that say the
same; what JSON Schema cannot say (bytes of UTF-8, rules over several fields) is said in the description.
"""

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from itertools import combinations
from typing import TypeAlias

from buf.validate import validate_pb2
from google.protobuf.descriptor import Descriptor, EnumDescriptor, EnumValueDescriptor, FieldDescriptor
from google.protobuf.message import Message

from edge.codec.json import flat_kind
from edge.codec.values import enum_prefix
from edge.comments import Comments
from hither.mesh.v1 import options_pb2

Schema: TypeAlias = dict[str, "object"]

_FD = FieldDescriptor
_WIDE = {_FD.CPPTYPE_INT64: "int64", _FD.CPPTYPE_UINT64: "uint64"}
_RANGES = {_FD.CPPTYPE_INT32: (-(2**31), 2**31 - 1), _FD.CPPTYPE_UINT32: (0, 2**32 - 1)}
_WELL_KNOWN: Mapping[str, Mapping[str, object]] = {
    "google.protobuf.Timestamp": {"type": "string", "format": "date-time"},
    "google.protobuf.Duration": {"type": "string", "pattern": r"^-?[0-9]+(\.[0-9]{1,9})?s$"},
    "google.protobuf.Value": {},
    "google.protobuf.Struct": {"type": "object"},
    "google.protobuf.Empty": {"type": "object"},
}
_FORMATS = {"email": "email", "hostname": "hostname", "ipv4": "ipv4", "ipv6": "ipv6", "uri": "uri", "uuid": "uuid"}
_BOUNDS = {"gte": "minimum", "gt": "exclusiveMinimum", "lte": "maximum", "lt": "exclusiveMaximum"}


class Schemas:
    """Gathers the schemas that a document refers to."""

    def __init__(self, comments: Comments, *, at: str = "#/components/schemas/") -> None:
        self._comments = comments
        self._at = at
        self._owner: dict[str, str] = {}
        self.components: dict[str, Schema] = {}

    def ref(self, of: Descriptor | EnumDescriptor) -> Schema:
        """A reference to the schema of a message or an enum, which is added to the components.

        Raises ValueError if two elements of one name would take each other's place.
        """
        name = of.name
        if self._owner.setdefault(name, of.full_name) != of.full_name:
            raise ValueError(f"{of.full_name} and {self._owner[name]} would share the schema {name}")
        if name not in self.components:
            self.components[name] = {}  # holds the place while a message is described that contains itself
            self.components[name] = self._enum(of) if isinstance(of, EnumDescriptor) else self._described(of)
        return {"$ref": self._at + name}

    def message(self, of: Descriptor, leave_out: Collection[str] = ()) -> Schema:
        """The object for a message without a oneof `kind`, without the fields in `leave_out`."""
        fields = [found for found in of.fields if found.name not in leave_out and not is_filled_by_mesh(found)]
        schema: Schema = {"type": "object"}
        if text := self._words(of):
            schema["description"] = text
        schema["properties"] = {found.name: self.field(found) for found in fields}
        needed = _always_sent if not is_input(of) else _must_be_given
        if required := [found.name for found in fields if needed(found)]:
            schema["required"] = required
        if exclusions := list(_exclusions(of, leave_out)):
            schema["allOf"] = exclusions
        if is_input(of):
            schema["additionalProperties"] = False
        return schema

    def field(self, found: FieldDescriptor) -> Schema:
        """The schema of one field, with its comment and what its rules say."""
        rules = rules_of(found)
        if found.message_type is not None and found.message_type.GetOptions().map_entry:
            schema: Schema = {
                "type": "object",
                "additionalProperties": self._single(found.message_type.fields_by_name["value"]),
            }
        elif found.is_repeated:
            items = self._single(found, rules.repeated.items if rules.repeated.HasField("items") else None)
            schema = {"type": "array", "items": items, **_list_keywords(rules.repeated)}
        else:
            schema = self._single(found, rules)
        words = " ".join(filter(None, (self._comments.of(found.full_name), _byte_limit(rules))))
        return {**schema, "description": words} if words else schema

    def _single(self, found: FieldDescriptor, rules: validate_pb2.FieldRules | None = None) -> Schema:
        rules = rules or validate_pb2.FieldRules()
        if found.message_type is not None:
            known = _WELL_KNOWN.get(found.message_type.full_name)
            return self.ref(found.message_type) if known is None else dict(known)
        if found.enum_type is not None:
            if rules.enum.not_in:
                return {"type": "string", "enum": enum_names(found.enum_type, without=rules.enum.not_in)}
            return self.ref(found.enum_type)
        return {**_scalar(found, rules), **({"format": "password"} if found.GetOptions().debug_redact else {})}

    def _described(self, of: Descriptor) -> Schema:
        kinds = flat_kind(of)
        return self._kinds(of, kinds.values()) if kinds else self.message(of)

    def _kinds(self, of: Descriptor, kinds: Iterable[FieldDescriptor]) -> Schema:
        """One flat object for each field of the oneof `kind`, told apart by `type`."""
        variants = {f"{of.name}.{kind.name}": self._kind(of, kind) for kind in kinds}
        self.components |= variants
        return {
            "description": self._comments.of(of.full_name),
            "oneOf": [{"$ref": self._at + name} for name in variants],
        }

    def _kind(self, of: Descriptor, kind: FieldDescriptor) -> Schema:
        inner = self.message(message_of(kind))
        beside = [found for found in of.fields if found.containing_oneof is None]
        properties = inner["properties"]
        required = inner.get("required", [])
        assert isinstance(properties, dict)  # made by message()
        assert isinstance(required, list)
        return {
            "type": "object",
            "description": self._comments.of(kind.full_name),
            "properties": {
                "type": {"const": kind.name},
                **{found.name: self.field(found) for found in beside},
                **properties,
            },
            "required": ["type", *(found.name for found in beside if _always_sent(found)), *required],
        }

    def _enum(self, of: EnumDescriptor) -> Schema:
        values = [f"{name}: {self._comments.of(f'{of.full_name}.{value.name}')}" for value, name in _sent_values(of)]
        return {
            "type": "string",
            "description": " ".join([self._comments.of(of.full_name), *values]).strip(),
            "enum": enum_names(of),
        }

    def _words(self, of: Descriptor) -> str:
        rules: validate_pb2.MessageRules = of.GetOptions().Extensions[validate_pb2.message]
        return " ".join(
            filter(None, (self._comments.of(of.full_name), *(f"Rule: {rule.message}." for rule in rules.cel)))
        )


def rules_of(found: FieldDescriptor) -> validate_pb2.FieldRules:
    """The validation rules of a field; empty if it has none."""
    rules: validate_pb2.FieldRules = found.GetOptions().Extensions[validate_pb2.field]
    return rules


def message_of(found: FieldDescriptor) -> Descriptor:
    """The message that a field holds. Raises TypeError if it holds none."""
    if found.message_type is None:
        raise TypeError(f"{found.full_name} is no message")
    return found.message_type


def filled_of(found: FieldDescriptor) -> int:
    """How the mesh fills a field: a value of hither.mesh.v1.Filled, zero if it does not."""
    filled: int = found.GetOptions().Extensions[options_pb2.filled]
    return filled


def is_filled_by_mesh(found: FieldDescriptor) -> bool:
    """Whether a user never gives the field: it can only be what the token says."""
    return filled_of(found) in (options_pb2.FILLED_CALLER_USER, options_pb2.FILLED_CALLER_DEVICE)


def is_input(of: Descriptor) -> bool:
    """Whether callers write such messages: requests, and what has rules."""
    return of.name.endswith("Request") or any(rules_of(found).ByteSize() for found in of.fields)


def enum_names(of: EnumDescriptor, without: Collection[int] = ()) -> list[str]:
    """The names that stand in JSON: without the enum's prefix, without the zero that is never sent."""
    return [name for value, name in _sent_values(of) if value.number not in without]


def _sent_values(of: EnumDescriptor) -> Iterator[tuple[EnumValueDescriptor, str]]:
    prefix = enum_prefix(of)
    for value in of.values:
        if value.number != 0:
            yield value, value.name.removeprefix(prefix)


def _scalar(found: FieldDescriptor, rules: validate_pb2.FieldRules) -> Schema:
    kind = rules.WhichOneof("type")
    typed = getattr(rules, kind) if kind else validate_pb2.StringRules()
    if found.cpp_type in _WIDE:
        return {"type": "string", "format": _WIDE[found.cpp_type], "pattern": _wide_pattern(found, typed)}
    if found.cpp_type in _RANGES:
        low, high = _RANGES[found.cpp_type]
        return {"type": "integer", "minimum": low, "maximum": high, **_bounds(typed, int)}
    if found.cpp_type in (_FD.CPPTYPE_DOUBLE, _FD.CPPTYPE_FLOAT):
        size = "double" if found.cpp_type == _FD.CPPTYPE_DOUBLE else "float"
        return {"type": "number", "format": size, **_bounds(typed, float)}
    if found.cpp_type == _FD.CPPTYPE_BOOL:
        return {"type": "boolean"}
    if found.type == _FD.TYPE_BYTES:
        return {"type": "string", "contentEncoding": "base64", **_bytes_keywords(rules.bytes)}
    return {"type": "string", **_string_keywords(rules.string)}


def _wide_pattern(found: FieldDescriptor, rules: Message) -> str:
    if found.cpp_type == _FD.CPPTYPE_INT64:
        return "^-?[0-9]{1,19}$"
    return "^[1-9][0-9]{0,19}$" if getattr(rules, "gte", 0) >= 1 else "^[0-9]{1,20}$"


def _bounds(rules: Message, number: Callable[[float], float]) -> Schema:
    """The keywords for the bounds that are set. A bound that rules set replaces that of the type."""
    names = {found.name for found in rules.DESCRIPTOR.fields}
    given: Schema = {
        word: number(getattr(rules, name)) for name, word in _BOUNDS.items() if name in names and rules.HasField(name)
    }
    if "in" in names and (choices := getattr(rules, "in")):
        given["enum"] = [number(choice) for choice in choices]
    return given


def _string_keywords(rules: validate_pb2.StringRules) -> Schema:
    words: Schema = {}
    least = rules.len or rules.min_len
    most = rules.len or rules.max_len or rules.max_bytes  # no more characters than bytes
    words |= {"minLength": least} if least else {}
    words |= {"maxLength": most} if most else {}
    words |= {"pattern": rules.pattern} if rules.HasField("pattern") else {}
    words |= {"const": rules.const} if rules.HasField("const") else {}
    words |= {"enum": list(getattr(rules, "in"))} if getattr(rules, "in") else {}
    known = rules.WhichOneof("well_known")
    words |= {"format": _FORMATS[known]} if known in _FORMATS else {}
    return words


def _bytes_keywords(rules: validate_pb2.BytesRules) -> Schema:
    def encoded(size: int) -> int:
        return (size + 2) // 3 * 4

    words: Schema = {}
    words |= {"minLength": encoded(rules.min_len)} if rules.min_len else {}
    words |= {"maxLength": encoded(rules.max_len)} if rules.max_len else {}
    return words


def _list_keywords(rules: validate_pb2.RepeatedRules) -> Schema:
    words: Schema = {}
    words |= {"minItems": rules.min_items} if rules.min_items else {}
    words |= {"maxItems": rules.max_items} if rules.max_items else {}
    words |= {"uniqueItems": True} if rules.unique else {}
    return words


def _byte_limit(rules: validate_pb2.FieldRules) -> str:
    return f"At most {rules.string.max_bytes} bytes of UTF-8." if rules.string.max_bytes else ""


def _must_be_given(found: FieldDescriptor) -> bool:
    """Whether a request that leaves the field out breaks a rule."""
    rules = rules_of(found)
    if rules.required:
        return True
    if found.has_presence or filled_of(found):
        return False
    if found.is_repeated:
        return rules.repeated.min_items > 0
    kind = rules.WhichOneof("type")
    if kind is None:
        return False
    return _refuses_default(kind, getattr(rules, kind))


def _refuses_default(kind: str, rules: Message) -> bool:
    if kind == "string":
        assert isinstance(rules, validate_pb2.StringRules)  # the oneof says so
        return rules.min_len > 0 or rules.len > 0 or (rules.HasField("pattern") and not re.search(rules.pattern, ""))
    if kind == "bytes":
        return bool(getattr(rules, "min_len", 0))
    if 0 in getattr(rules, "not_in", ()):
        return True
    return kind != "enum" and kind != "bool" and (getattr(rules, "gte", 0) > 0 or getattr(rules, "lte", 0) < 0)


def _always_sent(found: FieldDescriptor) -> bool:
    return not found.has_presence


def _exclusions(of: Descriptor, leave_out: Collection[str]) -> Iterator[Schema]:
    """For each oneof: no two of its fields at once."""
    for oneof in of.oneofs:
        names = [found.name for found in oneof.fields if found.name not in leave_out]
        for pair in combinations(names, 2):
            yield {"not": {"required": list(pair)}}
