import time

import pytest

from discovery.errors import PermissionDenied, Unauthenticated
from discovery.rpc.call import ANONYMOUS, Call, Caller, Role
from discovery.rpc.identity import PROCESS, authenticate, from_caller_message, identify, to_caller_message, to_metadata
from discovery.rpc.tracing import Trace, read_traceparent
from hither.mesh.v1 import caller_pb2
from tests.support.cluster import ALICE, SEND, Keys

TRACE = "0af7651916cd43dd8448eb211c80319c"
SPAN = "b7ad6b7169203331"


@pytest.fixture
def keys() -> Keys:
    return Keys()


@pytest.mark.parametrize(
    "caller",
    [ANONYMOUS, ALICE, Caller(Role.SERVICE, "alice", "phone", "tester"), Caller(Role.SERVICE, service="tester")],
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


def test_nobody_speaks_for_an_operator(keys: Keys) -> None:
    operator = Caller(Role.ADMIN, service="ops")
    metadata = to_metadata(Call(SEND, operator, time.monotonic(), TRACE), keys.service_token())

    with pytest.raises(PermissionDenied):
        authenticate(metadata, keys.verifier())
    with pytest.raises(PermissionDenied):
        PROCESS.speak_for(to_caller_message(operator))


def test_a_service_that_is_spoken_for_has_the_name_of_the_one_that_speaks(keys: Keys) -> None:
    forged = Caller(Role.SERVICE, "alice", "phone", "edge")
    metadata = to_metadata(Call(SEND, forged, time.monotonic(), TRACE), keys.service_token())

    assert authenticate(metadata, keys.verifier()) == Caller(Role.SERVICE, "alice", "phone", "tester")


# --- certificates ---

EDGE, MESSAGING, WHOLE = (Caller(Role.SERVICE, service=name) for name in ("edge", "messaging", "hither"))
OPS = Caller(Role.ADMIN, service="ops")


def bearer(token: str) -> tuple[tuple[str, str | bytes], ...]:
    return (("authorization", f"Bearer {token}"),)


@pytest.mark.parametrize("certified", [EDGE, MESSAGING, OPS])
def test_a_certificate_needs_no_token(certified: Caller) -> None:
    assert authenticate((), None, certified) == certified


def test_a_certificate_lets_a_process_say_for_whom_it_calls() -> None:
    metadata = to_metadata(Call(SEND, ALICE, time.monotonic(), TRACE), "", certified=True)

    assert "authorization" not in dict(metadata)
    assert authenticate(metadata, None, EDGE) == ALICE


@pytest.mark.parametrize(
    ("certified", "claims"),
    [
        (EDGE, {Role.ANONYMOUS, Role.USER, Role.SERVICE}),
        (WHOLE, {Role.ANONYMOUS, Role.USER, Role.SERVICE}),
        (MESSAGING, {Role.ANONYMOUS, Role.SERVICE}),
        (OPS, set()),
    ],
)
def test_only_a_process_with_clients_speaks_for_users(certified: Caller, claims: set[Role]) -> None:
    assert identify((), None, certified).speaks_for == claims


@pytest.mark.parametrize("certified", [EDGE, MESSAGING, OPS])
def test_a_users_token_beside_a_certificate_names_the_user(keys: Keys, certified: Caller) -> None:
    assert authenticate(bearer(keys.sign()), keys.verifier(), certified) == ALICE


def test_who_calls_with_a_users_token_speaks_for_nobody_else(keys: Keys) -> None:
    claim = to_caller_message(Caller(Role.USER, user_id="bob")).SerializeToString()

    with pytest.raises(Unauthenticated):
        authenticate((*bearer(keys.sign()), ("hither-caller-bin", claim)), keys.verifier(), EDGE)


def test_a_token_of_a_service_adds_nothing_to_its_certificate(keys: Keys) -> None:
    peer = identify(bearer(keys.service_token()), keys.verifier(), MESSAGING)

    assert peer == identify((), None, MESSAGING)


def test_an_operators_token_needs_an_operators_certificate(keys: Keys) -> None:
    token = bearer(keys.sign(sub="root", rol="admin", dev=""))

    assert authenticate(token, keys.verifier(), OPS) == Caller(Role.ADMIN, service="root")
    with pytest.raises(PermissionDenied):
        authenticate(token, keys.verifier(), EDGE)


def test_a_services_token_with_an_operators_certificate_is_refused(keys: Keys) -> None:
    with pytest.raises(PermissionDenied):
        authenticate(bearer(keys.service_token()), keys.verifier(), OPS)


@pytest.mark.parametrize(("claims", "reason"), [({"exp": 0}, "EXPIRED_TOKEN"), ({"aud": "other"}, "BAD_TOKEN")])
def test_a_token_that_does_not_hold_is_refused_beside_a_certificate_too(
    keys: Keys, claims: dict[str, object], reason: str
) -> None:
    with pytest.raises(Unauthenticated) as raised:
        authenticate(bearer(keys.sign(**claims)), keys.verifier(), EDGE)

    assert raised.value.reason == reason


def test_a_claim_that_cannot_be_read_is_refused(keys: Keys) -> None:
    metadata = (("authorization", f"Bearer {keys.service_token()}"), ("hither-caller-bin", b"\xff"))

    with pytest.raises(Unauthenticated):
        authenticate(metadata, keys.verifier())


def test_a_caller_of_an_unknown_role_is_anonymous() -> None:
    message = caller_pb2.Caller(user_id="alice")
    message.role = 99  # type: ignore[assignment] # as a newer process might send

    assert from_caller_message(message) == ANONYMOUS
    assert from_caller_message(caller_pb2.Caller(user_id="alice")) == ANONYMOUS
