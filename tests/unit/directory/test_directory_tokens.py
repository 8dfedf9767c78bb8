"""Access tokens, refresh tokens and keys."""

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from discovery.rpc.call import ANONYMOUS, Caller, Role
from discovery.rpc.tokens import TokenVerifier
from services.directory.tokens import RefreshToken, TokenIssuer, generate_keys
from tests.support.clock import ManualClock

KEYS = generate_keys()
CLOCK = ManualClock()


def claims(token: str) -> dict[str, object]:
    return jwt.decode(token, KEYS.public_pem, algorithms=["EdDSA"], audience="c1", options={"verify_exp": False})


@pytest.mark.parametrize(
    ("caller", "named"),
    [
        (Caller(Role.USER, user_id="alice", device_id="phone"), {"sub": "alice", "dev": "phone", "rol": "user"}),
        (Caller(Role.SERVICE, service="edge"), {"sub": "edge", "dev": "", "rol": "service"}),
        (Caller(Role.ADMIN, service="hither-status"), {"sub": "hither-status", "dev": "", "rol": "admin"}),
    ],
)
def test_a_token_says_who_calls_and_how_long_it_is_good(caller: Caller, named: dict[str, str]) -> None:
    found = claims(TokenIssuer(KEYS.private_pem, "c1", CLOCK).issue(caller, ttl_s=60))

    now_s = CLOCK.now_ms() // 1000
    assert found.pop("jti")
    assert found == {"iss": "hither", "aud": "c1", "iat": now_s, "exp": now_s + 60, **named}


@pytest.mark.parametrize(
    "caller",
    [
        Caller(Role.USER, user_id="alice", device_id="phone"),
        Caller(Role.SERVICE, service="edge"),
        Caller(Role.ADMIN, service="hither-status"),
    ],
)
def test_a_verifier_finds_the_caller_in_a_token(caller: Caller) -> None:
    token = TokenIssuer(KEYS.private_pem, "c1", CLOCK).issue(caller, ttl_s=60)

    assert TokenVerifier(KEYS.public_pem, "c1", CLOCK).verify(token) == caller


def test_no_two_tokens_are_alike() -> None:
    issuer = TokenIssuer(KEYS.private_pem, "c1", CLOCK)

    assert issuer.issue(Caller(Role.ADMIN, service="a"), 60) != issuer.issue(Caller(Role.ADMIN, service="a"), 60)


@pytest.mark.parametrize("caller", [ANONYMOUS, Caller(Role.USER), Caller(Role.SERVICE, user_id="alice")])
def test_who_has_no_name_gets_no_token(caller: Caller) -> None:
    with pytest.raises(ValueError, match="names"):
        TokenIssuer(KEYS.private_pem, "c1", CLOCK).issue(caller, 60)


def test_a_key_of_another_kind_is_refused() -> None:
    other = ec.generate_private_key(ec.SECP256R1())
    pem = other.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

    with pytest.raises(ValueError, match="Ed25519"):
        TokenIssuer(pem, "c1", CLOCK)


def test_a_refresh_token_survives_being_written_down() -> None:
    token = RefreshToken.of_new_session()

    assert RefreshToken.parse(str(token)) == token


def test_the_next_refresh_token_is_of_the_same_session_and_has_another_secret() -> None:
    token = RefreshToken.of_new_session()

    assert token.next().session_id == token.session_id
    assert token.next().hash() != token.hash()
