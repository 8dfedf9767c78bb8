import time

import pytest

from discovery.errors import Unauthenticated
from discovery.rpc.call import ANONYMOUS, Call, Caller, Role
from discovery.rpc.identity import authenticate, from_caller_message, to_caller_message, to_metadata
from discovery.rpc.tracing import Trace, read_traceparent
from hither.mesh.v1 import caller_pb2
from tests.support.cluster import ALICE, SEND, Keys

TRACE = "0af7651916cd43dd8448eb211c80319c"
SPAN = "b7ad6b7169203331"


@pytest.fixture
def keys() -> Keys:
    return Keys()


@pytest.mark.parametrize(
    "caller", [ANONYMOUS, ALICE, Caller(Role.SERVICE, "alice", "phone", "edge"), Caller(Role.ADMIN, service="ops")]
)
def test_a_caller_crosses_the_wire_and_back(keys: Keys, caller: Caller) -> None:
    metadata = to_metadata(Call(SEND, caller, time.monotonic(), TRACE, SPAN, sampled=True), keys.service_token())

    assert authenticate(metadata, keys.verifier()) == caller
    assert read_traceparent(dict(metadata)["traceparent"]) == Trace(TRACE, SPAN, sampled=True)


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
