"""A browsers' push service of the test: it checks what the real ones check, and reads with the subscriber's key what they cannot.

`subscription(name)` is what a browser would give its app; `gone` are endpoints that hold no more.
"""

import json
import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

import jwt
from cryptography.hazmat.primitives.asymmetric.ec import (
    SECP256R1,
    EllipticCurvePrivateKey,
    EllipticCurvePublicKey,
    generate_private_key,
)
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from discovery.clock import Clock
from services.push.providers.settings import PushProviderSettings
from tests.support.certs import Pki, put
from tests.support.push.rfc8291 import NotForUs, decrypt, from_base64url, point, to_base64url
from tests.support.push.server import Accepted, PushServer, Reply, Request

SUBJECT: Final = "mailto:push@hither.example"
MOST_BYTES: Final = 4096
_DAY_S: Final = 24 * 3600
_VAPID: Final = re.compile(r"vapid t=([\w.-]+), ?k=([\w-]+)")
_TOPIC: Final = re.compile(r"[A-Za-z0-9_-]{1,32}")
_URGENCIES: Final = ("very-low", "low", "normal", "high")


@dataclass(frozen=True, slots=True)
class Subscriber:
    """A browser's keys."""

    key: EllipticCurvePrivateKey
    auth: bytes


class WebPushServer(PushServer):
    """See the module."""

    def __init__(self, pki: Pki, *, clock: Clock | None = None, max_streams: int = 100) -> None:
        super().__init__(pki, clock=clock, max_streams=max_streams)
        self.gone: set[str] = set()
        self.authorizations: set[str] = set()
        """Good ones."""
        self._subscribers: dict[str, Subscriber] = {}
        self._key = generate_private_key(SECP256R1())

    @property
    def settings(self) -> PushProviderSettings:
        """See PushServer."""
        file = self.pki.folder / "vapid.pem"
        put(file, self._key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        return PushProviderSettings(
            vapid_key_file=str(file),
            vapid_subject=SUBJECT,
            web_hosts="127.0.0.1",
            web_ports=str(urlsplit(self.url).port),
            ca_file=self.ca_file,
        )

    def take_key_of(self, other: "WebPushServer") -> None:
        """Takes pushes of the app that the other server's settings are for."""
        self._key = other._key

    def endpoint(self, name: str) -> str:
        """The address of a subscriber of that name."""
        return f"{self.url}/push/{name}"

    def subscription(self, name: str) -> str:
        """A browser subscribes: the token of its device."""
        subscriber = Subscriber(generate_private_key(SECP256R1()), name.encode().ljust(16, b"-")[:16])
        self._subscribers[f"/push/{name}"] = subscriber
        keys = {"p256dh": to_base64url(point(subscriber.key.public_key())), "auth": to_base64url(subscriber.auth)}
        return json.dumps({"endpoint": self.endpoint(name), "expirationTime": None, "keys": keys})

    def token(self, request: Request) -> str | None:
        """See PushServer."""
        return self.url + request.path

    def judge(self, request: Request) -> Reply:
        """See PushServer."""
        subscriber = self._subscribers.get(request.path)
        if subscriber is None:
            return Reply(404)
        if self.token(request) in self.gone:
            return Reply(410)
        if not self._signed(request.headers.get("authorization", "")):
            return Reply(403)
        if len(request.body) > MOST_BYTES:
            return Reply(413)
        if request.method != "POST" or not _well_formed(request):
            return Reply(400)
        try:
            payload = json.loads(decrypt(request.body, subscriber.key, subscriber.auth))
        except NotForUs:
            return Reply(400)
        self.accept(Accepted(self.url + request.path, request.headers, payload, request.connection))
        return Reply(201, headers={"location": f"{self.url}/message/{len(self.accepted)}"})

    def error_body(self, status: int, reason: str) -> bytes:
        """See PushServer."""
        return reason.encode()

    def _signed(self, authorization: str) -> bool:
        found = _VAPID.fullmatch(authorization)
        if found is None or found[2] != to_base64url(point(self._key.public_key())):
            return False
        try:
            key = EllipticCurvePublicKey.from_encoded_point(SECP256R1(), from_base64url(found[2]))
            claims = jwt.decode(found[1], key, ["ES256"], audience=self.url, options={"verify_exp": False})
        except (ValueError, jwt.InvalidTokenError):
            return False
        now_s = self.clock.now_ms() / 1000
        if not now_s < claims.get("exp", 0) <= now_s + _DAY_S or claims.get("sub") != SUBJECT:
            return False
        self.authorizations.add(authorization)
        return True


def _well_formed(request: Request) -> bool:
    headers = request.headers
    return (
        headers.get("content-encoding") == "aes128gcm"
        and headers.get("ttl", "").isdigit()
        and headers.get("urgency", "normal") in _URGENCIES
        and ("topic" not in headers or _TOPIC.fullmatch(headers["topic"]) is not None)
    )
