"""Opens the push providers that the settings name."""

import re
import ssl
from collections.abc import Mapping
from typing import Final
from urllib.parse import urlsplit

from discovery.clock import Clock, SystemClock
from services.ports.push_provider import PushProvider
from services.ports.push_store import Platform
from services.push.providers.apns import ApnsKey, ApnsProvider
from services.push.providers.connections import trusting
from services.push.providers.fcm import FcmProvider, service_account
from services.push.providers.keys import ProviderSettingsError, read_json, read_p256_key
from services.push.providers.settings import PushProviderSettings
from services.push.providers.web import WebHosts, WebPushProvider, vapid_key

_NAME: Final = re.compile(r"[A-Za-z0-9.-]{1,200}")


def open_providers(settings: PushProviderSettings, clock: Clock | None = None) -> Mapping[Platform, PushProvider]:
    """The providers whose key files are set; none is asked anything yet. Whoever opens them closes them. Call it in the loop in
    which they are to run. Raises ProviderSettingsError.
    """
    clock = clock or SystemClock()
    _check_numbers(settings)
    tls = _tls(settings)
    providers: dict[Platform, PushProvider] = {}
    if settings.apns_key_file:
        providers[Platform.IOS] = _open_apns(settings, tls, clock)
    if settings.fcm_credentials_file:
        providers[Platform.ANDROID] = _open_fcm(settings, tls, clock)
    if settings.vapid_key_file:
        providers[Platform.WEB] = _open_web(settings, tls, clock)
    return providers


def _open_apns(settings: PushProviderSettings, tls: ssl.SSLContext, clock: Clock) -> ApnsProvider:
    for name in ("apns_key_id", "apns_team_id", "apns_topic"):
        if not _NAME.fullmatch(getattr(settings, name)):
            raise ProviderSettingsError(
                f"{name}: it is needed beside apns_key_file, and has letters, digits, dots and dashes"
            )
    key = read_p256_key("apns_key_file", settings.apns_key_file)
    return ApnsProvider(
        ApnsKey(key, settings.apns_key_id, settings.apns_team_id),
        settings.apns_topic,
        _origin("apns_url", settings.apns_url),
        tls,
        connections=settings.connections,
        timeout_s=settings.attempt_timeout_s,
        clock=clock,
    )


def _open_fcm(settings: PushProviderSettings, tls: ssl.SSLContext, clock: Clock) -> FcmProvider:
    account = service_account("fcm_credentials_file", read_json("fcm_credentials_file", settings.fcm_credentials_file))
    return FcmProvider(
        account,
        _origin("fcm_url", settings.fcm_url),
        tls,
        connections=settings.connections,
        timeout_s=settings.attempt_timeout_s,
        clock=clock,
    )


def _open_web(settings: PushProviderSettings, tls: ssl.SSLContext, clock: Clock) -> WebPushProvider:
    key = vapid_key(read_p256_key("vapid_key_file", settings.vapid_key_file), settings.vapid_subject)
    return WebPushProvider(
        key,
        WebHosts.parse(settings.web_hosts, settings.web_ports),
        tls,
        connections=settings.connections,
        timeout_s=settings.attempt_timeout_s,
        clock=clock,
    )


def _check_numbers(settings: PushProviderSettings) -> None:
    if settings.attempt_timeout_s <= 0:
        raise ProviderSettingsError("attempt_timeout_s: it must be more than zero")
    if settings.connections < 1:
        raise ProviderSettingsError("connections: there must be one at least")


def _tls(settings: PushProviderSettings) -> ssl.SSLContext:
    try:
        return trusting(settings.ca_file)
    except (OSError, ValueError) as error:
        raise ProviderSettingsError(f"ca_file: {settings.ca_file} holds no certificates that can be read") from error


def _origin(setting: str, url: str) -> str:
    """The URL, if it is one of a host over TLS and no more."""
    parts = urlsplit(url)
    try:
        known = parts.scheme == "https" and parts.hostname and parts.port != 0 and parts.path in ("", "/")
    except ValueError:
        known = False
    if not known or parts.username is not None or not url.isascii():
        raise ProviderSettingsError(f"{setting}: it must be https://HOST or https://HOST:PORT")
    return url
