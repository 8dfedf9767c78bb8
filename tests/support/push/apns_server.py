"""An APNs of the test: it checks what the real one checks, in its words, and answers as it does.

A device token is good if it is 64 hexadecimal digits; `gone` are those of apps that were taken off their phones, `foreign` those
of another app.
"""

import json
import re
from typing import Any, Final

import jwt
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from discovery.clock import Clock
from services.push.providers.settings import PushProviderSettings
from tests.support.certs import Pki, put
from tests.support.push.server import Accepted, PushServer, Reply, Request

TOPIC: Final = "org.example.hither"
KEY_ID: Final = "ABC123DEFG"
TEAM_ID: Final = "DEF123GHIJ"
MOST_BYTES: Final = 4096
_PATH: Final = "/3/device/"
_TOKEN: Final = re.compile(r"[0-9a-f]{64}")
_UUID: Final = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_HOUR_S: Final = 3600
_RENEWAL_S: Final = 20 * 60
_TYPES: Final = ("alert", "background")


class _Refused(Exception):
    def __init__(self, status: int, reason: str) -> None:
        super().__init__(status, reason)
        self.status, self.reason = status, reason


class ApnsServer(PushServer):
    """See the module."""

    def __init__(self, pki: Pki, *, clock: Clock | None = None, max_streams: int = 100) -> None:
        super().__init__(pki, clock=clock, max_streams=max_streams)
        self.gone: set[str] = set()
        self.foreign: set[str] = set()
        self.provider_tokens: list[str] = []
        """Good ones, each once, in the order in which they were first seen."""
        self.revoked: set[str] = set()
        """Provider tokens that are expired before their time."""
        self._key = generate_private_key(SECP256R1())
        self._seen: dict[str, int] = {}

    @property
    def settings(self) -> PushProviderSettings:
        """See PushServer."""
        file = self.pki.folder / f"AuthKey_{KEY_ID}.p8"
        put(file, self._key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        return PushProviderSettings(
            apns_key_file=str(file),
            apns_key_id=KEY_ID,
            apns_team_id=TEAM_ID,
            apns_topic=TOPIC,
            apns_url=self.url,
            ca_file=self.ca_file,
        )

    def token(self, request: Request) -> str | None:
        """See PushServer."""
        return request.path.removeprefix(_PATH)

    def judge(self, request: Request) -> Reply:
        """See PushServer."""
        headers = {"apns-id": request.headers.get("apns-id", "")}
        try:
            _check_path(request)
            self._check_provider(request.headers.get("authorization", ""))
            self._check_headers(request)
            payload = _payload(request.body)
            _check_type(request, payload)
            self._check_token(self.token(request) or "")
        except _Refused as refused:
            return Reply(refused.status, self.error_body(refused.status, refused.reason), headers)
        self.accept(Accepted(self.token(request) or "", request.headers, payload, request.connection))
        return Reply(200, b"", headers)

    def error_body(self, status: int, reason: str) -> bytes:
        """See PushServer."""
        told: dict[str, object] = {"reason": reason}
        if status == 410:
            told["timestamp"] = self.clock.now_ms()
        return json.dumps(told).encode()

    def _check_provider(self, authorization: str) -> None:
        kind, _, token = authorization.partition(" ")
        if kind != "bearer" or not token:
            raise _Refused(403, "MissingProviderToken")
        if token not in self._seen:
            self._seen[token] = self._issued_at(token)
        age_s = self.clock.now_ms() / 1000 - self._seen[token]
        if age_s > _HOUR_S or token in self.revoked:
            raise _Refused(403, "ExpiredProviderToken")
        if token in self.provider_tokens:
            return
        last = self.provider_tokens[-1] if self.provider_tokens else ""
        if last and last not in self.revoked and self._seen[token] - self._seen[last] < _RENEWAL_S:
            raise _Refused(429, "TooManyProviderTokenUpdates")
        self.provider_tokens.append(token)

    def _issued_at(self, token: str) -> int:
        try:
            head = jwt.get_unverified_header(token)
            claims = jwt.decode(token, self._key.public_key(), ["ES256"], options={"verify_iat": False})
        except jwt.InvalidTokenError:
            raise _Refused(403, "InvalidProviderToken") from None
        issued_at = claims.get("iat")
        if head.get("kid") != KEY_ID or claims.get("iss") != TEAM_ID or not isinstance(issued_at, int):
            raise _Refused(403, "InvalidProviderToken")
        if issued_at > self.clock.now_ms() / 1000 + 60:
            raise _Refused(403, "InvalidProviderToken")
        return issued_at

    def _check_headers(self, request: Request) -> None:
        headers = request.headers
        if headers.get("apns-topic") is None:
            raise _Refused(400, "MissingTopic")
        if headers["apns-topic"] != TOPIC:
            raise _Refused(400, "TopicDisallowed")
        if "apns-id" in headers and not _UUID.fullmatch(headers["apns-id"]):
            raise _Refused(400, "BadMessageId")
        if not headers.get("apns-expiration", "0").isdigit():
            raise _Refused(400, "BadExpirationDate")
        if headers.get("apns-priority", "10") not in ("1", "5", "10"):
            raise _Refused(400, "BadPriority")
        if len(headers.get("apns-collapse-id", "").encode()) > 64:
            raise _Refused(400, "BadCollapseId")

    def _check_token(self, token: str) -> None:
        if not _TOKEN.fullmatch(token):
            raise _Refused(400, "BadDeviceToken")
        if token in self.foreign:
            raise _Refused(400, "DeviceTokenNotForTopic")
        if token in self.gone:
            raise _Refused(410, "Unregistered")


def _check_path(request: Request) -> None:
    if request.method != "POST":
        raise _Refused(405, "MethodNotAllowed")
    if not request.path.startswith(_PATH):
        raise _Refused(404, "BadPath")


def _payload(body: bytes) -> dict[str, Any]:
    if not body:
        raise _Refused(400, "PayloadEmpty")
    if len(body) > MOST_BYTES:
        raise _Refused(413, "PayloadTooLarge")
    try:
        payload = json.loads(body)
    except ValueError:
        payload = None
    if not isinstance(payload, dict) or not isinstance(payload.get("aps"), dict):
        raise _Refused(400, "BadPayload")  # the real one takes the push, and the phone throws it away
    return payload


def _check_type(request: Request, payload: dict[str, Any]) -> None:
    kind, aps = request.headers.get("apns-push-type"), payload["aps"]
    if kind not in _TYPES:
        raise _Refused(400, "InvalidPushType")
    silent = aps.get("content-available") == 1 and not {"alert", "sound"} & aps.keys()
    if (kind == "background") != silent:
        raise _Refused(400, "InvalidPushType")
    if kind == "background" and request.headers.get("apns-priority", "10") == "10":
        raise _Refused(400, "BadPriority")
