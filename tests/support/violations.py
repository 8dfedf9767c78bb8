"""Requests made from the descriptors: valid ones, full ones, and for each validation rule some that break it."""

import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from buf.validate import validate_pb2
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from google.protobuf.struct_pb2 import Value
from google.protobuf.timestamp_pb2 import Timestamp

from edge.schema import filled_of, rules_of
from edge.transcoding import descriptor_of
from hither.mesh.v1 import options_pb2

_FD = FieldDescriptor
_SAMPLES: Final = ("ann", "bob", "g.17", "d.aB", "x", "xxxxxxxx", "")
_BROKEN_SAMPLES: Final = ("no spaces", "é", "new\nline", "\n", "a/b", "y" * 5000, "")
_WELL_KNOWN: Final[Mapping[str, Callable[[], Message]]] = {
    "google.protobuf.Timestamp": lambda: Timestamp(seconds=int(time.time())),
    "google.protobuf.Value": lambda: Value(string_value="any"),
}
_INTEGERS = {_FD.CPPTYPE_INT32, _FD.CPPTYPE_INT64, _FD.CPPTYPE_UINT32, _FD.CPPTYPE_UINT64}
_TYPE_BOUNDS: Final = {
    _FD.CPPTYPE_INT32: (-(2**31), 2**31 - 1),
    _FD.CPPTYPE_INT64: (-(2**63), 2**63 - 1),
    _FD.CPPTYPE_UINT32: (0, 2**32 - 1),
    _FD.CPPTYPE_UINT64: (0, 2**64 - 1),
}


@dataclass(frozen=True)
class Violation:
    """A request that is valid but for one rule."""

    rule: str
    """The field's path and the rule, such as "content.data max_len"."""
    field: str
    """The path of the field that breaks it; empty for a rule over the whole request."""
    request: Message


def a_valid(request_type: type[Message]) -> Message:
    """A request that breaks no rule, with every field filled that may be (one of each oneof)."""
    return _filled(descriptor_of(request_type), request_type)


def violations_of(request_type: type[Message]) -> Iterator[Violation]:
    """For each rule of the request and of the messages in it, requests that break just that one."""
    valid = a_valid(request_type)
    yield from _field_violations(valid, valid, "")
    for rule in request_type.DESCRIPTOR.GetOptions().Extensions[validate_pb2.message].cel:
        broken = type(valid)()
        broken.CopyFrom(valid)
        BREAKERS[rule.id](broken)
        yield Violation(rule.id, "", broken)


def _clear_body(request: Message) -> None:
    request.ClearField("text")


def _clear_address(request: Message) -> None:
    request.ClearField("to")
    request.ClearField("conversation_id")


BREAKERS: Final[Mapping[str, Callable[[Message], None]]] = {
    "send_message.one_body": _clear_body,
    "send_message.addressed": _clear_address,
}
"""How to break each rule over several fields; a rule that is missing here fails the tests with its id."""


def _filled(descriptor: Descriptor, make: type[Message] | None = None) -> Message:
    message = (make or GetMessageClass(descriptor))()
    seen: set[str] = set()
    for field in descriptor.fields:
        oneof = field.containing_oneof
        if oneof is not None and oneof.name in seen:
            continue
        if filled_of(field) == options_pb2.FILLED_DIRECT_CONVERSATION:
            continue  # the mesh fills it from `to`, and both at once would have to agree
        if oneof is not None:
            seen.add(oneof.name)
        _set(message, field, _valid_value(field))
    return message


def _valid_value(field: FieldDescriptor) -> object:
    rules = rules_of(field)
    if field.is_repeated:
        inner = rules.repeated.items if rules.repeated.HasField("items") else validate_pb2.FieldRules()
        return [_valid_single(field, inner)]
    return _valid_single(field, rules)


def _valid_single(field: FieldDescriptor, rules: validate_pb2.FieldRules) -> object:
    if field.message_type is not None:
        if field.message_type.full_name in _WELL_KNOWN:
            return _WELL_KNOWN[field.message_type.full_name]()
        return _filled(field.message_type)
    if field.type == _FD.TYPE_STRING:
        return next(sample for sample in _SAMPLES if sample and _string_fits(rules.string, sample))
    if field.type == _FD.TYPE_BYTES:
        return b"x" * max(1, rules.bytes.min_len)
    if field.type == _FD.TYPE_BOOL:
        return True
    if field.enum_type is not None:
        return next(value.number for value in field.enum_type.values if value.number not in (0, *rules.enum.not_in))
    kind = rules.WhichOneof("type")
    lowest = getattr(getattr(rules, kind), "gte", 0) if kind else 0
    return max(1, lowest)


def _string_fits(rules: validate_pb2.StringRules, sample: str) -> bool:
    most = min(rules.max_len or len(sample), rules.max_bytes or len(sample))
    return rules.min_len <= len(sample) <= most and (not rules.pattern or bool(re.search(rules.pattern, sample)))


def _set(message: Message, field: FieldDescriptor, value: object) -> None:
    if field.is_repeated:
        message.ClearField(field.name)
        getattr(message, field.name).extend(value)
    elif field.message_type is not None:
        assert isinstance(value, Message)
        getattr(message, field.name).CopyFrom(value)
    else:
        setattr(message, field.name, value)


def _field_violations(root: Message, message: Message, path: str) -> Iterator[Violation]:
    """Breaks one rule after another inside `message`, which is a part of `root`; yields copies and mends it again."""
    for field in descriptor_of(type(message)).fields:
        at = f"{path}{field.name}"
        before = type(message)()
        before.CopyFrom(message)
        for rule, value in _bad_values(field):
            if value is None:
                message.ClearField(field.name)
            else:
                _set(message, field, value)
            yield Violation(f"{at} {rule}", at, _copy(root))
            message.CopyFrom(before)
        inner = field.message_type
        if inner is None or not inner.file.name.startswith("hither/"):
            continue
        if not message.HasField(field.name) if field.has_presence else not getattr(message, field.name):
            getattr(message, field.name).CopyFrom(_filled(inner))
        part = getattr(message, field.name)
        yield from _field_violations(
            root, part[0] if field.is_repeated else part, f"{at}[0]." if field.is_repeated else f"{at}."
        )
        message.CopyFrom(before)


def _copy(message: Message) -> Message:
    copy = type(message)()
    copy.CopyFrom(message)
    return copy


def _bad_values(field: FieldDescriptor) -> Iterator[tuple[str, object | None]]:
    rules = rules_of(field)
    if rules.required:
        yield "required", None
    kind = rules.WhichOneof("type")
    if kind is None:
        return
    typed: Message = getattr(rules, kind)
    for rule, _ in typed.ListFields():
        known = _BAD.get((kind if kind in _OWN_RULES else "number", rule.name))
        if known is None:
            raise NotImplementedError(
                f"{field.full_name}: tests/support/violations.py cannot break {kind}.{rule.name} yet"
            )
        values = list(known(field, typed))
        assert values, f"{field.full_name}: nothing breaks {kind}.{rule.name}"
        yield from ((f"{kind}.{rule.name}", value) for value in values)


def _bad_patterns(field: FieldDescriptor, rules: Message) -> Iterator[object]:
    pattern = getattr(rules, "pattern")  # noqa: B009 - the type is known only as a message with this field
    yield from (sample for sample in _BROKEN_SAMPLES if not re.search(pattern.removesuffix("$") + r"\Z", sample))


def _beyond(step: int, bound: str) -> Callable[[FieldDescriptor, Message], Iterator[object]]:
    def values(field: FieldDescriptor, rules: Message) -> Iterator[object]:
        limit = getattr(rules, bound)
        if field.cpp_type not in _INTEGERS:
            yield limit + step * max(1.0, abs(limit) / 1000)
            yield step * float("inf")
            yield float("nan")
            return
        lowest, highest = _TYPE_BOUNDS[field.cpp_type]
        if lowest <= limit + step <= highest:
            yield limit + step
            yield lowest if step < 0 else highest

    return values


def _bad_enum(field: FieldDescriptor, rules: Message) -> Iterator[object]:
    assert field.enum_type is not None
    yield max(value.number for value in field.enum_type.values) + 1


def _bad_items(field: FieldDescriptor, rules: Message) -> Iterator[object]:
    assert isinstance(rules, validate_pb2.RepeatedRules)
    kind = rules.items.WhichOneof("type")
    assert kind == "string"
    for value in _bad_patterns(field, rules.items.string):
        yield [value]


def _too_many(field: FieldDescriptor, rules: Message) -> Iterator[object]:
    assert isinstance(rules, validate_pb2.RepeatedRules)
    count = rules.max_items + 1
    if field.message_type is not None:
        yield [_filled(field.message_type)] * count
    elif rules.unique:
        yield [f"u{number}" for number in range(count)]
    else:
        yield [_valid_single(field, rules.items)] * count


def _distant_times(field: FieldDescriptor, rules: Message) -> Iterator[object]:
    assert isinstance(rules, validate_pb2.TimestampRules)
    for sign in (-1, 1):
        yield Timestamp(
            seconds=int(time.time()) + sign * (rules.within.seconds + 86_400)
        )  # a day: made long before it is used


def _too_short(field: FieldDescriptor, rules: Message) -> Iterator[object]:
    least = _limit(rules, "min_len")
    yield b"s" * (least - 1) if field.type == _FD.TYPE_BYTES else "s" * (least - 1)


def _too_long(field: FieldDescriptor, rules: Message) -> Iterator[object]:
    most = _limit(rules, "max_len")
    yield b"l" * (most + 1) if field.type == _FD.TYPE_BYTES else "é" * (most + 1)


def _too_many_bytes(field: FieldDescriptor, rules: Message) -> Iterator[object]:
    yield "é" * (_limit(rules, "max_bytes") // 2 + 1)


def _forbidden_values(field: FieldDescriptor, rules: Message) -> Iterator[object]:
    assert isinstance(rules, validate_pb2.EnumRules)
    yield from rules.not_in


def _too_few(field: FieldDescriptor, rules: Message) -> Iterator[object]:
    assert isinstance(rules, validate_pb2.RepeatedRules)
    assert rules.min_items == 1
    yield []


def _twins(field: FieldDescriptor, rules: Message) -> Iterator[object]:
    yield ["twin", "twin"]


def _limit(rules: Message, name: str) -> int:
    limit: int = getattr(rules, name)
    return limit


_OWN_RULES: Final = {"string", "bytes", "enum", "repeated", "timestamp"}
_BAD: Final[Mapping[tuple[str, str], Callable[[FieldDescriptor, Message], Iterator[object]]]] = {
    ("string", "pattern"): _bad_patterns,
    ("string", "min_len"): _too_short,
    ("string", "max_len"): _too_long,
    ("string", "max_bytes"): _too_many_bytes,
    ("bytes", "min_len"): _too_short,
    ("bytes", "max_len"): _too_long,
    ("number", "gte"): _beyond(-1, "gte"),
    ("number", "lte"): _beyond(1, "lte"),
    ("enum", "defined_only"): _bad_enum,
    ("enum", "not_in"): _forbidden_values,
    ("repeated", "min_items"): _too_few,
    ("repeated", "max_items"): _too_many,
    ("repeated", "unique"): _twins,
    ("repeated", "items"): _bad_items,
    ("timestamp", "within"): _distant_times,
}
