import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from discovery.errors import Unauthenticated
from discovery.rpc.call import Caller, Role
from discovery.rpc.tokens import ResumeTokens, TokenVerifier
from tests.support.clock import ManualClock
from tests.support.cluster import Keys

KEY = b"k" * 32


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def keys(clock: ManualClock) -> Keys:
    return Keys(clock=clock)


def reason_of(verifier: TokenVerifier | ResumeTokens, token: str) -> str:
    with pytest.raises(Unauthenticated) as refused:
        verifier.verify(token)
    return refused.value.reason


def test_a_user_token_names_user_and_device(keys: Keys) -> None:
    assert keys.verifier().verify(keys.sign()) == Caller(Role.USER, user_id="alice", device_id="phone")


def test_a_service_token_names_the_service(keys: Keys) -> None:
    assert keys.verifier().verify(keys.service_token()) == Caller(Role.SERVICE, service="tester")


def test_an_admin_token_names_no_user(keys: Keys) -> None:
    assert keys.verifier().verify(keys.sign(rol="admin", sub="ops")) == Caller(Role.ADMIN, service="ops")


def test_a_token_runs_out(keys: Keys, clock: ManualClock) -> None:
    token = keys.sign()
    clock.advance(59.9)
    keys.verifier().verify(token)

    clock.advance(0.1)

    assert reason_of(keys.verifier(), token) == "EXPIRED_TOKEN"


@pytest.mark.parametrize(
    "claims",
    [
        {"aud": "another-cluster"},
        {"iss": "someone"},
        {"sub": ""},
        {"sub": 7},
        {"rol": "king"},
        {"rol": ""},
        {"exp": "soon"},
        {"aud": "test-cluster/resume"},
    ],
    ids=str,
)
def test_a_token_with_wrong_claims_is_bad(keys: Keys, claims: dict[str, object]) -> None:
    assert reason_of(keys.verifier(), keys.sign(**claims)) == "BAD_TOKEN"


@pytest.mark.parametrize("token", ["", "x", "a.b.c", "é.ü.ß", "x" * 5000])
def test_what_is_no_token_is_bad(keys: Keys, token: str) -> None:
    assert reason_of(keys.verifier(), token) == "BAD_TOKEN"


def test_a_token_of_another_key_is_bad(keys: Keys, clock: ManualClock) -> None:
    assert reason_of(keys.verifier(), Keys(clock=clock).sign()) == "BAD_TOKEN"


def test_an_expired_token_of_another_key_is_bad_not_expired(keys: Keys, clock: ManualClock) -> None:
    assert reason_of(keys.verifier(), Keys(clock=clock).sign(exp=0)) == "BAD_TOKEN"


@pytest.mark.parametrize("algorithm", ["none", "HS256"])
def test_a_token_cannot_choose_its_algorithm(keys: Keys, algorithm: str) -> None:
    claims = {"iss": "hither", "aud": keys.cluster, "sub": "alice", "rol": "admin", "exp": 9_999_999_999}
    token = jwt.encode(claims, "" if algorithm == "none" else KEY, algorithm=algorithm)

    assert reason_of(keys.verifier(), token) == "BAD_TOKEN"


def test_only_an_ed25519_key_verifies(clock: ManualClock) -> None:
    pem = generate_private_key(SECP256R1()).public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)

    with pytest.raises(ValueError, match="Ed25519"):
        TokenVerifier(pem, "c", clock)


def test_a_resume_token_names_the_device_for_two_minutes(clock: ManualClock) -> None:
    resume = ResumeTokens(KEY, "c", clock)
    token = resume.issue("alice", "phone")
    clock.advance(119)
    assert resume.verify(token) == Caller(Role.USER, user_id="alice", device_id="phone")

    clock.advance(1)

    assert reason_of(resume, token) == "EXPIRED_TOKEN"


def test_a_resume_token_of_another_cluster_or_key_is_bad(clock: ManualClock) -> None:
    resume = ResumeTokens(KEY, "c", clock)

    assert reason_of(resume, ResumeTokens(KEY, "d", clock).issue("alice", "phone")) == "BAD_TOKEN"
    assert reason_of(resume, ResumeTokens(b"x" * 32, "c", clock).issue("alice", "phone")) == "BAD_TOKEN"


def test_an_access_token_does_not_resume_and_a_resume_token_gives_no_access(keys: Keys, clock: ManualClock) -> None:
    resume = ResumeTokens(KEY, keys.cluster, clock)

    assert reason_of(resume, keys.sign()) == "BAD_TOKEN"
    assert reason_of(keys.verifier(), resume.issue("alice", "phone")) == "BAD_TOKEN"


def test_a_short_resume_key_is_refused(clock: ManualClock) -> None:
    with pytest.raises(ValueError, match="32"):
        ResumeTokens(b"short", "c", clock)
