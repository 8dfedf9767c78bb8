"""Wake-ups for devices of the tests' push servers."""

import hashlib
import uuid
from collections.abc import Mapping
from typing import Any

from discovery.clock import Clock
from services.ports.push_provider import Urgency, WakeUp
from services.ports.push_store import Platform
from tests.support.push.apns_server import ApnsServer
from tests.support.push.server import PushServer
from tests.support.push.web_push_server import WebPushServer

DATA = {"conversation_id": "d.2f1", "seq": "42"}


class WakeUps:
    """Makes them: to be delivered within a minute of the clock's now."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def ios(self, name: str, **wishes: Any) -> WakeUp:
        """For a phone of that name."""
        return self.of(Platform.IOS, apns_token(name), **wishes)

    def to(self, server: PushServer, name: str, **wishes: Any) -> WakeUp:
        """For a device of that name that the server knows."""
        if isinstance(server, ApnsServer):
            return self.ios(name, **wishes)
        if isinstance(server, WebPushServer):
            return self.of(Platform.WEB, server.subscription(name), **wishes)
        return self.of(Platform.ANDROID, name, **wishes)

    def of(
        self,
        platform: Platform,
        token: str,
        *,
        title: str = "Hither",
        body: str = "There is a message",
        urgency: Urgency = Urgency.HIGH,
        collapse_id: str = "conversation-7",
        badge: int | None = 3,
        data: Mapping[str, str] | None = None,
    ) -> WakeUp:
        """With this token."""
        return WakeUp(
            platform=platform,
            token=token,
            push_id=str(uuid.uuid4()),
            collapse_id=collapse_id,
            urgency=urgency,
            expires_ms=self._clock.now_ms() + 60_000,
            title=title,
            body=body,
            badge=badge,
            data=DATA if data is None else data,
        )


def apns_token(name: str) -> str:
    """A token as Apple's are, of the phone of that name."""
    return hashlib.sha256(name.encode()).hexdigest()
