"""Every message that crosses a wire comes back as it went, in binary and through the JSON codec."""

from collections.abc import Iterator

import pytest
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from discovery.contract import methods
from edge.codec.json import decode_message, encode_message, parse_json, to_json
from edge.transcoding import descriptor_of
from hither.edge.v1 import event_pb2, frames_pb2
from tests.support.violations import a_valid


def crossing() -> dict[str, type[Message]]:
    """Requests and responses of all RPCs, all events, and the frames of the connection."""
    kinds: list[type[Message]] = [event_pb2.Event]
    kinds += [kind for spec in methods().values() for kind in (spec.request_type, spec.response_type)]
    kinds += [GetMessageClass(message) for message in frames_pb2.DESCRIPTOR.message_types_by_name.values()]
    return {kind.DESCRIPTOR.full_name: kind for kind in kinds}


def variants(kind: type[Message]) -> Iterator[Message]:
    """The empty message, a full one, and one for each field of each oneof."""
    yield kind()
    full = a_valid(kind)
    yield full
    for oneof in descriptor_of(kind).oneofs:
        for field in oneof.fields:
            variant = kind()
            variant.CopyFrom(full)
            if field.message_type is not None:
                getattr(variant, field.name).CopyFrom(a_valid(GetMessageClass(field.message_type)))
                yield variant


CROSSING = crossing()
NOT_IN_JSON = {"RelayBatch", "DeliverBatch"}
"""Batches of the mesh: they never meet a client."""


@pytest.mark.parametrize("kind", CROSSING.values(), ids=list(CROSSING))
def test_in_binary(kind: type[Message]) -> None:
    for message in variants(kind):
        assert kind.FromString(message.SerializeToString()) == message


@pytest.mark.parametrize(
    "kind",
    [kind for kind in CROSSING.values() if kind.DESCRIPTOR.name not in NOT_IN_JSON],
    ids=lambda kind: kind.__name__,
)
def test_in_json(kind: type[Message]) -> None:
    for message in variants(kind):
        value = parse_json(to_json(encode_message(message)))
        assert isinstance(value, dict)
        assert decode_message(kind, value) == message
