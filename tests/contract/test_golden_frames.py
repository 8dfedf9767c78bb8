"""The bytes of every frame, in both subprotocols, as clients that are out there know them.

A change here is a change that clients see. After an intended one: HITHER_WRITE_GOLDEN=1 pytest tests/contract/test_golden_frames.py
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from discovery.contract import frames
from discovery.errors import InvalidArgument, ResourceExhausted, Violation
from edge.codec.frames import Codec, Hello, Ping, Request
from edge.codec.json import encode_message, to_json
from edge.codec.proto import BINARY
from edge.codec.text import TEXT
from hither.edge.v1 import frames_pb2
from tests.contract.frame_samples import Sample, answers, events, requests

GOLDEN = Path(__file__).parent / "golden"
ERRORS = {
    "server_error": InvalidArgument("no", reason="UNKNOWN_FIELD", violations=[Violation("colour", "no such field")]),
    "server_error_with_retry": ResourceExhausted("too many frames", reason="RATE_LIMITED", retry_after_s=0.25),
}


def golden(name: str, said: bytes) -> bytes:
    """The golden bytes of a frame; writes them where that is asked for."""
    file = GOLDEN / name
    if os.environ.get("HITHER_WRITE_GOLDEN"):
        file.write_bytes(said if name.endswith(".json") else said.hex().encode())
    content = file.read_bytes()
    return content if name.endswith(".json") else bytes.fromhex(content.decode())


def client_json(sample: Sample) -> bytes:
    return to_json({"type": sample.type, "id": sample.id, **encode_message(sample.payload)})


def client_proto(sample: Sample) -> bytes:
    frame = frames_pb2.ClientFrame(type=sample.type, id=sample.id, payload=sample.payload.SerializeToString())
    return frame.SerializeToString()


def server(codec: Codec, sample: Sample) -> bytes:
    if sample.name.startswith("event_"):
        return codec.event(sample.type, sample.payload).at(sample.pos)
    return codec.frame(sample.type, sample.id, sample.payload)


@pytest.mark.parametrize("sample", [*answers(), *events()], ids=lambda sample: sample.name)
def test_the_server_says_what_it_always_said(sample: Sample) -> None:
    said = server(TEXT, sample)
    assert said == golden(f"{sample.name}.json", said)
    said = server(BINARY, sample)
    frame = frames_pb2.ServerFrame.FromString(golden(f"{sample.name}.hex", said))
    assert frame == frames_pb2.ServerFrame.FromString(said)
    assert (frame.type, frame.id, frame.pos) == (sample.type, sample.id, sample.pos)
    assert type(sample.payload).FromString(frame.payload) == sample.payload


@pytest.mark.parametrize("name", ERRORS)
def test_errors_look_as_they_always_did(name: str) -> None:
    for codec, suffix in ((TEXT, "json"), (BINARY, "hex")):
        said = codec.error(ERRORS[name], "7")
        assert said == golden(f"{name}.{suffix}", said)


@pytest.mark.parametrize("sample", list(requests()), ids=lambda sample: sample.name)
def test_the_server_understands_what_clients_always_said(sample: Sample) -> None:
    for codec, raw in (
        (TEXT, golden(f"{sample.name}.json", client_json(sample))),
        (BINARY, golden(f"{sample.name}.hex", client_proto(sample))),
    ):
        incoming = codec.decode(raw)
        assert codec.id_of(raw) == "7"
        if sample.type == "hello":
            assert incoming == Hello("7", "t", 41)
        elif sample.type == "ping":
            assert isinstance(incoming, Ping)
            assert incoming.pong == golden(f"server_pong.{'json' if codec.text else 'hex'}", incoming.pong)
        else:
            assert incoming == Request("7", frames()[sample.type], sample.payload)


def test_no_golden_file_is_left_over() -> None:
    samples = [*requests(), *answers(), *events()]
    names = {sample.name for sample in samples} | set(ERRORS) | {"server_pong"}
    assert {file.stem for file in GOLDEN.iterdir()} == names


def messages_on_the_frame() -> Iterator[tuple[str, list[str]]]:
    for sample in [*requests(), *answers(), *events()]:
        yield sample.name, [field.name for field in sample.payload.DESCRIPTOR.fields]


@pytest.mark.parametrize(("name", "fields"), list(messages_on_the_frame()))
def test_no_field_of_a_payload_has_the_name_of_a_field_of_the_frame(name: str, fields: list[str]) -> None:
    taken = {"type", "id", "pos"} if name.startswith("event_") else {"type", "id"}
    assert not taken & set(fields)


def test_golden_json_is_what_the_design_shows() -> None:
    ack = json.loads((GOLDEN / "server_ack_to_send_message.json").read_bytes())
    assert list(ack) == ["type", "id", "client_id", "message_id", "conversation_id", "seq", "status", "create_time"]
    assert ack["status"] == "SENT"
    message = json.loads((GOLDEN / "event_message.json").read_bytes())
    assert list(message) == ["type", "pos", "message"]
    assert message["pos"] == "300"
