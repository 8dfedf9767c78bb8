"""JSON <-> messages, for every message of the contract."""

import math
from typing import Any

import pytest
from google.protobuf import descriptor_pool
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from google.protobuf.struct_pb2 import Value
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given, settings
from hypothesis import strategies as st

from discovery.contract import contract_files, methods
from discovery.errors import InvalidArgument
from edge.codec.json import decode_message, encode_message, parse_json, to_json
from hither.edge.v1 import event_pb2, frames_pb2
from hither.edge.v1.frames_pb2 import Ping
from hither.location.v1 import location_service_pb2
from hither.messaging.v1 import messaging_pb2, messaging_service_pb2, records_pb2
from hither.presence.v1 import presence_pb2, presence_service_pb2

_Field = FieldDescriptor

INTEGERS = {
    _Field.CPPTYPE_INT32: st.integers(-(1 << 31), (1 << 31) - 1),
    _Field.CPPTYPE_UINT32: st.integers(0, (1 << 32) - 1),
    _Field.CPPTYPE_INT64: st.integers(-(1 << 63), (1 << 63) - 1),
    _Field.CPPTYPE_UINT64: st.integers(0, (1 << 64) - 1),
}
TIMESTAMPS = st.builds(
    Timestamp, seconds=st.integers(-62_135_596_800, 253_402_300_799), nanos=st.integers(0, 999_999_999)
)
VALUES = st.one_of(
    st.builds(Value, number_value=st.floats(allow_nan=False, allow_infinity=False)),
    st.builds(Value, string_value=st.text(st.characters(exclude_categories=["Cs"]), max_size=5)),
    st.builds(Value, bool_value=st.booleans()),
)


def all_messages() -> list[Descriptor]:
    """Every message type of the contract, those nested in others left out: they are covered there."""
    pool = descriptor_pool.Default()
    assert methods()  # imports every file of the contract
    return [
        pool.FindMessageTypeByName(f"{file.package}.{message.name}")
        for file in contract_files().file
        if file.package.startswith("hither.")
        for message in file.message_type
    ]


def single(field: FieldDescriptor) -> st.SearchStrategy[Any]:
    if field.message_type is not None:
        if field.message_type.full_name == "google.protobuf.Timestamp":
            return TIMESTAMPS
        if field.message_type.full_name == "google.protobuf.Value":
            return VALUES
        return instances(field.message_type)
    if field.enum_type is not None:
        return st.sampled_from([value.number for value in field.enum_type.values] + [12345])
    if field.type == _Field.TYPE_BYTES:
        return st.binary(max_size=9)
    if field.cpp_type == _Field.CPPTYPE_STRING:
        return st.text(st.characters(exclude_categories=["Cs"]), max_size=9)
    if field.cpp_type == _Field.CPPTYPE_BOOL:
        return st.booleans()
    if field.cpp_type == _Field.CPPTYPE_DOUBLE:
        return st.floats(allow_nan=False)
    if field.cpp_type == _Field.CPPTYPE_FLOAT:
        return st.floats(width=32, allow_nan=False)
    return INTEGERS[field.cpp_type]


def instances(descriptor: Descriptor) -> st.SearchStrategy[Message]:
    """Messages of a type with any of their fields, and of each oneof at most one."""

    @st.composite
    def build(draw: st.DrawFn) -> Message:
        chosen = {oneof.name: draw(st.sampled_from(list(oneof.fields))).name for oneof in descriptor.oneofs}
        message = GetMessageClass(descriptor)()
        for field in descriptor.fields:
            if field.containing_oneof is not None and chosen[field.containing_oneof.name] != field.name:
                continue
            if draw(st.booleans()):
                fill(draw, message, field)
        return message

    return build()


def fill(draw: st.DrawFn, message: Message, field: FieldDescriptor) -> None:
    entry = field.message_type
    if entry is not None and entry.GetOptions().map_entry:
        key, value = (single(entry.fields_by_name[name]) for name in ("key", "value"))
        getattr(message, field.name).update(draw(st.dictionaries(key, value, max_size=2)))
    elif field.is_repeated:
        getattr(message, field.name).extend(draw(st.lists(single(field), max_size=2)))
    elif entry is not None:
        getattr(message, field.name).CopyFrom(draw(single(field)))
    else:
        setattr(message, field.name, draw(single(field)))


def test_a_negative_zero_keeps_its_sign() -> None:
    ping = Ping(timestamp=Value(number_value=-0.0))
    obj = parse_json(to_json(encode_message(ping)))
    assert isinstance(obj, dict)
    assert decode_message(Ping, obj) == ping


@pytest.mark.parametrize("descriptor", all_messages(), ids=lambda descriptor: descriptor.full_name)
def test_every_message_of_the_contract_survives_the_way_through_json(descriptor: Descriptor) -> None:
    @settings(max_examples=15, deadline=None)
    @given(instances(descriptor))
    def survives(message: Message) -> None:
        obj = parse_json(to_json(encode_message(message)))
        assert isinstance(obj, dict)
        assert decode_message(type(message), obj) == message

    survives()


# --- the form ---


def test_the_form_is_the_one_that_clients_are_promised() -> None:
    message = messaging_pb2.Message(
        message_id=(1 << 64) - 1,
        conversation_id="g.1",
        text="ü",
        create_time=Timestamp(seconds=1, nanos=5_000_000),
    )
    event = event_pb2.Event(message=messaging_pb2.MessageEvent(message=message))
    assert encode_message(event) == {
        "type": "message",
        "message": {
            "message_id": "18446744073709551615",
            "conversation_id": "g.1",
            "seq": "0",
            "sender_id": "",
            "client_id": "",
            "text": "ü",
            "create_time": "1970-01-01T00:00:01.005Z",
        },
    }


def test_enums_are_written_without_their_prefix_and_read_with_or_without() -> None:
    request = presence_service_pb2.SetPresenceRequest(status=presence_pb2.PRESENCE_STATUS_AWAY)
    assert encode_message(request)["status"] == "AWAY"
    for name in ("AWAY", "PRESENCE_STATUS_AWAY"):
        assert decode_message(type(request), {"status": name}) == request


def test_a_float_is_written_as_short_as_it_can_be() -> None:
    request = location_service_pb2.UpdateLocationRequest(accuracy_m=0.1)
    assert encode_message(request)["accuracy_m"] == 0.1


def test_what_is_no_number_is_written_as_a_string() -> None:
    request = location_service_pb2.UpdateLocationRequest(lat=math.inf, lng=math.nan)
    obj = encode_message(request)
    assert (obj["lat"], obj["lng"]) == ("Infinity", "NaN")


def test_null_reads_as_absent() -> None:
    assert decode_message(frames_pb2.Hello, {"token": None, "cursor": None}) == frames_pb2.Hello()


@pytest.mark.parametrize(
    ("text", "seconds", "nanos"),
    [
        ("1970-01-01T00:00:00Z", 0, 0),
        ("1970-01-01t00:00:00.000000001z", 0, 1),
        ("1970-01-01T01:30:00.5+01:30", 0, 500_000_000),
        ("1969-12-31T23:59:59.25Z", -1, 250_000_000),
        ("0001-01-01T00:00:00Z", -62_135_596_800, 0),
    ],
)
def test_times_are_read_in_any_zone(text: str, seconds: int, nanos: int) -> None:
    request = decode_message(location_service_pb2.UpdateLocationRequest, {"timestamp": text})
    assert request == location_service_pb2.UpdateLocationRequest(timestamp=Timestamp(seconds=seconds, nanos=nanos))


@pytest.mark.parametrize("text", ["aGk=", "aGk"])
def test_base64_is_read_with_and_without_padding(text: str) -> None:
    content = decode_message(messaging_pb2.Content, {"media_type": "a/b", "data": text})
    assert content == messaging_pb2.Content(media_type="a/b", data=b"hi")


def test_map_keys_are_strings() -> None:
    marks = records_pb2.InboxWatermarks(source_offsets={3: 4})
    assert encode_message(marks) == {"source_offsets": {"3": "4"}}


# --- what is refused ---

SEND = messaging_service_pb2.SendMessageRequest
SYNC = messaging_service_pb2.SyncInboxRequest
FIX = location_service_pb2.UpdateLocationRequest


@pytest.mark.parametrize(
    ("message_type", "obj", "field"),
    [
        (SEND, {"text": 7}, "text"),
        (SEND, {"text": True}, "text"),
        (SEND, {"text": "\ud800"}, "text"),
        (SEND, {"content": "x"}, "content"),
        (SEND, {"content": {"data": "!"}}, "content.data"),
        (SEND, {"content": {"data": 7}}, "content.data"),
        (SYNC, {"pos": 1.0}, "pos"),
        (SYNC, {"pos": True}, "pos"),
        (SYNC, {"pos": "1.0"}, "pos"),
        (SYNC, {"pos": "01"}, "pos"),
        (SYNC, {"pos": "٣"}, "pos"),
        (SYNC, {"pos": " 1"}, "pos"),
        (SYNC, {"pos": -1}, "pos"),
        (SYNC, {"pos": 1 << 64}, "pos"),
        (SYNC, {"limit": "5"}, "limit"),
        (SYNC, {"limit": 1 << 32}, "limit"),
        (FIX, {"lat": "x"}, "lat"),
        (FIX, {"lat": False}, "lat"),
        (FIX, {"lat": 10**400}, "lat"),
        (FIX, {"accuracy_m": 1e39}, "accuracy_m"),
        (FIX, {"timestamp": 5}, "timestamp"),
        (FIX, {"timestamp": "yesterday"}, "timestamp"),
        (FIX, {"timestamp": "2026-02-30T00:00:00Z"}, "timestamp"),
        (FIX, {"timestamp": "0001-01-01T00:00:00+01:00"}, "timestamp"),
        (presence_service_pb2.SetPresenceRequest, {"status": "SLEEPING"}, "status"),
        (presence_service_pb2.ReportDevicesRequest, {"reports": {}}, "reports"),
        (presence_service_pb2.ReportDevicesRequest, {"reports": [{}, {"connected": 1}]}, "reports[1].connected"),
        (event_pb2.Event, {"type": "earthquake"}, "type"),
        (event_pb2.Event, {"type": "typing", "user_id": 1}, "user_id"),
        (records_pb2.InboxWatermarks, {"source_offsets": {"x": 1}}, "source_offsets.x"),
    ],
)
def test_a_value_that_does_not_fit_is_refused_by_the_name_of_its_field(
    message_type: type[Message], obj: dict[str, object], field: str
) -> None:
    with pytest.raises(InvalidArgument) as refused:
        decode_message(message_type, obj)
    assert refused.value.reason == "MALFORMED_FRAME"
    assert [violation.field for violation in refused.value.violations] == [field]


@pytest.mark.parametrize(
    ("message_type", "obj", "field"),
    [
        (SEND, {"colour": "red"}, "colour"),
        (SEND, {"colour": None}, "colour"),
        (SEND, {"clientId": "x"}, "clientId"),
        (SEND, {"content": {"colour": 1}}, "content.colour"),
        (event_pb2.Event, {"type": "typing", "colour": 1}, "colour"),
        (event_pb2.Event, {"user_id": "x"}, "user_id"),
    ],
)
def test_a_field_that_the_message_does_not_have_is_refused(
    message_type: type[Message], obj: dict[str, object], field: str
) -> None:
    with pytest.raises(InvalidArgument) as refused:
        decode_message(message_type, obj)
    assert refused.value.reason == "UNKNOWN_FIELD"
    assert [violation.field for violation in refused.value.violations] == [field]


def test_two_fields_of_a_oneof_are_refused() -> None:
    with pytest.raises(InvalidArgument, match="only one of text and content"):
        decode_message(SEND, {"text": "a", "content": {}})


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b"{} {}",
        b'{"a": 1, "a": 2}',
        b'{"a": {"b": 1, "b" : 2}}',
        b'{"a": [{"b": ":", "b": 2}]}',
        b"[" * 100_000,
        b'{"a":' * 65 + b"1" + b"}" * 65,
        b'{"a": "\\ud800"}',
        b'{"a": "\xff"}',
        b'{"a": NaN}',
        b"\xef\xbb\xbf{}",
    ],
)
def test_what_is_no_json_or_says_a_thing_twice_is_refused(raw: bytes) -> None:
    with pytest.raises(InvalidArgument) as refused:
        parse_json(raw)
    assert refused.value.reason == "MALFORMED_FRAME"


@pytest.mark.parametrize("raw", [b'{"a": ":", "b": "x\\":"}', b'{"a": {"a": 1}, "b": [{"a": 1}, {"a": 2}]}'])
def test_what_only_looks_like_a_field_twice_is_taken(raw: bytes) -> None:
    assert isinstance(parse_json(raw), dict)
