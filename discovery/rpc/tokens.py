"""Tokens that say who calls: access tokens that the directory signs, and resume tokens that the edges give out.

This room verifies access tokens; it never holds the key that signs them.
"""

from collections.abc import Mapping
from typing import Final

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from discovery.clock import Clock
from discovery.errors import Unauthenticated
from discovery.rpc.call import Caller, Role

ISSUER: Final = "hither"
RESUME_S: Final = 120
"""Life of a resume token, in seconds."""

_MAX_LENGTH: Final = 4096
_MIN_KEY_BYTES: Final = 32
_REQUIRED: Final = ["iss", "aud", "sub", "exp"]


class TokenVerifier:
    """Verifies the access tokens of one cluster (JWT, EdDSA).

    Raises ValueError if `public_key_pem` is not an Ed25519 key in PEM.
    """

    def __init__(self, public_key_pem: bytes, cluster: str, clock: Clock) -> None:
        key = load_pem_public_key(public_key_pem)
        if not isinstance(key, Ed25519PublicKey):
            raise ValueError("the verifying key is not an Ed25519 key")  # noqa: TRY004 (the value is wrong, not the type)
        self._key = key
        self._cluster = cluster
        self._clock = clock

    @property
    def cluster(self) -> str:
        """The cluster whose tokens it verifies."""
        return self._cluster

    def verify(self, token: str) -> Caller:
        """Who the token names. Raises Unauthenticated: EXPIRED_TOKEN for one of ours that has run out, BAD_TOKEN for any
        other that does not hold.
        """
        claims = _claims(token, self._key, "EdDSA", self._cluster, self._clock)
        subject, device = _text(claims, "sub"), _text(claims, "dev")
        role = _text(claims, "rol")
        if role == "user" and subject:
            return Caller(Role.USER, user_id=subject, device_id=device)
        if role == "service" and subject:
            return Caller(Role.SERVICE, service=subject)
        if role == "admin":
            return Caller(Role.ADMIN, service=subject)
        raise Unauthenticated("the token names nobody", reason="BAD_TOKEN")


class ResumeTokens:
    """Short-lived tokens with which a device returns after a drain, at any edge of the cluster (JWT, HS256).

    `key` is the cluster's secret, at least 32 bytes; ValueError otherwise.
    """

    def __init__(self, key: bytes, cluster: str, clock: Clock) -> None:
        if len(key) < _MIN_KEY_BYTES:
            raise ValueError(f"the resume key has {len(key)} bytes, fewer than {_MIN_KEY_BYTES}")
        self._key = key
        self._audience = f"{cluster}/resume"
        self._clock = clock

    def issue(self, user_id: str, device_id: str) -> str:
        """A token for the device, good for 120 s from now."""
        now_s = self._clock.now_ms() // 1000
        claims = {
            "iss": ISSUER,
            "aud": self._audience,
            "sub": user_id,
            "dev": device_id,
            "iat": now_s,
            "exp": now_s + RESUME_S,
        }
        return jwt.encode(claims, self._key, algorithm="HS256")

    def verify(self, token: str) -> Caller:
        """The device that the token names, as a USER. Raises Unauthenticated as TokenVerifier does."""
        claims = _claims(token, self._key, "HS256", self._audience, self._clock)
        subject = _text(claims, "sub")
        if not subject:
            raise Unauthenticated("the token names nobody", reason="BAD_TOKEN")
        return Caller(Role.USER, user_id=subject, device_id=_text(claims, "dev"))


def _claims(
    token: str, key: Ed25519PublicKey | bytes, algorithm: str, audience: str, clock: Clock
) -> Mapping[str, object]:
    """The claims of a token that holds."""
    if len(token) > _MAX_LENGTH:
        raise Unauthenticated("the token is too long", reason="BAD_TOKEN")
    try:
        claims: dict[str, object] = jwt.decode(
            token,
            key,
            algorithms=[algorithm],
            audience=audience,
            issuer=ISSUER,
            # The clock is ours, so the time is checked here.
            options={"require": _REQUIRED, "verify_exp": False, "verify_iat": False, "verify_nbf": False},
        )
    except (jwt.InvalidTokenError, ValueError):
        raise Unauthenticated("the token does not hold", reason="BAD_TOKEN") from None
    expires_s = claims["exp"]
    if not isinstance(expires_s, int | float):
        raise Unauthenticated("the token does not hold", reason="BAD_TOKEN")
    if clock.now_ms() >= expires_s * 1000:
        raise Unauthenticated("the token has run out", reason="EXPIRED_TOKEN")
    return claims


def _text(claims: Mapping[str, object], name: str) -> str:
    value = claims.get(name, "")
    return value if isinstance(value, str) else ""
