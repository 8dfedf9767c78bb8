"""Tokens as devices have them."""

import json
from base64 import urlsafe_b64encode

from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

IOS_TOKEN = "0123456789abcdef" * 4
ANDROID_TOKEN = "fcm:APA91b-x_1"
ENDPOINT = "https://push.example.com/send/abc"


def subscription(endpoint: object = ENDPOINT, **keys: object) -> str:
    """A browser's subscription as JSON, with these keys instead of good ones."""
    key = generate_private_key(SECP256R1()).public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    good = {"p256dh": base64url(key), "auth": base64url(b"a" * 16)}
    return json.dumps({"endpoint": endpoint, "expirationTime": None, "keys": {**good, **keys}})


def base64url(data: bytes) -> str:
    """Without padding, as browsers write it."""
    return urlsafe_b64encode(data).decode().rstrip("=")
