import time

import pytest

from discovery.errors import Unauthenticated
from discovery.rpc.call import ANONYMOUS, Call, Caller, Role
from discovery.rpc.identity import authenticate, from_caller_message, to_caller_message, to_metadata, trace_of
from hither.mesh.v1 import caller_pb2
from tests.support.cluster import ALICE, SEND, Keys

TRACE = "0af7651916cd43dd8448eb211c80319c"


@pytest.fixture
def keys() -> Keys:
    return Keys()


@pytest.mark.parametrize(
    "caller",
    [ANONYMOUS, ALICE, Caller(Role.SERVICE, "alice", "phone", "tester"), Caller(Role.SERVICE, service="tester")],
)
def test_a_caller_crosses_the_wire_and_back(keys: Keys, caller: Caller) -> None:
    metadata = to_metadata(Call(SEND, caller, time.monotonic(), TRACE), keys.service_token())

    assert authenticate(metadata, keys.verifier()) == caller
    assert trace_of(dict(metadata)["traceparent"]) == TRACE


def test_a_process_without_a_token_claims_nothing(keys: Keys) -> None:
    metadata = to_metadata(Call(SEND, ALICE, time.monotonic(), TRACE), "")

    assert authenticate(metadata, keys.verifier()) == ANONYMOUS


def test_the_scheme_is_bearer_in_any_case(keys: Keys) -> None:
    assert authenticate((("authorization", f"BEARER {keys.sign()}"),), keys.verifier()) == ALICE


def test_another_scheme_is_refused(keys: Keys) -> None:
    with pytest.raises(Unauthenticated):
        authenticate((("authorization", "Basic YWxpY2U6"),), keys.verifier())


def test_an_admin_does_not_speak_for_others(keys: Keys) -> None:
    metadata = (
        ("authorization", f"Bearer {keys.sign(rol='admin')}"),
        ("hither-caller-bin", to_caller_message(ALICE).SerializeToString()),
    )

    with pytest.raises(Unauthenticated):
        authenticate(metadata, keys.verifier())


def test_a_claim_that_cannot_be_read_is_refused(keys: Keys) -> None:
    metadata = (("authorization", f"Bearer {keys.service_token()}"), ("hither-caller-bin", b"\xff"))

    with pytest.raises(Unauthenticated):
        authenticate(metadata, keys.verifier())


def test_a_caller_of_an_unknown_role_is_anonymous() -> None:
    message = caller_pb2.Caller(user_id="alice")
    message.role = 99  # type: ignore[assignment] # as a newer process might send

    assert from_caller_message(message) == ANONYMOUS
    assert from_caller_message(caller_pb2.Caller(user_id="alice")) == ANONYMOUS


@pytest.mark.parametrize("value", [None, "", "x", "00-short-b7ad6b7169203331-01", "00-" + "\n" * 32 + "-b7-01"])
def test_without_a_trace_a_new_one_begins(value: str | None) -> None:
    assert len(trace_of(value)) == 32
    assert trace_of(value) != trace_of(value)
