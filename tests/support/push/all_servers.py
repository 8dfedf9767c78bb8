"""All three push servers under one authority, and the settings that name them."""

from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Self

from services.push.providers.settings import PushProviderSettings
from tests.support.certs import Pki
from tests.support.push.apns_server import ApnsServer
from tests.support.push.fcm_server import FcmServer
from tests.support.push.web_push_server import WebPushServer


class PushServers:
    """APNs, FCM and a browsers' push service, while the context lasts. Keys are written to `folder`."""

    def __init__(self, folder: Path) -> None:
        pki = Pki(folder)
        self.apns = ApnsServer(pki)
        self.fcm = FcmServer(pki)
        self.web = WebPushServer(pki)
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        for server in (self.apns, self.fcm, self.web):
            await self._stack.enter_async_context(server)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    @property
    def settings(self) -> PushProviderSettings:
        """Settings for all of them."""
        apns, fcm, web = self.apns.settings, self.fcm.settings, self.web.settings
        return replace(
            apns,
            fcm_credentials_file=fcm.fcm_credentials_file,
            fcm_url=fcm.fcm_url,
            vapid_key_file=web.vapid_key_file,
            vapid_subject=web.vapid_subject,
            web_hosts=web.web_hosts,
            web_ports=web.web_ports,
        )
