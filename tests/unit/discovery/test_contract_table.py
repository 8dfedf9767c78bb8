import pytest

from discovery.contract import contract_files, frames, methods, service_methods
from hither.messaging.v1 import messaging_service_pb2

SEND = "/hither.messaging.v1.MessagingService/SendMessage"


def test_a_method_says_what_its_options_say() -> None:
    spec = methods()[SEND]

    assert (spec.service, spec.name) == ("hither.messaging.v1.MessagingService", "SendMessage")
    assert spec.request_type is messaging_service_pb2.SendMessageRequest
    assert spec.response_type is messaging_service_pb2.SendMessageResponse
    assert (spec.routing_key, spec.frame, spec.reply) == ("conversation_id", "send_message", "ack")
    assert (spec.idempotent, spec.one_way, spec.streaming) == (True, False, False)


def test_an_answer_without_a_name_is_called_ok() -> None:
    assert frames()["mark_read"].reply == "ok"


def test_frames_are_found_by_their_type() -> None:
    assert frames()["send_message"] is methods()[SEND]
    assert all(spec.frame == frame for frame, spec in frames().items())


def test_streams_are_marked() -> None:
    assert methods()["/hither.mesh.v1.RelayService/Exchange"].streaming


def test_what_the_contract_does_not_call_idempotent_is_not() -> None:
    assert not methods()["/hither.directory.v1.DirectoryService/CreateUser"].idempotent


def test_every_service_of_the_contract_is_in_the_table() -> None:
    declared = {
        f"{file.package}.{service.name}"
        for file in contract_files().file
        if file.package.startswith("hither.")
        for service in file.service
    }

    assert {spec.service for spec in methods().values()} == declared


def test_the_methods_of_a_service_come_in_the_order_of_the_contract() -> None:
    names = [spec.name for spec in service_methods("hither.messaging.v1.MessagingService")]

    assert names[:3] == ["SendMessage", "ListMessages", "SyncInbox"]
    assert service_methods("hither.no.v1.NoService") == ()


def test_the_table_cannot_be_changed() -> None:
    with pytest.raises(TypeError):
        methods()["x"] = methods()[SEND]  # type: ignore[index]


def test_the_descriptors_carry_comments() -> None:
    commented = [file for file in contract_files().file if file.name.startswith("hither/")]

    assert all(any(place.leading_comments for place in file.source_code_info.location) for file in commented)
