"""JSON objects <-> contract messages, by descriptor: one plan for each message type, made at its first use.

ProtoJSON's meaning, read strictly: field names as in the proto file, 64-bit integers written as strings, enum values
without their prefix, RFC 3339 times, base64 bytes. Scalars without presence are always written; messages, optional fields
and members of a oneof only where they are set; null reads as absent. A message with a oneof `kind` of messages is flat:
{"type": <field of the oneof>, ...that message's fields}. Used for frames and for REST bodies alike.
"""

import json
import re
from collections.abc import Callable, Mapping
from typing import Final, cast

import msgspec
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from discovery.errors import InvalidArgument, Violation
from edge.codec.values import (
    Read,
    Write,
    Wrong,
    enum_reader,
    enum_writer,
    integer_reader,
    read_any_value,
    read_bool,
    read_bytes,
    read_double,
    read_duration,
    read_float,
    read_string,
    read_timestamp,
    write_any_value,
    write_bytes,
    write_double,
    write_duration,
    write_float,
    write_timestamp,
)

MAX_DEPTH: Final = 64
"""How deep JSON may be nested."""

_Field = FieldDescriptor
_KEY = re.compile(rb'"[ \t\r\n]*:')

_READ_SCALARS: Final[Mapping[int, Read]] = {
    _Field.CPPTYPE_STRING: read_string,
    _Field.CPPTYPE_BOOL: read_bool,
    _Field.CPPTYPE_DOUBLE: read_double,
    _Field.CPPTYPE_FLOAT: read_float,
    _Field.CPPTYPE_INT32: integer_reader(-(1 << 31), (1 << 31) - 1),
    _Field.CPPTYPE_UINT32: integer_reader(0, (1 << 32) - 1),
    _Field.CPPTYPE_INT64: integer_reader(-(1 << 63), (1 << 63) - 1),
    _Field.CPPTYPE_UINT64: integer_reader(0, (1 << 64) - 1),
}
_WRITE_SCALARS: Final[Mapping[int, Write]] = {
    _Field.CPPTYPE_DOUBLE: write_double,
    _Field.CPPTYPE_FLOAT: write_float,
    _Field.CPPTYPE_INT64: str,
    _Field.CPPTYPE_UINT64: str,
}
_WELL_KNOWN: Final[Mapping[str, tuple[Read, Write]]] = {
    "google.protobuf.Timestamp": (read_timestamp, write_timestamp),
    "google.protobuf.Duration": (read_duration, write_duration),
    "google.protobuf.Value": (read_any_value, write_any_value),
}
_ANY_VALUE = "google.protobuf.Value"


def decode_message(message_type: type[Message], obj: Mapping[str, object]) -> Message:
    """The message that a parsed JSON object says.

    Raises InvalidArgument with a violation that names the field: UNKNOWN_FIELD for one that the message does not have,
    MALFORMED_FRAME for a value that does not fit.
    """
    try:
        return _plan_of(message_type).read(obj)
    except Wrong as wrong:
        field = wrong.field()
        message = f"{field}: {wrong.description}" if field else wrong.description
        violations = [Violation(field, wrong.description)] if field else []
        raise InvalidArgument(message, reason=wrong.reason, violations=violations) from None


def encode_message(message: Message) -> dict[str, object]:
    """The message as an object that `to_json` takes."""
    return _plan_of(type(message)).write(message)


to_json: Final[Callable[[object], bytes]] = msgspec.json.Encoder().encode
"""The bytes of an object: no spaces, UTF-8."""

_parse: Final = msgspec.json.Decoder().decode


def parse_json(raw: bytes) -> object:
    """The value of a JSON document.

    Raises InvalidArgument MALFORMED_FRAME if it is none, is nested deeper than 64, or names a field of an object twice.
    """
    try:
        value: object = _parse(raw)
        # Keys are the quotes that a colon follows. Where there are more of those than keys, a string may hold such a
        # sequence, or a key stands there twice: only then the slow parser has to tell.
        if len(_KEY.findall(raw)) != _count_keys(value, 0):
            json.loads(raw, object_pairs_hook=_refuse_twins)
    except Wrong as wrong:
        raise InvalidArgument(wrong.description, reason=wrong.reason) from None
    except (ValueError, RecursionError):
        raise InvalidArgument("not JSON", reason="MALFORMED_FRAME") from None
    return value


def flat_kind(descriptor: Descriptor) -> Mapping[str, FieldDescriptor] | None:
    """The fields of the oneof `kind` of a message that JSON shows flat; None for any other message."""
    oneof = descriptor.oneofs_by_name.get("kind")
    if oneof is None or any(field.message_type is None for field in oneof.fields):
        return None
    return {field.name: field for field in oneof.fields}


def _count_keys(value: object, depth: int) -> int:
    if depth >= MAX_DEPTH:
        raise Wrong(f"nested deeper than {MAX_DEPTH}")
    count = 0
    if type(value) is dict:
        count = len(value)
        value = value.values()
    elif type(value) is not list:
        return 0
    for item in value:
        if type(item) is dict or type(item) is list:
            count += _count_keys(item, depth + 1)
    return count


def _refuse_twins(pairs: list[tuple[str, object]]) -> None:
    if len({key for key, _ in pairs}) != len(pairs):
        raise Wrong("a field stands there twice")


class _Plan:
    """How one message type is read and written."""

    def __init__(self, message_type: type[Message]) -> None:
        descriptor = cast(Descriptor, message_type.DESCRIPTOR)
        self._make = message_type
        self._kinds = flat_kind(descriptor) or {}
        self._flat = bool(self._kinds)
        self._readers: dict[str, Read] = {}
        self._takes_null: set[str] = set()
        self._presence: list[tuple[str, bool, Write | None]] = []
        self._inner: dict[str, _Plan] = {}
        self._oneofs = [
            [field.name for field in oneof.fields]
            for oneof in descriptor.oneofs
            if len(oneof.fields) > 1 and not (self._flat and oneof.name == "kind")
        ]
        self._fields = [field for field in descriptor.fields if field.name not in self._kinds]

    def prepare(self) -> None:
        """Fills the plan. Apart from making it, so that a message may hold itself."""
        for name, kind in self._kinds.items():
            self._inner[name] = _plan(_message_type(kind))
        for field in self._fields:
            self._readers[field.name] = _reader(field)
            self._presence.append((field.name, bool(field.has_presence), _writer(field)))
            if field.message_type is not None and field.message_type.full_name == _ANY_VALUE:
                self._takes_null.add(field.name)

    def read(self, obj: object) -> Message:
        """The message. Raises Wrong."""
        if not isinstance(obj, Mapping):
            raise Wrong("must be an object")
        if self._flat:
            return self._read_flat(obj)
        readers = self._readers
        filled: dict[str, object] = {}
        for name, value in obj.items():
            read = readers.get(name)
            if read is None:
                raise _unknown(name)
            if value is None and name not in self._takes_null:
                continue
            try:
                filled[name] = read(value)
            except Wrong as wrong:
                wrong.path.append(name)
                raise
        for names in self._oneofs:
            if len(given := [name for name in names if name in filled]) > 1:
                raise Wrong(f"only one of {' and '.join(given)} may be filled")
        return self._make(**filled)

    def _read_flat(self, obj: Mapping[str, object]) -> Message:
        kind = obj.get("type")
        if kind is not None and (not isinstance(kind, str) or kind not in self._inner):
            wrong = Wrong("must be one of " + ", ".join(self._inner))
            wrong.path.append("type")
            raise wrong
        own = {name: value for name, value in obj.items() if name in self._readers}
        rest = {name: value for name, value in obj.items() if name not in self._readers and name != "type"}
        filled: dict[str, object] = {}
        for name, value in own.items():
            if value is None:
                continue
            try:
                filled[name] = self._readers[name](value)
            except Wrong as wrong:
                wrong.path.append(name)
                raise
        if isinstance(kind, str):
            filled[kind] = self._inner[kind].read(rest)
        elif rest:
            raise _unknown(next(iter(rest)))
        return self._make(**filled)

    def write(self, message: Message) -> dict[str, object]:
        """The object."""
        obj: dict[str, object] = {}
        has_field = message.HasField
        for name, has_presence, write in self._presence:
            if has_presence and not has_field(name):
                continue
            value = getattr(message, name)
            obj[name] = value if write is None else write(value)
        if self._flat and (kind := message.WhichOneof("kind")) is not None:
            obj["type"] = kind
            obj |= self._inner[kind].write(getattr(message, kind))
        return obj


_plans: Final[dict[type[Message], _Plan]] = {}


def _plan(descriptor: Descriptor) -> _Plan:
    return _plan_of(GetMessageClass(descriptor))


def _plan_of(message_type: type[Message]) -> _Plan:
    plan = _plans.get(message_type)
    if plan is None:
        plan = _plans[message_type] = _Plan(message_type)
        plan.prepare()
    return plan


def _reader(field: FieldDescriptor) -> Read:
    if (entry := field.message_type) is not None and entry.GetOptions().map_entry:
        return _map_reader(_single_reader(entry.fields_by_name["key"]), _single_reader(entry.fields_by_name["value"]))
    return _list_reader(_single_reader(field)) if field.is_repeated else _single_reader(field)


def _single_reader(field: FieldDescriptor) -> Read:
    if field.message_type is not None:
        if field.message_type.full_name in _WELL_KNOWN:
            return _WELL_KNOWN[field.message_type.full_name][0]
        return _plan(field.message_type).read
    if field.enum_type is not None:
        return enum_reader(field.enum_type)
    return read_bytes if field.type == _Field.TYPE_BYTES else _READ_SCALARS[field.cpp_type]


def _list_reader(read: Read) -> Read:
    def read_list(value: object) -> list[object]:
        if type(value) is not list:
            raise Wrong("must be a list")
        items: list[object] = []
        for index, item in enumerate(value):
            try:
                items.append(read(item))
            except Wrong as wrong:
                wrong.path.append(index)
                raise
        return items

    return read_list


def _map_reader(read_key: Read, read_value: Read) -> Read:
    spelt: Mapping[str, object] = {"true": True, "false": False}

    def key_of(text: str) -> object:
        if read_key is read_bool:
            return read_bool(spelt.get(text))
        return read_key(text if read_key is read_string or not re.fullmatch(r"-?[0-9]{1,20}", text) else int(text))

    def read_map(value: object) -> dict[object, object]:
        if not isinstance(value, Mapping):
            raise Wrong("must be an object")
        items: dict[object, object] = {}
        for key, item in value.items():
            try:
                items[key_of(key)] = read_value(item)
            except Wrong as wrong:
                wrong.path.append(key)
                raise
        return items

    return read_map


def _writer(field: FieldDescriptor) -> Write | None:
    if (entry := field.message_type) is not None and entry.GetOptions().map_entry:
        return _map_writer(_single_writer(entry.fields_by_name["value"]))
    single = _single_writer(field)
    return _list_writer(single) if field.is_repeated else single


def _single_writer(field: FieldDescriptor) -> Write | None:
    if field.message_type is not None:
        if field.message_type.full_name in _WELL_KNOWN:
            return _WELL_KNOWN[field.message_type.full_name][1]
        return _message_writer(_plan(field.message_type))
    if field.enum_type is not None:
        return enum_writer(field.enum_type)
    return write_bytes if field.type == _Field.TYPE_BYTES else _WRITE_SCALARS.get(field.cpp_type)


def _message_writer(plan: _Plan) -> Write:
    def write(value: object) -> object:
        assert isinstance(value, Message)  # the field's type says so
        return plan.write(value)

    return write


def _list_writer(write: Write | None) -> Write:
    def write_list(value: object) -> object:
        return [item if write is None else write(item) for item in value]  # type: ignore[attr-defined]  # a repeated field

    return write_list


def _map_writer(write: Write | None) -> Write:
    def write_map(value: object) -> object:
        assert isinstance(value, Mapping)  # a map field
        return {_key_text(key): item if write is None else write(item) for key, item in value.items()}

    return write_map


def _key_text(key: object) -> str:
    return str(key).lower() if isinstance(key, bool) else str(key)


def _message_type(field: FieldDescriptor) -> Descriptor:
    assert field.message_type is not None  # flat_kind has looked
    return field.message_type


def _unknown(name: str) -> Wrong:
    wrong = Wrong("no such field", "UNKNOWN_FIELD")
    wrong.path.append(name)
    return wrong
