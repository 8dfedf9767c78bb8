"""Which providers are opened, and what is said of settings that cannot be used."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from services.ports.push_provider import Outcome
from services.ports.push_store import Platform
from services.push.providers.keys import ProviderSettingsError
from services.push.providers.opening import open_providers
from services.push.providers.settings import PushProviderSettings
from services.push.providers.web import WebPushProvider
from tests.support.push.all_servers import PushServers
from tests.support.push.rfc8291 import from_base64url
from tests.support.push.wake_ups import WakeUps


async def test_nothing_is_opened_that_is_not_set() -> None:
    assert open_providers(PushProviderSettings()) == {}


async def test_all_that_is_set_is_opened_and_works(tmp_path: Path) -> None:
    async with PushServers(tmp_path) as servers:
        providers = open_providers(servers.settings)
        wake_ups = WakeUps(servers.apns.clock)
        for server in (servers.apns, servers.fcm, servers.web):
            push = wake_ups.to(server, "ann")
            assert (await providers[push.platform].send(push)).outcome is Outcome.ACCEPTED
            await server.until(1)
        for provider in providers.values():
            await provider.close()


async def test_browsers_are_told_the_key_that_they_subscribe_with(tmp_path: Path) -> None:
    async with PushServers(tmp_path) as servers:
        provider = open_providers(servers.settings)[Platform.WEB]
    assert isinstance(provider, WebPushProvider)
    assert len(from_base64url(provider.application_server_key)) == 65


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("apns_key_file", "missing.p8"),
        ("apns_key_file", "garbage"),
        ("apns_key_file", "rsa.pem"),
        ("apns_key_file", "p384.pem"),
        ("apns_key_id", ""),
        ("apns_team_id", ""),
        ("apns_topic", ""),
        ("apns_topic", "org.exämple"),
        ("apns_url", "http://api.push.apple.com"),
        ("apns_url", "https://api.push.apple.com:port"),
        ("apns_url", "https://api.push.apple.com/3"),
        ("fcm_credentials_file", "missing.json"),
        ("fcm_credentials_file", "garbage"),
        ("fcm_credentials_file", "list.json"),
        ("fcm_credentials_file", "user.json"),
        ("fcm_credentials_file", "badkey.json"),
        ("fcm_url", "fcm.googleapis.com"),
        ("vapid_key_file", "missing.pem"),
        ("vapid_key_file", "garbage"),
        ("vapid_subject", ""),
        ("vapid_subject", "push@hither.example"),
        ("web_hosts", ""),
        ("web_hosts", "*"),
        ("web_hosts", "https://fcm.googleapis.com"),
        ("web_ports", "https"),
        ("ca_file", "missing.pem"),
        ("ca_file", "garbage"),
        ("attempt_timeout_s", 0.0),
        ("connections", 0),
    ],
)
async def test_what_cannot_be_used_is_said_by_the_name_of_its_setting(setting: str, value: Any, tmp_path: Path) -> None:
    _write_files(tmp_path)
    if isinstance(value, str) and setting.endswith("_file"):
        value = str(tmp_path / value)
    async with PushServers(tmp_path / "pki") as servers:
        settings = replace(servers.settings, **{setting: value})
    with pytest.raises(ProviderSettingsError, match=f"^{setting}: ") as raised:
        open_providers(settings)
    assert "SECRET" not in str(raised.value)


def test_no_setting_is_a_secret() -> None:
    assert not [name for name in asdict(PushProviderSettings()) if name.endswith(("password", "key", "token"))]


def _write_files(folder: Path) -> None:
    (folder / "pki").mkdir()
    (folder / "garbage").write_text("SECRET")
    (folder / "list.json").write_text('["SECRET"]')
    (folder / "user.json").write_text('{"type": "authorized_user", "refresh_token": "SECRET"}')
    account = '"project_id": "p", "client_email": "e", "token_uri": "https://h/t", "private_key": "SECRET"'
    (folder / "badkey.json").write_text(f"{{{account}}}")
    (folder / "rsa.pem").write_bytes(_pem(rsa.generate_private_key(65537, 2048)))
    (folder / "p384.pem").write_bytes(_pem(ec.generate_private_key(ec.SECP384R1())))


def _pem(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
