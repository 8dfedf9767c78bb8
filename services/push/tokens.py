"""What a token must look like for its provider to make anything of it. Pure. Whether it is a device's only the provider knows."""

import json
import re
from base64 import urlsafe_b64decode
from binascii import Error as Base64Error
from typing import Any, NoReturn
from urllib.parse import urlsplit

from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey

from discovery.errors import InvalidArgument, Violation
from services.ports.push_store import Platform

_IOS = re.compile(r"[0-9A-Fa-f]{64,200}")
_ANDROID = re.compile(r"[!-~]{1,4096}")
_AUTH_BYTES = 16


def checked(platform: Platform, token: str) -> str:
    """The token in the one way that it is kept in, so that a token that comes again is known. Raises InvalidArgument, which quotes
    nothing of it.
    """
    match platform:
        case Platform.IOS:
            return token.lower() if _IOS.fullmatch(token) else _refuse("must be 64 to 200 hexadecimal digits")
        case Platform.ANDROID:
            return token if _ANDROID.fullmatch(token) else _refuse("must be printable ASCII without spaces")
        case Platform.WEB:
            return _subscription(token)


def _subscription(token: str) -> str:
    """A PushSubscription, down to what a push needs of it: the endpoint and the keys."""
    try:
        given = json.loads(token)
    except (ValueError, RecursionError):
        _refuse("must be a subscription as JSON")
    if not isinstance(given, dict):
        _refuse("must be a subscription as JSON")
    keys = given.get("keys")
    if not isinstance(keys, dict):
        _refuse("must be a subscription with keys")
    _check_endpoint(given.get("endpoint"))
    _check_public_key(_decoded("p256dh", keys.get("p256dh")))
    if len(_decoded("auth", keys.get("auth"))) != _AUTH_BYTES:
        _refuse(f"must have {_AUTH_BYTES} bytes of base64url as keys.auth")
    kept = {"endpoint": given["endpoint"], "keys": {name: keys[name].rstrip("=") for name in ("auth", "p256dh")}}
    return json.dumps(kept, separators=(",", ":"))


def _check_endpoint(endpoint: Any) -> None:
    rule = "must have an https:// URL as endpoint, without a user in it"
    if not isinstance(endpoint, str) or not _ANDROID.fullmatch(endpoint):
        _refuse(rule)
    try:
        parts = urlsplit(endpoint)
        is_good = parts.scheme == "https" and bool(parts.hostname) and parts.username is None and parts.port != 0
    except ValueError:  # brackets or a port that are none
        is_good = False
    if not is_good:
        _refuse(rule)


def _check_public_key(key: bytes) -> None:
    try:
        EllipticCurvePublicKey.from_encoded_point(SECP256R1(), key)
    except ValueError:
        _refuse("must have a point of P-256 as keys.p256dh")


def _decoded(name: str, value: Any) -> bytes:
    rule = f"must have base64url as keys.{name}"
    if not isinstance(value, str) or not re.fullmatch(r"[A-Za-z0-9_-]{1,200}={0,2}", value):
        _refuse(rule)
    try:
        return urlsafe_b64decode(value.rstrip("=") + "=" * (-len(value.rstrip("=")) % 4))
    except (Base64Error, ValueError):
        _refuse(rule)


def _refuse(rule: str) -> NoReturn:
    raise InvalidArgument(f"token: {rule}", violations=(Violation("token", rule),))
