"""What the push providers are told of Apple, Google and the browsers' push services."""

from dataclasses import dataclass
from typing import Final

WEB_HOSTS: Final = (
    "fcm.googleapis.com *.push.services.mozilla.com *.notify.windows.com web.push.apple.com *.web.push.apple.com"
)
"""Where the browsers in use have their push services."""


@dataclass(frozen=True, slots=True)
class PushProviderSettings:
    """Files and names from each provider's console. A provider whose key file is not set is not opened. Keys are in files of
    their own, and never here.
    """

    apns_key_file: str = ""
    """Apple's key for APNs (AuthKey_....p8). Empty: no wake-ups for iOS."""
    apns_key_id: str = ""
    """The key's id: ten characters."""
    apns_team_id: str = ""
    """The team that the key belongs to: ten characters."""
    apns_topic: str = ""
    """The app's bundle id."""
    apns_url: str = "https://api.push.apple.com"
    """Or https://api.sandbox.push.apple.com, for builds of an app that are signed for development."""
    fcm_credentials_file: str = ""
    """Google's JSON file of a service account that may send for the Firebase project. Empty: no wake-ups for Android."""
    fcm_url: str = "https://fcm.googleapis.com"
    """Where FCM is."""
    vapid_key_file: str = ""
    """The private key (P-256, PEM) that browsers know us by; with a new one all subscriptions are void. Empty: none for the web."""
    vapid_subject: str = ""
    """Whom a push service may write to about us: mailto:... or https://..."""
    web_hosts: str = WEB_HOSTS
    """Hosts of push services that a subscription may name, separated by spaces; with "*." before it, whatever is below that
    name. An endpoint anywhere else is refused without being asked: users choose endpoints."""
    web_ports: str = "443"
    """Ports that an endpoint may name, separated by spaces."""
    ca_file: str = ""
    """File (PEM) with the authorities of the providers' certificates, where a proxy has its own. Empty: the public ones."""
    attempt_timeout_s: float = 5.0
    """A provider that has not answered by then is taken as unreachable: the push is tried again later, on a new connection."""
    connections: int = 4
    """To each provider, at most; each carries up to 100 pushes at a time."""
