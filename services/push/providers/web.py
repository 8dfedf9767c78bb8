"""Wake-ups for browsers, by Web Push (RFC 8030), encrypted for the subscriber (RFC 8291) and signed with our key (RFC 8292).

A subscription comes from a user, and with it the address that we are to send to. So only addresses at known push services are
asked, over TLS; no redirect is followed; of an answer no more than some KB is read. What http_ece encrypts and py_vapid signs
is not done again here.
"""

import base64
import binascii
import json
import re
import ssl
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Final, Self
from urllib.parse import SplitResult, urlsplit

import http_ece
from cryptography.hazmat.primitives.asymmetric.ec import (
    SECP256R1,
    EllipticCurvePrivateKey,
    EllipticCurvePublicKey,
    generate_private_key,
)
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from py_vapid import Vapid02, VapidException

from discovery.clock import Clock, SystemClock
from services.ports.push_provider import Outcome, Urgency, Verdict, WakeUp
from services.push.providers.answers import retry, unanswered
from services.push.providers.connections import BUSY, CLOSED, Answer, Connections, NoAnswer
from services.push.providers.keys import ProviderSettingsError

PAYLOAD_MOST_BYTES: Final = 3993
"""Before it is encrypted: 4096 after."""
TTL_MOST_S: Final = 28 * 24 * 3600
VAPID_LIFE_S: Final = 12 * 3600
VAPID_RENEWED_S: Final = 3600
"""Before it runs out."""
ORIGINS_MOST: Final = 64
"""Push services that are connected to at a time."""
BAD_SUBSCRIPTION: Final = "BAD_SUBSCRIPTION"
NOT_ALLOWED: Final = "ENDPOINT_NOT_ALLOWED"

_ENDPOINT: Final = re.compile(r"https://[!-~]{1,2000}")
_HOST: Final = re.compile(r"(\*\.)?[a-z0-9][a-z0-9.-]*")
_POINT_BYTES: Final = 65
_AUTH_BYTES: Final = 16
_RECORD_BYTES: Final = 4096
_LATER: Final = frozenset({408, 425, 429})
_HTTPS_PORT: Final = 443


@dataclass(frozen=True, slots=True)
class WebHosts:
    """Where a subscription may point to."""

    exact: frozenset[str]
    below: tuple[str, ...]
    """Suffixes, from their dot on."""
    ports: frozenset[int]

    @classmethod
    def parse(cls, hosts: str, ports: str) -> Self:
        """Of the settings web_hosts and web_ports. Raises ProviderSettingsError."""
        names = hosts.lower().split()
        if not names or not all(_HOST.fullmatch(name) for name in names):
            raise ProviderSettingsError("web_hosts: it must be names of hosts, each with or without *. before it")
        if not ports.split() or not all(port.isascii() and port.isdigit() for port in ports.split()):
            raise ProviderSettingsError("web_ports: it must be numbers")
        exact = frozenset(name for name in names if not name.startswith("*."))
        below = tuple(name[1:] for name in names if name.startswith("*."))
        return cls(exact, below, frozenset(map(int, ports.split())))

    def allow(self, endpoint: SplitResult) -> bool:
        """Whether the endpoint is there."""
        host = endpoint.hostname or ""
        port = _HTTPS_PORT if endpoint.port is None else endpoint.port
        known = host in self.exact or host.endswith(self.below)
        return known and port in self.ports and endpoint.username is None and endpoint.password is None


@dataclass(frozen=True, slots=True)
class Subscription:
    """A browser's subscription. Its endpoint is as good as a secret."""

    endpoint: SplitResult = field(repr=False)
    public_key: bytes = field(repr=False)
    auth: bytes = field(repr=False)

    @classmethod
    def parse(cls, token: str) -> Self | None:
        """Of the JSON that a browser gives; None if it is none."""
        try:
            content = json.loads(token)
            endpoint, keys = content["endpoint"], content["keys"]
            if not isinstance(endpoint, str) or not _ENDPOINT.fullmatch(endpoint):
                return None
            parts = urlsplit(endpoint)
            public_key, auth = _decoded(keys["p256dh"]), _decoded(keys["auth"])
            EllipticCurvePublicKey.from_encoded_point(SECP256R1(), public_key)
            _ = parts.port, parts.netloc.encode("ascii")
        except (ValueError, TypeError, KeyError, RecursionError):
            return None
        if not parts.hostname or len(public_key) != _POINT_BYTES or len(auth) != _AUTH_BYTES:
            return None
        return cls(parts, public_key, auth)

    @property
    def origin(self) -> str:
        """Scheme, host and port."""
        port = self.endpoint.port
        suffix = "" if port in (None, _HTTPS_PORT) else f":{port}"
        return f"https://{self.endpoint.hostname}{suffix}"

    @property
    def path(self) -> str:
        """Path and query."""
        query = f"?{self.endpoint.query}" if self.endpoint.query else ""
        return (self.endpoint.path or "/") + query


@dataclass(frozen=True, slots=True)
class VapidKey:
    """What push services and browsers know us by, and whom they may write to."""

    vapid: Vapid02 = field(repr=False)
    subject: str

    @property
    def public(self) -> str:
        """What a browser subscribes with (applicationServerKey): base64url, without padding."""
        point = self.vapid.public_key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
        return base64.urlsafe_b64encode(point).rstrip(b"=").decode()

    def authorization(self, origin: str, expires_s: int) -> str:
        """The header that shows a push service of that origin, until then, that it is us."""
        signed: dict[str, str] = self.vapid.sign({"aud": origin, "exp": expires_s, "sub": self.subject})
        return signed["Authorization"]


def vapid_key(key: EllipticCurvePrivateKey, subject: str) -> VapidKey:
    """The key with its subject, tried once. Raises ProviderSettingsError."""
    found = VapidKey(Vapid02(private_key=key), subject)
    try:
        found.authorization("https://push.example", 0)
    except VapidException:
        raise ProviderSettingsError("vapid_subject: it must be mailto:ADDRESS or https://HOST") from None
    return found


class WebPushProvider:
    """The push services at `hosts`. See PushProvider; `connections` are to each of them."""

    def __init__(
        self,
        key: VapidKey,
        hosts: WebHosts,
        tls: ssl.SSLContext,
        *,
        connections: int,
        timeout_s: float,
        clock: Clock | None = None,
    ) -> None:
        self._key = key
        self._hosts = hosts
        self._tls = tls
        self._most = connections
        self._timeout_s = timeout_s
        self._clock: Clock = clock or SystemClock()
        self._services: OrderedDict[str, _Service] = OrderedDict()
        self._closed = False

    @property
    def application_server_key(self) -> str:
        """What a browser subscribes with."""
        return self._key.public

    async def send(self, wake_up: WakeUp) -> Verdict:
        """See PushProvider."""
        subscription = Subscription.parse(wake_up.token)
        if subscription is None:
            return Verdict(Outcome.GONE, BAD_SUBSCRIPTION)
        if not self._hosts.allow(subscription.endpoint):
            return Verdict(Outcome.REFUSED, NOT_ALLOWED)
        content = payload(wake_up)
        if len(content) > PAYLOAD_MOST_BYTES:
            return Verdict(Outcome.REFUSED, "PAYLOAD_TOO_LARGE")
        left = None
        try:
            if subscription.origin not in self._services:
                left = self._make_room()
            service = self._service(subscription.origin)
            headers = self._headers(wake_up) | {"authorization": self._authorization(subscription.origin, service)}
            answer = await service.connections.post(subscription.path, headers, encrypted(content, subscription))
        except NoAnswer as error:
            return unanswered(error)
        finally:
            if left is not None:
                await left.connections.close()
        return self._verdict(answer)

    async def close(self) -> None:
        """See PushProvider."""
        self._closed = True
        for service in list(self._services.values()):
            await service.connections.close()

    def _service(self, origin: str) -> "_Service":
        if origin not in self._services:
            connections = Connections(origin, self._tls, most=self._most, timeout_s=self._timeout_s, older=True)
            self._services[origin] = _Service(connections)
        self._services.move_to_end(origin)
        return self._services[origin]

    def _make_room(self) -> "_Service | None":
        """The service that is to be left for another one. Raises NoAnswer if all of them are busy, or we are closed."""
        if self._closed:
            raise NoAnswer(CLOSED)
        if len(self._services) < ORIGINS_MOST:
            return None
        for origin, service in self._services.items():
            if service.connections.idle:
                return self._services.pop(origin)
        raise NoAnswer(BUSY)

    def _authorization(self, origin: str, service: "_Service") -> str:
        now_s = self._clock.now_ms() // 1000
        if not now_s < service.expires_s - VAPID_RENEWED_S <= now_s + VAPID_LIFE_S:
            service.expires_s = now_s + VAPID_LIFE_S
            service.authorization = self._key.authorization(origin, service.expires_s)
        return service.authorization

    def _headers(self, wake_up: WakeUp) -> dict[str, str]:
        ttl_s = min(max((wake_up.expires_ms - self._clock.now_ms()) // 1000, 0), TTL_MOST_S)
        headers = {
            "ttl": str(ttl_s),
            "urgency": "high" if wake_up.urgency is Urgency.HIGH else "low",
            "content-encoding": "aes128gcm",
            "content-type": "application/octet-stream",
        }
        if wake_up.collapse_id:
            headers["topic"] = wake_up.collapse_id
        return headers

    def _verdict(self, answer: Answer) -> Verdict:
        if 200 <= answer.status < 300:
            return Verdict(Outcome.ACCEPTED)
        reason = f"HTTP_{answer.status}"
        if answer.status in (404, 410):
            return Verdict(Outcome.GONE, reason)
        if answer.status >= 500 or answer.status in _LATER:
            return retry(answer, reason, self._clock.now_ms())
        return Verdict(Outcome.REFUSED, reason)


@dataclass(slots=True)
class _Service:
    """A push service that is connected to, and what it knows us by."""

    connections: Connections
    authorization: str = field(default="", repr=False)
    expires_s: int = 0


def payload(wake_up: WakeUp) -> bytes:
    """The push as the app's service worker gets it."""
    content: dict[str, object] = {"data": dict(wake_up.data)}
    if not wake_up.silent:
        content |= {"title": wake_up.title, "body": wake_up.body}
    if wake_up.collapse_id:
        content["tag"] = wake_up.collapse_id
    if wake_up.badge is not None:
        content["badge"] = wake_up.badge
    return json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode(errors="replace")


def encrypted(content: bytes, subscription: Subscription) -> bytes:
    """The content for the subscriber's eyes only, with a key of its own."""
    body: bytes = http_ece.encrypt(
        content,
        private_key=generate_private_key(SECP256R1()),
        dh=subscription.public_key,
        auth_secret=subscription.auth,
        rs=_RECORD_BYTES,
        version="aes128gcm",
    )
    return body


def _decoded(text: object) -> bytes:
    """Of base64url, with or without padding. Raises ValueError."""
    if not isinstance(text, str) or not text.isascii():
        raise ValueError("no base64url")
    try:
        return base64.b64decode(text.rstrip("=") + "=" * (-len(text.rstrip("=")) % 4), b"-_", validate=True)
    except binascii.Error:
        raise ValueError("no base64url") from None
