"""An FCM of the test, with the token endpoint of Google's OAuth 2.0 beside it: it checks what the real ones check, and answers as
they do.

Any registration token is good that does not begin with "bad"; `gone` are those of apps that were taken off their phones,
`foreign` those of another project.
"""

import json
import re
from functools import cache
from typing import Any, Final
from urllib.parse import parse_qs

import jwt
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from discovery.clock import Clock
from services.push.providers.settings import PushProviderSettings
from tests.support.certs import Pki, put
from tests.support.push.behaviour import HANG, Behaviour
from tests.support.push.server import Accepted, Count, PushServer, Reply, Request

PROJECT: Final = "hither-test"
EMAIL: Final = "push@hither-test.iam.gserviceaccount.com"
KEY_ID: Final = "5f1d2c3b"
SCOPE: Final = "https://www.googleapis.com/auth/firebase.messaging"
GRANT: Final = "urn:ietf:params:oauth:grant-type:jwt-bearer"
_FCM_ERROR: Final = "type.googleapis.com/google.firebase.fcm.v1.FcmError"
_BAD_REQUEST: Final = "type.googleapis.com/google.rpc.BadRequest"
_SEND: Final = f"/v1/projects/{PROJECT}/messages:send"
_TTL: Final = re.compile(r"\d+(\.\d{1,9})?s")
_STATUS: Final = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    429: "RESOURCE_EXHAUSTED",
    500: "INTERNAL",
    503: "UNAVAILABLE",
}


class FcmServer(PushServer):
    """See the module. `token_life_s` is how long its access tokens hold."""

    def __init__(
        self, pki: Pki, *, clock: Clock | None = None, max_streams: int = 100, token_life_s: int = 3599
    ) -> None:
        super().__init__(pki, clock=clock, max_streams=max_streams)
        self.gone: set[str] = set()
        self.foreign: set[str] = set()
        self.revoked: set[str] = set()
        """Access tokens that are not taken any more."""
        self.issued: dict[str, float] = {}
        """Access tokens, and when they run out (seconds since 1970)."""
        self.token_requests: list[Reply] = []
        self.token_behaviour: Reply | None = None
        """What the token endpoint answers, whatever it is asked. None: as it should."""
        self.token_hangs = False
        """Whether the token endpoint answers nothing."""
        self.token_life_s = token_life_s
        self._token_asking = Count()
        self._key = _account_key()

    @property
    def settings(self) -> PushProviderSettings:
        """See PushServer."""
        file = self.pki.folder / "service-account.json"
        pem = self._key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
        account = {
            "type": "service_account",
            "project_id": PROJECT,
            "private_key_id": KEY_ID,
            "private_key": pem,
            "client_email": EMAIL,
            "token_uri": f"{self.url}/token",
        }
        put(file, json.dumps(account).encode())
        return PushProviderSettings(fcm_credentials_file=str(file), fcm_url=self.url, ca_file=self.ca_file)

    def token(self, request: Request) -> str | None:
        """See PushServer."""
        if request.path == "/token":
            return None
        try:
            return str(json.loads(request.body)["message"]["token"])
        except (ValueError, KeyError, TypeError):
            return ""

    def behaviour(self, request: Request) -> Behaviour | None:
        """See PushServer."""
        if request.path != "/token":
            return super().behaviour(request)
        self._token_asking.add_one()
        return HANG if self.token_hangs else None

    async def until_token_asked(self, count: int) -> None:
        """Returns once the token endpoint has been asked that often since the start."""
        await self._token_asking.reaches(count)

    def judge(self, request: Request) -> Reply:
        """See PushServer."""
        if request.path == "/token":
            self.token_requests.append(self._grant(request) if self.token_behaviour is None else self.token_behaviour)
            return self.token_requests[-1]
        if request.method != "POST" or request.path != _SEND:
            return _error(404, "NOT_FOUND")
        if not self._known(request.headers.get("authorization", "")):
            return _error(401, "UNAUTHENTICATED")
        try:
            message = json.loads(request.body)["message"]
        except (ValueError, KeyError, TypeError):
            return _error(400, "INVALID_ARGUMENT")
        return self._judge_message(request, message)

    def error_body(self, status: int, reason: str) -> bytes:
        """See PushServer."""
        return _error(status, reason).body

    def _judge_message(self, request: Request, message: dict[str, Any]) -> Reply:
        token = message.get("token")
        if not isinstance(token, str) or not token or token.startswith("bad"):
            said = "The registration token is not a valid FCM registration token"
            return _error(400, "INVALID_ARGUMENT", said)
        if field := _wrong_field(message):
            return _error(400, "INVALID_ARGUMENT", f"Invalid value at '{field}'", field)
        if token in self.foreign:
            return _error(403, "SENDER_ID_MISMATCH")
        if token in self.gone:
            return _error(404, "UNREGISTERED")
        self.accept(Accepted(token, request.headers, message, request.connection))
        return Reply(200, json.dumps({"name": f"projects/{PROJECT}/messages/0:{len(self.accepted)}"}).encode())

    def _known(self, authorization: str) -> bool:
        kind, _, token = authorization.partition(" ")
        known = kind == "Bearer" and token in self.issued and token not in self.revoked
        return known and self.clock.now_ms() / 1000 < self.issued[token]

    def _grant(self, request: Request) -> Reply:
        form = parse_qs(request.body.decode("ascii", "replace"))
        if request.method != "POST" or form.get("grant_type") != [GRANT]:
            return Reply(400, b'{"error":"unsupported_grant_type"}')
        if not self._signed(form.get("assertion", [""])[0]):
            return Reply(400, b'{"error":"invalid_grant","error_description":"Invalid JWT Signature."}')
        token = f"ya29.{len(self.issued)}"
        self.issued[token] = self.clock.now_ms() / 1000 + self.token_life_s
        answer = {"access_token": token, "expires_in": self.token_life_s, "token_type": "Bearer"}
        return Reply(200, json.dumps(answer).encode())

    def _signed(self, assertion: str) -> bool:
        now_s = self.clock.now_ms() / 1000
        try:
            kid = jwt.get_unverified_header(assertion).get("kid")
            claims = jwt.decode(
                assertion,
                self._key.public_key(),
                ["RS256"],
                audience=f"{self.url}/token",
                issuer=EMAIL,
                options={"verify_iat": False, "verify_exp": False},
            )
        except jwt.InvalidTokenError:
            return False
        iat, exp = claims.get("iat", 0), claims.get("exp", 0)
        fresh = iat <= now_s + 60 and now_s < exp <= iat + 3600
        return bool(fresh and kid == KEY_ID and claims.get("scope") == SCOPE)


@cache
def _account_key() -> RSAPrivateKey:
    """One for all: it takes long to make."""
    return generate_private_key(65537, 2048)


def _wrong_field(message: dict[str, Any]) -> str:
    """The first field that FCM would not take; empty if there is none."""
    android = message.get("android", {})
    data = message.get("data", {})
    notification = message.get("notification", {})
    checks = {
        "message.data": all(isinstance(value, str) for value in data.values()) and "from" not in data,
        "message.notification": set(notification) <= {"title", "body", "image"},
        "message.android.priority": android.get("priority", "NORMAL") in ("NORMAL", "HIGH"),
        "message.android.ttl": _TTL.fullmatch(android.get("ttl", "0s")) is not None,
        "message.android.notification": isinstance(android.get("notification", {}).get("notification_count", 0), int),
        "message": set(message) <= {"token", "data", "notification", "android"}
        and len(json.dumps([data, notification])) <= 4096,
        "message.android": set(android) <= {"priority", "ttl", "collapse_key", "notification"},
    }
    return next((field for field, good in checks.items() if not good), "")


def _error(status: int, code: str, said: str = "", field: str = "") -> Reply:
    details: list[dict[str, Any]] = []
    if code not in _STATUS.values() or code == "INVALID_ARGUMENT":
        details.append({"@type": _FCM_ERROR, "errorCode": code})
    if field:
        details.append({"@type": _BAD_REQUEST, "fieldViolations": [{"field": field, "description": said}]})
    error = {"code": status, "message": said or code, "status": _STATUS.get(status, "UNKNOWN"), "details": details}
    return Reply(status, json.dumps({"error": error}).encode())
