"""Wake-ups for Android, by FCM: Google's HTTP v1 interface, with the access token of a service account.

The token is had from Google's token endpoint with an assertion that the account signs, once for all who need it at the same
time; it is renewed before it runs out, and before its time where FCM does not take it, once in TOKEN_KEPT_S at most.
"""

import asyncio
import json
import re
import ssl
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import urlencode, urlsplit

from google.auth import crypt
from google.auth import jwt as google_jwt
from google.oauth2.service_account import Credentials

from discovery.clock import Clock, SystemClock
from services.ports.push_provider import Outcome, Urgency, Verdict, WakeUp
from services.push.providers.answers import json_object, retry, unanswered, word
from services.push.providers.connections import Answer, Connections, NoAnswer
from services.push.providers.keys import ProviderSettingsError

SCOPE: Final = "https://www.googleapis.com/auth/firebase.messaging"
PAYLOAD_MOST_BYTES: Final = 4096
"""Of title, body and data together."""
TTL_MOST_S: Final = 28 * 24 * 3600
TOKEN_RENEWED_S: Final = 5 * 60
"""Before it runs out."""
TOKEN_KEPT_S: Final = 60.0

_PROJECT: Final = re.compile(r"[A-Za-z0-9.:_-]{1,100}")
_ASSERTION_S: Final = 3600
_GRANT: Final = "urn:ietf:params:oauth:grant-type:jwt-bearer"
_GONE: Final = frozenset({"UNREGISTERED", "SENDER_ID_MISMATCH"})
_LATER: Final = frozenset({"QUOTA_EXCEEDED", "UNAVAILABLE", "INTERNAL"})
_LATER_STATUS: Final = frozenset({401, 429, 500, 502, 503, 504})
_ANOTHER_PROVIDERS_KEY: Final = "THIRD_PARTY_AUTH_ERROR"
_TOKEN_FIELD: Final = "message.token"  # noqa: S105 (a name)


@dataclass(frozen=True, slots=True)
class ServiceAccount:
    """Whom we are for Google."""

    project_id: str
    email: str
    token_url: str
    signer: crypt.Signer = field(repr=False)


def service_account(setting: str, content: dict[str, Any]) -> ServiceAccount:
    """The account in Google's JSON file. Raises ProviderSettingsError."""
    try:
        credentials = Credentials.from_service_account_info(content, scopes=[SCOPE])  # type: ignore[no-untyped-call]
    except (ValueError, TypeError):  # says what is in the file
        credentials = None
    wanted = [content.get(name) for name in ("project_id", "client_email", "token_uri")]
    if credentials is None or not all(isinstance(value, str) and value for value in wanted):
        raise ProviderSettingsError(f"{setting}: it is not the key file of a service account")
    project_id, email, token_url = map(str, wanted)
    if not _PROJECT.fullmatch(project_id):
        raise ProviderSettingsError(f"{setting}: its project_id is none")
    if urlsplit(token_url).scheme != "https" or not token_url.isascii():
        raise ProviderSettingsError(f"{setting}: its token_uri is not over TLS")
    return ServiceAccount(project_id, email, token_url, credentials.signer)


class FcmProvider:
    """FCM for the account's project, at `url`. See PushProvider."""

    def __init__(
        self,
        account: ServiceAccount,
        url: str,
        tls: ssl.SSLContext,
        *,
        connections: int,
        timeout_s: float,
        clock: Clock | None = None,
    ) -> None:
        self._clock: Clock = clock or SystemClock()
        self._path = f"/v1/projects/{account.project_id}/messages:send"
        self._connections = Connections(url, tls, most=connections, timeout_s=timeout_s)
        self._tokens = AccessTokens(account, tls, timeout_s, self._clock)

    async def send(self, wake_up: WakeUp) -> Verdict:
        """See PushProvider."""
        if _size(wake_up) > PAYLOAD_MOST_BYTES:
            return Verdict(Outcome.REFUSED, "PAYLOAD_TOO_LARGE")
        body = message(wake_up, self._clock.now_ms())
        token = await self._tokens.current()
        if isinstance(token, Verdict):
            return token
        try:
            answer = await self._post(token, body)
            if answer.status == 401 and _reason(answer) != _ANOTHER_PROVIDERS_KEY:
                fresh = await self._tokens.instead_of(token)
                if isinstance(fresh, Verdict):
                    return fresh
                if fresh != token:
                    answer = await self._post(fresh, body)
        except NoAnswer as error:
            return unanswered(error)
        return self._verdict(answer)

    async def close(self) -> None:
        """See PushProvider."""
        await self._connections.close()
        await self._tokens.close()

    async def _post(self, token: str, body: bytes) -> Answer:
        headers = {"authorization": f"Bearer {token}", "content-type": "application/json; charset=utf-8"}
        return await self._connections.post(self._path, headers, body)

    def _verdict(self, answer: Answer) -> Verdict:
        if answer.status == 200:
            name = json_object(answer).get("name")
            return Verdict(Outcome.ACCEPTED, provider_id=name if isinstance(name, str) else "")
        reason = _reason(answer)
        if reason in _GONE or _about_token(answer):
            return Verdict(Outcome.GONE, reason)
        if reason == _ANOTHER_PROVIDERS_KEY:
            return Verdict(Outcome.REFUSED, reason)
        if reason in _LATER or answer.status in _LATER_STATUS:
            return retry(answer, reason, self._clock.now_ms())
        return Verdict(Outcome.REFUSED, reason)


class AccessTokens:
    """The access token, of which there is one at a time."""

    def __init__(self, account: ServiceAccount, tls: ssl.SSLContext, timeout_s: float, clock: Clock) -> None:
        self._account = account
        self._connections = Connections(account.token_url, tls, most=1, timeout_s=timeout_s, older=True)
        self._clock = clock
        self._token = ""
        self._expires_s = 0.0
        self._forced_s: float | None = None
        self._asking: asyncio.Task[str | Verdict] | None = None

    async def current(self) -> str | Verdict:
        """The one to use, or RETRY where there is none to be had."""
        if self._token and self._clock.monotonic_s() < self._expires_s - TOKEN_RENEWED_S:
            return self._token
        return await self._renewed()

    async def instead_of(self, refused: str) -> str | Verdict:
        """The one to use where FCM did not take this one; the same one, if one was had for such a reason a short while ago."""
        if self._asking is not None:
            return await self._renewed()
        now_s = self._clock.monotonic_s()
        if refused != self._token or (self._forced_s is not None and now_s - self._forced_s < TOKEN_KEPT_S):
            return await self.current()
        self._forced_s = now_s
        return await self._renewed()

    async def close(self) -> None:
        """Lets go of the token endpoint; who waits for a token gets RETRY."""
        await self._connections.close()
        if self._asking is not None:
            await self._asking

    async def _renewed(self) -> str | Verdict:
        if self._asking is None:
            self._asking = asyncio.create_task(self._ask())
            self._asking.add_done_callback(self._asked)
        return await asyncio.shield(self._asking)  # whoever began it may be cancelled, others wait for it too

    def _asked(self, _: asyncio.Task[str | Verdict]) -> None:
        self._asking = None

    async def _ask(self) -> str | Verdict:
        asked_s = self._clock.monotonic_s()
        form = urlencode({"grant_type": _GRANT, "assertion": self._assertion()}).encode()
        headers = {"content-type": "application/x-www-form-urlencoded"}
        try:
            answer = await self._connections.post(urlsplit(self._account.token_url).path, headers, form)
        except NoAnswer as error:
            return unanswered(error)
        content = json_object(answer)
        token, expires_in = content.get("access_token"), content.get("expires_in")
        if answer.status != 200 or not isinstance(token, str) or not isinstance(expires_in, int):
            # Whatever is wrong with the account is put right in Google's console; the pushes wait for it while they may.
            return retry(answer, word(content.get("error"), answer), self._clock.now_ms())
        self._token, self._expires_s = token, asked_s + expires_in
        return token

    def _assertion(self) -> str:
        now_s = self._clock.now_ms() // 1000
        account = self._account
        claims = {
            "iss": account.email,
            "scope": SCOPE,
            "aud": account.token_url,
            "iat": now_s,
            "exp": now_s + _ASSERTION_S,
        }
        signed: bytes = google_jwt.encode(account.signer, claims)  # type: ignore[no-untyped-call]
        return signed.decode("ascii")


def message(wake_up: WakeUp, now_ms: int) -> bytes:
    """The push as Google has it. A silent one is data only: the app gets it wherever it runs, and shows nothing by itself."""
    ttl_s = min(max((wake_up.expires_ms - now_ms) // 1000, 0), TTL_MOST_S)
    android: dict[str, Any] = {"priority": "HIGH" if wake_up.urgency is Urgency.HIGH else "NORMAL", "ttl": f"{ttl_s}s"}
    sent: dict[str, Any] = {"token": wake_up.token, "data": dict(wake_up.data), "android": android}
    if wake_up.collapse_id:
        android["collapse_key"] = wake_up.collapse_id
    if not wake_up.silent:
        sent["notification"] = {name: text for name, text in (("title", wake_up.title), ("body", wake_up.body)) if text}
        shown: dict[str, Any] = {}
        if wake_up.collapse_id:
            shown["tag"] = wake_up.collapse_id  # the key holds until it is delivered, the tag on the screen
        if wake_up.badge is not None:
            shown["notification_count"] = wake_up.badge
        if shown:
            android["notification"] = shown
    return json.dumps({"message": sent}, ensure_ascii=False, separators=(",", ":")).encode(errors="replace")


def _size(wake_up: WakeUp) -> int:
    data = sum(_bytes(name) + _bytes(value) for name, value in wake_up.data.items())
    return _bytes(wake_up.title) + _bytes(wake_up.body) + data


def _bytes(text: str) -> int:
    return len(text.encode(errors="replace"))


def _error(answer: Answer) -> dict[str, Any]:
    error = json_object(answer).get("error")
    return error if isinstance(error, dict) else {}


def _details(error: dict[str, Any]) -> list[dict[str, Any]]:
    details = error.get("details")
    return [detail for detail in details if isinstance(detail, dict)] if isinstance(details, list) else []


def _reason(answer: Answer) -> str:
    """FCM's own code, or else Google's status."""
    error = _error(answer)
    for detail in _details(error):
        if "errorCode" in detail:
            return word(detail["errorCode"], answer)
    return word(error.get("status"), answer)


def _about_token(answer: Answer) -> bool:
    """Whether the argument that FCM calls invalid is the token: it names the field or, without naming any, says so in words."""
    error = _error(answer)
    if answer.status != 400 or error.get("status") != "INVALID_ARGUMENT":
        return False
    named = [detail["fieldViolations"] for detail in _details(error) if isinstance(detail.get("fieldViolations"), list)]
    if named:
        fields = {
            violation.get("field") for violations in named for violation in violations if isinstance(violation, dict)
        }
        return fields == {_TOKEN_FIELD}
    return "registration token" in str(error.get("message", "")).lower()
