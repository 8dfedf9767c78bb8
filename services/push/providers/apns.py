"""Wake-ups for iPhones and iPads, by APNs: Apple's HTTP/2 interface with a provider token.

Apple wants a provider token to be used for at least 20 minutes and at most 60. One is made when it is first needed, renewed
after TOKEN_RENEWED_S, and made anew before its time where APNs does not take it: once in TOKEN_KEPT_S at most.
"""

import json
import ssl
from dataclasses import dataclass, field
from typing import Any, Final

import jwt
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

from discovery.clock import Clock, SystemClock
from services.ports.push_provider import Outcome, Urgency, Verdict, WakeUp
from services.push.providers.answers import json_object, retry, unanswered, word
from services.push.providers.connections import Answer, Connections, NoAnswer

PAYLOAD_MOST_BYTES: Final = 4096
TOKEN_RENEWED_S: Final = 40 * 60
TOKEN_KEPT_S: Final = 20 * 60

_GONE: Final = frozenset({"BadDeviceToken", "DeviceTokenNotForTopic", "Unregistered", "ExpiredToken"})
"""ExpiredToken is the device's; the provider's is ExpiredProviderToken."""
_EXPIRED: Final = "ExpiredProviderToken"
_STALE: Final = frozenset({_EXPIRED, "InvalidProviderToken"})
_LATER: Final = frozenset({429, 500, 502, 503, 504})
_RESERVED: Final = "aps"


@dataclass(frozen=True, slots=True)
class ApnsKey:
    """What Apple knows us by. A P-256 key."""

    key: EllipticCurvePrivateKey = field(repr=False)
    key_id: str
    team_id: str


class ApnsProvider:
    """APNs for the app `topic`, at `url`. See PushProvider."""

    def __init__(
        self,
        key: ApnsKey,
        topic: str,
        url: str,
        tls: ssl.SSLContext,
        *,
        connections: int,
        timeout_s: float,
        clock: Clock | None = None,
    ) -> None:
        self._clock: Clock = clock or SystemClock()
        self._tokens = ApnsTokens(key, self._clock)
        self._topic = topic
        self._connections = Connections(url, tls, most=connections, timeout_s=timeout_s)

    async def send(self, wake_up: WakeUp) -> Verdict:
        """See PushProvider."""
        if not (wake_up.token.isascii() and wake_up.token.isalnum()):
            return Verdict(Outcome.GONE, "BadDeviceToken")
        body = payload(wake_up)
        if len(body) > PAYLOAD_MOST_BYTES:
            return Verdict(Outcome.REFUSED, "PayloadTooLarge")
        path, headers = f"/3/device/{wake_up.token}", self._headers(wake_up)
        token = self._tokens.current()
        try:
            answer = await self._connections.post(path, headers | {"authorization": f"bearer {token}"}, body)
            if answer.status == 403 and json_object(answer).get("reason") in _STALE:
                fresh = self._tokens.instead_of(token)
                if fresh != token:
                    answer = await self._connections.post(path, headers | {"authorization": f"bearer {fresh}"}, body)
        except NoAnswer as error:
            return unanswered(error)
        return self._verdict(answer)

    async def close(self) -> None:
        """See PushProvider."""
        await self._connections.close()

    def _headers(self, wake_up: WakeUp) -> dict[str, str]:
        at_once = wake_up.urgency is Urgency.HIGH and not wake_up.silent
        headers = {
            "apns-topic": self._topic,
            "apns-push-type": "background" if wake_up.silent else "alert",
            "apns-priority": "10" if at_once else "5",
            "apns-expiration": str(max(wake_up.expires_ms // 1000, 0)),
            "apns-id": wake_up.push_id,
        }
        if wake_up.collapse_id:
            headers["apns-collapse-id"] = wake_up.collapse_id
        return headers

    def _verdict(self, answer: Answer) -> Verdict:
        if answer.status == 200:
            return Verdict(Outcome.ACCEPTED, provider_id=answer.headers.get("apns-id", ""))
        reason = word(json_object(answer).get("reason"), answer)
        if answer.status == 410 or reason in _GONE:
            return Verdict(Outcome.GONE, reason)
        if answer.status in _LATER or reason == _EXPIRED:
            return retry(answer, reason, self._clock.now_ms())
        return Verdict(Outcome.REFUSED, reason)


class ApnsTokens:
    """The provider token, of which there is one at a time."""

    def __init__(self, key: ApnsKey, clock: Clock) -> None:
        self._key = key
        self._clock = clock
        self._token = ""
        self._made_s = 0.0
        self._issued_s = 0
        self._forced_s: float | None = None

    def current(self) -> str:
        """The one to use."""
        # By both clocks: one stands still while the machine sleeps, the other may jump.
        age_s = max(self._clock.monotonic_s() - self._made_s, self._clock.now_ms() // 1000 - self._issued_s)
        if not self._token or age_s >= TOKEN_RENEWED_S:
            self._make()
        return self._token

    def instead_of(self, refused: str) -> str:
        """The one to use where APNs did not take this one; the same one, if one was made for such a reason a short while ago."""
        now_s = self._clock.monotonic_s()
        if refused == self._token and (self._forced_s is None or now_s - self._forced_s >= TOKEN_KEPT_S):
            self._forced_s = now_s
            self._make()
        return self._token

    def _make(self) -> None:
        self._issued_s = self._clock.now_ms() // 1000
        self._made_s = self._clock.monotonic_s()
        claims = {"iss": self._key.team_id, "iat": self._issued_s}
        self._token = jwt.encode(claims, self._key.key, "ES256", {"kid": self._key.key_id})


def payload(wake_up: WakeUp) -> bytes:
    """The push as Apple has it: `aps`, and the ids for the app beside it."""
    aps: dict[str, Any] = {}
    if wake_up.silent:
        aps["content-available"] = 1
    else:
        aps["alert"] = _said(wake_up)
        aps["sound"] = "default"
        if conversation_id := wake_up.data.get("conversation_id"):
            aps["thread-id"] = conversation_id
    if wake_up.badge is not None:
        aps["badge"] = wake_up.badge
    data = {name: value for name, value in wake_up.data.items() if name != _RESERVED}
    return json.dumps({"aps": aps, **data}, ensure_ascii=False, separators=(",", ":")).encode(errors="replace")


def _said(wake_up: WakeUp) -> dict[str, str]:
    return {name: text for name, text in (("title", wake_up.title), ("body", wake_up.body)) if text}
