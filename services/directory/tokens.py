"""Tokens: access tokens that any process of the cluster can verify, and refresh tokens that only the directory knows."""

import re
import secrets
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from discovery.clock import Clock
from discovery.rpc.call import Caller, Role

_ISSUER: Final = "hither"
_ROLES: Final = {Role.USER: "user", Role.SERVICE: "service", Role.ADMIN: "admin"}
_SESSION_ID_BYTES = 16
_SECRET_BYTES = 32
_REFRESH_TOKEN = re.compile(r"(?P<session_id>[A-Za-z0-9_-]{1,64})\.(?P<secret>[A-Za-z0-9_-]{1,64})")


@dataclass(frozen=True, slots=True)
class KeyPair:
    """An Ed25519 key pair in PEM: PKCS #8 without a passphrase, and SubjectPublicKeyInfo."""

    private_pem: bytes
    public_pem: bytes


def generate_keys() -> KeyPair:
    """A new key pair. The private half signs access tokens and must stay secret; the public half verifies them."""
    key = Ed25519PrivateKey.generate()
    return KeyPair(
        private_pem=key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
        public_pem=key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
    )


class TokenIssuer:
    """Signs access tokens for a cluster.

    Raises ValueError if `private_key_pem` is not an Ed25519 key in PEM.
    """

    def __init__(self, private_key_pem: bytes, cluster: str, clock: Clock) -> None:
        key = load_pem_private_key(private_key_pem, password=None)
        if not isinstance(key, Ed25519PrivateKey):
            raise ValueError("the signing key is not an Ed25519 key")  # noqa: TRY004 (the value is wrong, not the type)
        self._key = key
        self._cluster = cluster
        self._clock = clock

    def issue(self, caller: Caller, ttl_s: int) -> str:
        """A token (JWT, EdDSA) that proves the caller to be who it says, for `ttl_s` seconds from now, rounded down to
        whole seconds. Raises ValueError for an anonymous caller, or one without the name that its role has.
        """
        role = _ROLES.get(caller.role)
        subject = caller.user_id if caller.role is Role.USER else caller.service
        if role is None or not subject:
            raise ValueError("a token names a user, a service or an operator")
        now_s = self._clock.now_ms() // 1000
        claims = {
            "iss": _ISSUER,
            "aud": self._cluster,
            "sub": subject,
            "dev": caller.device_id,
            "rol": role,
            "iat": now_s,
            "exp": now_s + ttl_s,
            "jti": secrets.token_urlsafe(12),
        }
        return jwt.encode(claims, self._key, algorithm="EdDSA")


@dataclass(frozen=True, slots=True)
class RefreshToken:
    """A refresh token: the session that it belongs to and 256 random bits. Only its hash is ever stored."""

    session_id: str
    secret: str

    @classmethod
    def of_new_session(cls) -> "RefreshToken":
        """The first token of a session that begins."""
        return cls(secrets.token_urlsafe(_SESSION_ID_BYTES), secrets.token_urlsafe(_SECRET_BYTES))

    @classmethod
    def parse(cls, text: str) -> "RefreshToken | None":
        """The token that `text` is the form of; None if it is none."""
        found = _REFRESH_TOKEN.fullmatch(text)
        return None if found is None else cls(found["session_id"], found["secret"])

    def next(self) -> "RefreshToken":
        """The token that takes this one's place."""
        return RefreshToken(self.session_id, secrets.token_urlsafe(_SECRET_BYTES))

    def __str__(self) -> str:
        return f"{self.session_id}.{self.secret}"

    def hash(self) -> bytes:
        """SHA-256 of the token; with 256 random bits in it, it needs neither salt nor slowness."""
        return sha256(str(self).encode()).digest()
