"""The three push servers, and a provider for each."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from services.ports.push_provider import PushProvider
from services.ports.push_store import Platform
from services.push.providers.opening import open_providers
from tests.support.certs import Pki
from tests.support.clock import ManualClock
from tests.support.push.apns_server import ApnsServer
from tests.support.push.fcm_server import FcmServer
from tests.support.push.server import PushServer
from tests.support.push.wake_ups import WakeUps
from tests.support.push.web_push_server import WebPushServer

KINDS = {Platform.IOS: ApnsServer, Platform.ANDROID: FcmServer, Platform.WEB: WebPushServer}


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def pki(tmp_path: Path) -> Pki:
    return Pki(tmp_path)


@pytest.fixture
async def apns(pki: Pki, clock: ManualClock) -> AsyncIterator[ApnsServer]:
    async with ApnsServer(pki, clock=clock) as server:
        yield server


@pytest.fixture
async def fcm(pki: Pki, clock: ManualClock) -> AsyncIterator[FcmServer]:
    async with FcmServer(pki, clock=clock) as server:
        yield server


@pytest.fixture
async def web(pki: Pki, clock: ManualClock) -> AsyncIterator[WebPushServer]:
    async with WebPushServer(pki, clock=clock) as server:
        yield server


@pytest.fixture(params=list(KINDS), ids=lambda platform: platform.name)
async def server(request: pytest.FixtureRequest, pki: Pki, clock: ManualClock) -> AsyncIterator[PushServer]:
    """Each of the three; it lets no more than 20 streams be open at a time."""
    async with KINDS[request.param](pki, clock=clock, max_streams=20) as server:
        yield server


@pytest.fixture
def wake_ups(clock: ManualClock) -> WakeUps:
    return WakeUps(clock)


@asynccontextmanager
async def provider_for(
    server: PushServer, clock: ManualClock, *, timeout_s: float = 5.0, connections: int = 2
) -> AsyncIterator[PushProvider]:
    """The provider that the server's settings open."""
    settings = replace(server.settings, attempt_timeout_s=timeout_s, connections=connections)
    [provider] = open_providers(settings, clock).values()
    try:
        yield provider
    finally:
        await provider.close()
