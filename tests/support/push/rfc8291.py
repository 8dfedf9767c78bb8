"""A browser's side of RFC 8291, written from the RFC on the primitives of `cryptography`: what the tests read pushes with. It
shares nothing with the library that encrypts them, and is no part of the product.
"""

import base64
import hashlib
import hmac
import struct
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.ec import (
    ECDH,
    SECP256R1,
    EllipticCurvePrivateKey,
    EllipticCurvePublicKey,
)
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

_SALT_BYTES: Final = 16
_HEADER_BYTES: Final = _SALT_BYTES + 5
_POINT_BYTES: Final = 65
_LAST: Final = b"\x02"


class NotForUs(ValueError):
    """It cannot be read with this key."""


def point(key: EllipticCurvePublicKey) -> bytes:
    """The key as both sides write it."""
    return key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)


def to_base64url(data: bytes) -> str:
    """Without padding."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def from_base64url(text: str) -> bytes:
    """With or without padding."""
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def decrypt(body: bytes, private_key: EllipticCurvePrivateKey, auth_secret: bytes) -> bytes:
    """The one record of the body. Raises NotForUs."""
    if len(body) <= _HEADER_BYTES + _POINT_BYTES:
        raise NotForUs("too short")
    salt = body[:_SALT_BYTES]
    record_size, id_length = struct.unpack("!LB", body[_SALT_BYTES:_HEADER_BYTES])
    sender, record = body[_HEADER_BYTES : _HEADER_BYTES + id_length], body[_HEADER_BYTES + id_length :]
    if id_length != _POINT_BYTES or len(record) > record_size:
        raise NotForUs("not as RFC 8291 has it")
    try:
        theirs = EllipticCurvePublicKey.from_encoded_point(SECP256R1(), sender)
        shared = private_key.exchange(ECDH(), theirs)
        info = b"WebPush: info\x00" + point(private_key.public_key()) + sender
        secret = _expand(_extract(auth_secret, shared), info, 32)
        pseudorandom = _extract(salt, secret)
        key = _expand(pseudorandom, b"Content-Encoding: aes128gcm\x00", 16)
        nonce = _expand(pseudorandom, b"Content-Encoding: nonce\x00", 12)
        padded = AESGCM(key).decrypt(nonce, record, None)
    except (ValueError, InvalidTag):
        raise NotForUs("it does not open") from None
    content, delimiter, padding = padded.rpartition(_LAST)
    if not delimiter or padding.strip(b"\x00"):
        raise NotForUs("no end of the last record")
    return content


def _extract(salt: bytes, material: bytes) -> bytes:
    return hmac.digest(salt, material, hashlib.sha256)


def _expand(key: bytes, info: bytes, length: int) -> bytes:
    """The first block of HKDF, which is all that is asked for."""
    return hmac.digest(key, info + b"\x01", hashlib.sha256)[:length]
