from dataclasses import replace

import pytest

from discovery.contract import methods
from discovery.errors import InvalidArgument
from discovery.partitions import partition_of
from discovery.routing import Router, compile_router
from hither.messaging.v1 import messaging_service_pb2 as messaging
from hither.sessions.v1 import sessions_service_pb2 as sessions
from hither.sessions.v1.sessions_pb2 import Connection

SEND = methods()["/hither.messaging.v1.MessagingService/SendMessage"]
P = 16


def router(path: str) -> Router:
    found = compile_router(methods()[path], P)
    assert found is not None
    return found


def same_partition(count: int) -> list[str]:
    wanted = partition_of("u0", P)
    return [name for name in (f"u{number}" for number in range(1000)) if partition_of(name, P) == wanted][:count]


def test_a_string_field_is_hashed() -> None:
    request = messaging.SendMessageRequest(conversation_id="g.1")

    assert router(SEND.path)(request) == partition_of("g.1", P)


def test_an_empty_key_leads_anywhere() -> None:
    assert router(SEND.path)(messaging.SendMessageRequest()) is None


def test_a_nested_path_is_followed() -> None:
    request = sessions.RegisterConnectionRequest(connection=Connection(user_id="alice"))

    assert router("/hither.sessions.v1.SessionsService/RegisterConnection")(request) == partition_of("alice", P)


def test_an_absent_message_on_the_path_leads_anywhere() -> None:
    request = sessions.RegisterConnectionRequest()

    assert router("/hither.sessions.v1.SessionsService/RegisterConnection")(request) is None


def test_a_repeated_string_routes_when_all_lie_in_one_partition() -> None:
    request = sessions.LookupConnectionsRequest(user_ids=same_partition(3))

    assert router("/hither.sessions.v1.SessionsService/LookupConnections")(request) == partition_of("u0", P)


def test_a_path_through_a_repeated_message_routes_likewise() -> None:
    request = sessions.AdvanceCursorsRequest(
        advances=[sessions.CursorAdvance(user_id=user) for user in same_partition(3)]
    )

    assert router("/hither.sessions.v1.SessionsService/AdvanceCursors")(request) == partition_of("u0", P)


def test_values_of_several_partitions_are_refused() -> None:
    request = sessions.LookupConnectionsRequest(user_ids=[f"u{number}" for number in range(20)])

    with pytest.raises(InvalidArgument, match="partitions"):
        router("/hither.sessions.v1.SessionsService/LookupConnections")(request)


def test_an_empty_repeated_key_leads_anywhere() -> None:
    request = sessions.LookupConnectionsRequest()

    assert router("/hither.sessions.v1.SessionsService/LookupConnections")(request) is None


def test_a_method_without_a_routing_key_has_no_router() -> None:
    assert compile_router(methods()["/hither.directory.v1.DirectoryService/CreateUser"], P) is None


@pytest.mark.parametrize("path", ["no_such_field", "client_id.x", "content"])
def test_a_path_that_is_not_one_of_strings_is_found_at_start(path: str) -> None:
    with pytest.raises(TypeError, match="routing key"):
        compile_router(replace(SEND, routing_key=path), P)


def test_every_routing_key_of_the_contract_compiles() -> None:
    assert all(compile_router(spec, P) for spec in methods().values() if spec.routing_key)


def test_what_belongs_to_something_is_routed_as_that_is() -> None:
    stop = router("/hither.sessions.v1.SessionsService/StopLiveLocation")

    assert stop(sessions.StopLiveLocationRequest(session_id="g.1~abc")) == partition_of("g.1", P)
    assert stop(sessions.StopLiveLocationRequest(session_id="g.2~abc")) == partition_of("g.2", P)
